"""A tree of 27 texts: where DPO's probability goes, with a reference that rests or moves (Trust-Region alignment, arXiv 2404.09656).

The paper's own toy is not described well enough to rebuild; this one has three letters, texts of length three and a tanh RNN. "Out of data"
is the probability of all texts that are in no pair.
"""

from functools import partial
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.experiments.parts import many_seeds, results
from jaxalign.experiments.parts.until import Stop, never, until
from jaxalign.types import Batch, Outputs

LETTERS, LENGTH, EMBEDDING, HIDDEN = 3, 3, 8, 16
TEXTS = list(itertools.product(range(LETTERS), repeat=LENGTH))
PAIRS = {  # name -> [(chosen, rejected), ...]
    "A: one pair, nothing shared": [((0, 1, 2), (2, 0, 1))],
    "B: one pair with a common beginning": [((0, 1, 2), (0, 1, 0))],
    "C: B and one more pair": [((0, 1, 2), (0, 1, 0)), ((1, 1, 2), (1, 2, 0))],
}
RULES = {  # name -> (reference rule, its options)
    "frozen": ("frozen", {}),
    "soft 0.6, every step": ("soft", {"alpha": 0.6, "every_steps": 1}),
    "soft 0.6, every 64": ("soft", {"alpha": 0.6, "every_steps": 64}),
    "hard, every 64": ("hard", {"every_steps": 64}),
    "hard, every 256": ("hard", {"every_steps": 256}),
}
POINTS = 20  # of each curve


def run(
    workdir: Path,
    stop: Stop = never,
    *,
    seeds: int = 200,
    steps: int = 2000,
    beta: float = 0.1,
    learning_rate: float = 1e-3,
    first_seed: int = 0,
) -> dict:
    """data -> rule -> {"chosen", "rejected", "out_of_data": mean probabilities at the end, "curves": over the steps}; also in workdir.

    "standard_error" is that of "chosen", "to_frozen" the mean difference of "chosen" to the frozen reference and its standard error.

    Args:
      seeds: random starts, trained at once; with 20 the means of data C differ by 0.06 from one twenty to the next.
      steps: of Adam on the whole data.
      beta: of DPO.
      learning_rate: of Adam.
      first_seed: of the random starts.
    """
    at = sorted({round(share * steps / POINTS) for share in range(POINTS + 1)})
    found = {}
    with many_seeds.one_device():
        params = start(seeds, first_seed)
        for name, pairs in PAIRS.items():
            data = many_seeds.batch(pairs, seeds=seeds, paired=True)
            measured = {}
            for title, (rule, options) in until(stop, RULES.items()):
                optimizer = many_seeds.adam(seeds, learning_rate=learning_rate)
                measured[title] = many_seeds.train(
                    forward, params, data, objectives.bind("dpo", beta=beta), optimizer,
                    measure=partial(_masses, pairs=pairs, seeds=seeds), at=at, rule=rule, **options,
                )  # fmt: skip
            found[name] = {title: _summary(values, measured["frozen"]) for title, values in measured.items()}
    columns = ["data", "reference", "chosen (se)", "rejected", "out of data", "chosen, to frozen (se)"]
    rows = [[name, title, *_cells(values)] for name, every in found.items() for title, values in every.items()]
    title = f"Tree of 27 texts: probability of a chosen text and of all texts out of the data, mean of {seeds} seeds"
    panels = [(name, "step", "probability", partial(_draw, every)) for name, every in found.items()]
    results.write(Path(workdir), title=title, tables={f"after {steps} steps": (columns, rows)}, results=found, panels=panels)
    return found


def start(seeds: int, first_seed: int) -> dict:
    """Random parameters of S networks; row 3 of the table stands for the beginning of a text."""
    keys = jax.random.split(jax.random.key(first_seed), 4)
    return {
        "embed": 0.5 * jax.random.normal(keys[0], (seeds, LETTERS + 1, EMBEDDING)),
        "input": jax.random.normal(keys[1], (seeds, EMBEDDING, HIDDEN)) / EMBEDDING**0.5,
        "recurrent": jax.random.normal(keys[2], (seeds, HIDDEN, HIDDEN)) / HIDDEN**0.5,
        "output": jax.random.normal(keys[3], (seeds, HIDDEN, LETTERS)) / HIDDEN**0.5,
    }


def forward(params: dict, batch: Batch, step: jax.Array) -> Outputs:
    """Log-probs of texts of three letters that stand one after the other in every row."""
    rows = len(batch.tokens)
    texts = batch.tokens.reshape(rows, -1, LENGTH)
    before = jnp.concatenate([jnp.full_like(texts[:, :, :1], LETTERS), texts[:, :, :-1]], axis=2)
    x = jnp.einsum("sktv,sve,seh->skth", jax.nn.one_hot(before, LETTERS + 1), params["embed"], params["input"])
    hidden, logits = jnp.zeros((rows, texts.shape[1], HIDDEN)), []
    for t in range(LENGTH):
        hidden = jnp.tanh(x[:, :, t] + jnp.einsum("skh,shj->skj", hidden, params["recurrent"]))
        logits.append(jnp.einsum("skh,shv->skv", hidden, params["output"]))
    picked = jnp.sum(jax.nn.log_softmax(jnp.stack(logits, 2)) * jax.nn.one_hot(texts, LETTERS), axis=-1)
    return Outputs(picked.reshape(batch.tokens.shape))


def probabilities(params: dict, seeds: int) -> np.ndarray:
    """Of all texts, for every seed: float[S, 27]."""
    every = many_seeds.batch([[text] for text in TEXTS], seeds=seeds, paired=False)
    logps = forward(params, every, jnp.zeros((), jnp.int32)).logps
    return np.exp(np.asarray(logps).reshape(seeds, len(TEXTS), LENGTH).sum(2))


def _masses(params, *, pairs, seeds):
    """Probabilities of a chosen text, of a rejected one (means over pairs) and of all others, for every seed: float[3, S]."""
    p = probabilities(params, seeds)
    chosen, rejected = (p[:, [TEXTS.index(pair[side]) for pair in pairs]] for side in (0, 1))
    return np.stack([chosen.mean(1), rejected.mean(1), 1 - chosen.sum(1) - rejected.sum(1)])


def _summary(measured: dict[int, np.ndarray], frozen: dict[int, np.ndarray]) -> dict:
    means = np.stack(list(measured.values())).mean(2).T.tolist()
    curves = {"steps": list(measured)} | dict(zip(("chosen", "rejected", "out_of_data"), means, strict=True))
    chosen, difference = measured[max(measured)][0], measured[max(measured)][0] - frozen[max(measured)][0]
    errors = [float(x.std(ddof=1) / len(x) ** 0.5) for x in (chosen, difference)]
    return {name: curve[-1] for name, curve in curves.items() if name != "steps"} | {
        "standard_error": errors[0],
        "to_frozen": (float(difference.mean()), errors[1]),
        "curves": curves,
    }


def _cells(values: dict) -> list[str]:
    chosen = f"{values['chosen']:.3f} ({values['standard_error']:.3f})"
    difference, error = values["to_frozen"]
    return [chosen, f"{values['rejected']:.3f}", f"{values['out_of_data']:.3f}", f"{difference:+.3f} ({error:.3f})"]


def _draw(every: dict, axes) -> None:
    for number, (title, values) in enumerate(every.items()):
        curves = values["curves"]
        axes.plot(curves["steps"], curves["chosen"], color=f"C{number}", label=f"chosen, {title}")
        axes.plot(curves["steps"], curves["out_of_data"], color=f"C{number}", linestyle=":")
