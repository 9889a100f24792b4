"""Does a contrastive goal-conditioned reward model see an error when it happens? Running arithmetic, whose best answer is known.

A prompt is a digit and four steps, an operator and a digit each; the answer is the result of every step modulo 10. In a wrong answer one
result is replaced by another digit, and the steps after it go on from there. Half of the errors come in the first half of an answer, so
after i of its n results no reward can tell right from wrong with an area under the ROC curve above 1/2 + i / (2 n).

A decoder of two layers learns the task, then judges pairs with `reward` and with `goal_reward` (arXiv 2407.13887).
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.data.rows import loader, pack, store
from jaxalign.experiments.parts import many_seeds, results
from jaxalign.experiments.parts.until import Stop, never, until
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.sampling.law import Law
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.stopping import Stopping
from jaxalign.scoring import goal, scorer, votes
from jaxalign.training import forward, optim, reference, step

STEPS = 4  # of a problem
PLUS, MINUS, TIMES, SEPARATOR, END, BEGIN = range(10, 16)  # tokens; those below are digits
MODEL = ModelConfig(
    family="gpt2", vocab_size=16, width=64, layers=2, heads=4, kv_heads=4, head_dim=16, mlp_width=256, max_positions=32, norm="layer",
    norm_eps=1e-5, activation="gelu_tanh", gated=False, qkv_bias=True, output_bias=True, mlp_bias=True, rotary_fraction=0.0,
    learned_positions=True, init_std=0.1,  # with 0.02 the loss is 0.6 where it is 0.0003 with this
)  # fmt: skip
PROMPT, ANSWER = 3 + 2 * STEPS, STEPS + 1  # tokens
ARMS = {
    "Bradley-Terry alone": ("reward", {}),
    "contrastive, all pairs": ("goal_reward", {"samples": 8}),
    "contrastive, average goal": ("goal_reward", {"samples": 8, "goal": "average"}),
    "contrastive, mean over the batch": ("goal_reward", {"samples": 8, "reduction": "log_of_batch_mean"}),
}
LANGUAGE = {"rows": 128, "learning_rate": 2e-3}
REWARD = {"rows": 64, "learning_rate": 1e-3}
OPTIMIZER = {"b1": 0.9, "b2": 0.95}
WARMUP_STEPS = 20
COUNTS = {"solutions": 20_000, "pairs": 16_000, "held_out": 2_000, "questions": 300}
SAMPLES, TEMPERATURE = 20, 1.5  # of the vote
READ_ROWS = 200


def run(
    workdir: Path,
    stop: Stop = never,
    *,
    seeds: int = 2,
    first_seed: int = 0,
    language_steps: int = 500,
    reward_steps: int = 3000,
    arms: tuple = tuple(ARMS),
) -> dict:
    """seed -> arm -> what `judged` gives, and "differences" of the other arms to the first, means over seeds; written into workdir too.

    Args:
      seeds, first_seed: random weights, problems and orders.
      language_steps: that the decoder learns right answers for, before it learns to judge pairs.
      reward_steps: of pairs.
      arms: names in ARMS, of which the first is what the others are compared with.

    Raises:
      ValueError: an arm that is none.
    """
    if not arms or (unknown := [arm for arm in arms if arm not in ARMS]):
        raise ValueError(f"experiment.arms: {unknown[0] if arms else 'nothing'!r} is no reward model; there are {', '.join(ARMS)}.")
    found = {}
    with many_seeds.one_device():
        for seed in range(first_seed, first_seed + seeds):
            found[str(seed)] = _of_seed(seed, arms, language_steps, reward_steps, stop)
    differences = {arm: _difference(found, arm, arms[0]) for arm in arms[1:]}
    everything = found | {"differences": differences}
    panels = [(f"seed {seed}", "result", "AUROC of the reward", partial(_draw, every)) for seed, every in found.items()]
    results.write(Path(workdir), title="Running arithmetic", tables=_tables(found, differences), results=everything, panels=panels)
    return everything


def _of_seed(seed: int, arms, language_steps: int, reward_steps: int, stop: Stop) -> dict:
    """Arm -> what `judged` gives, from one language model."""
    solved, pairs, held_out = (problems(COUNTS[name], (seed, i)) for i, name in enumerate(("solutions", "pairs", "held_out")))
    language, judge = models.build(MODEL), models.build(MODEL, reward_head="linear")
    solutions = rows(solved[0], solved[1][:, None], name="solutions")
    params = models.init(language, jax.random.key(seed))
    params, metrics = train(language, params, solutions, objectives.bind("sft"), steps=language_steps, seed=seed, **LANGUAGE)
    print(f"arithmetic: seed {seed}: the decoder has a loss of {metrics['loss']:.2g} nats per token")
    spoken = _spoken(language, params, seed, COUNTS["questions"], held_out=held_out)
    sets = [rows(x[0], np.stack(x[1:], axis=1), name=name, paired=True) for name, x in (("pairs", pairs), ("held_out", held_out))]
    found = {}
    for arm in until(stop, arms):
        name, options = ARMS[arm]
        start = {**jax.tree.map(jnp.copy, params), **models.init_heads(judge, jax.random.key(seed))}
        trained, metrics = train(judge, start, sets[0], objectives.bind(name, **options), steps=reward_steps, seed=seed, **REWARD)
        found[arm] = judged(judge, trained, *sets, spoken) | {"train": metrics}
        print(f"arithmetic: seed {seed}: {arm}: pairs in order {found[arm]['accuracy']:.3f}, AUROC {found[arm]['auroc'][-1]:.3f}")
    return found


def _difference(found: dict, arm: str, to: str) -> dict:
    """By how much the areas of an arm are above those of another, mean over seeds: after the last result, and at the end."""
    areas = np.array([[every[name]["auroc"] for name in (arm, to)] for every in found.values()])  # [seeds, 2, ANSWER]
    above = (areas[:, 0] - areas[:, 1])[:, [STEPS - 1, STEPS]]
    return {name: {"mean": float(x.mean()), "by seed": x.tolist()} for name, x in zip(("partial", "final"), above.T, strict=True)}


def _tables(found: dict, differences: dict) -> dict:
    results_of, vote_names = [f"r{i + 1}" for i in range(STEPS)] + ["END"], ("plain before", "plain after", "tokens saved")
    lines = [
        [seed, arm, f"{one['accuracy']:.3f}", *(f"{x:.3f}" for x in one["auroc"]), f"{one['cosine_auroc'][-1]:.3f}",
         *(f"{x:.2f}" for x in one["cosines"]), *(f"{one['votes'][name]:.1%}" for name in vote_names)]
        for seed, every in found.items() for arm, one in every.items()
    ]  # fmt: skip
    ceiling = ["", "best possible", "", *(f"{0.5 + (i + 1) / (2 * STEPS):.3f}" for i in range(STEPS)), "1.000", *[""] * 6]
    columns = ["seed", "reward model", "pairs in order", *(f"AUROC {x}" for x in results_of), "of the cosine", "right", "wrong",
               "vote right", "filtered", "tokens saved"]  # fmt: skip
    compared = [[arm, *(f"{one[name]['mean']:+.3f}" for name in ("partial", "final"))] for arm, one in differences.items()]
    return {
        "held-out pairs, and votes of 20 noisy answers": (columns, [*lines, ceiling]),
        "above the first, mean over seeds": (["reward model", "AUROC after the last result", "AUROC at the end"], compared),
    }


def _draw(every: dict, axes) -> None:
    for arm, one in every.items():
        axes.plot(range(1, ANSWER + 1), one["auroc"], marker="o", markersize=4, label=arm)
    axes.plot(range(1, ANSWER + 1), [0.5 + min(i, STEPS) / (2 * STEPS) for i in range(1, ANSWER + 1)], "k--", label="best possible")


def problems(count: int, seed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prompts, right answers, wrong answers): int32[count, PROMPT] and int32[count, ANSWER] twice."""
    draw = np.random.default_rng(seed)
    start, operators, digits = draw.integers(0, 10, count), draw.integers(0, 3, (STEPS, count)), draw.integers(0, 10, (STEPS, count))
    at, shift = draw.integers(0, STEPS, count), draw.integers(1, 10, count)  # of the error
    right, wrong = [start], [start]
    for i in range(STEPS):
        right.append(_result(right[-1], operators[i], digits[i]))
        wrong.append((_result(wrong[-1], operators[i], digits[i]) + np.where(at == i, shift, 0)) % 10)
    steps = [x for pair in zip(operators + PLUS, digits, strict=True) for x in pair]
    ends = {name: np.full(count, token) for name, token in (("begin", BEGIN), ("separator", SEPARATOR), ("end", END))}
    prompts = np.stack([ends["begin"], start, *steps, ends["separator"]], axis=1)
    answers = (np.stack([*results[1:], ends["end"]], axis=1) for results in (right, wrong))
    return tuple(x.astype(np.int32) for x in (prompts, *answers))


def _result(left, operator, right):
    return np.select([operator == 0, operator == 1], [left + right, left - right], left * right) % 10


def rows(prompts: np.ndarray, answers: np.ndarray, *, name: str, paired: bool = False) -> store.Prepared:
    """A prepared set in memory, a row for each prompt with its answers int32[n, K, ANSWER]; what follows END is left out."""
    count, responses, _ = answers.shape
    lengths = np.minimum((answers != END).cumprod(2).sum(2) + 1, ANSWER)
    pieces = [piece for g in range(count) for piece in (prompts[g], *(answers[g, k, : lengths[g, k]] for k in range(responses)))]
    offsets = np.cumsum([0, *(len(piece) for piece in pieces)])
    scored = np.concatenate([np.full(len(piece), i % (responses + 1) > 0, np.uint8) for i, piece in enumerate(pieces)])
    reward = np.where(np.arange(responses) > 0, 0.0, np.ones((count, responses))).astype(np.float32)
    groups = pack.Groups(
        np.concatenate(pieces).astype(np.int32), scored, offsets, reward, np.full(count, paired), np.ones((count, responses), bool)
    )
    meta = {"row_tokens": int(pack.group_tokens(groups, share_prompt=True).max()), "share_prompt": True, "tokenizer": "arithmetic"}
    return store.Prepared(Path("arithmetic") / name / "rows", meta, groups, np.arange(count, dtype=np.int32)[:, None], np.arange(count))


def train(model: models.Model, params: dict, prepared: store.Prepared, objective, *, rows, learning_rate, steps, seed) -> tuple[dict, dict]:
    """(parameters, metrics of the last step) after so many steps; `params` is consumed."""
    schedule = optim.make_schedule(
        "cosine", learning_rate=learning_rate, warmup_steps=min(WARMUP_STEPS, steps // 2), total_steps=steps, min_lr_ratio=0.0
    )
    optimizer = optim.make_optimizer(optim.adamw, schedule, max_grad_norm=1.0, weight_decay=0.0, axes=model.axes, **OPTIMIZER)
    look = partial(forward.next_token, model, dtype=jnp.float32, remat="none", attention="xla")
    run = step.make_train_step(look, objective, reference.RULES["none"].bind(), optimizer, schedule)
    state, metrics = step.init_state(params, optimizer, rule=reference.RULES["none"], seed=seed), {}
    for arrays in loader.iterate(loader.batches([prepared], rows=rows, seed=seed, steps=steps)):
        state, metrics = run(state, loader.to_device(arrays))
    return state.trainable, {name: float(value) for name, value in jax.device_get(metrics).items()}


def judged(model: models.Model, params: dict, good: store.Prepared, held_out: store.Prepared, answers: store.Prepared | None) -> dict:
    """What a reward model makes of held-out pairs, and of several answers to each question where they are given.

    "accuracy" of pairs (a tie counts half), "auroc" of the reward after each result and at the end, "cosine_auroc" likewise of the cosine
    with the goal, "cosines" of right and wrong answers at the end, and "votes", see `_votes`.
    """
    judge = scorer.of_model("reward model", model, params, weights="in memory", dtype=jnp.float32, attention="xla")
    options = {"rows": READ_ROWS, "quiet": True}
    aim = goal.of_answers(judge, good, **options)
    along = goal.along(judge, held_out, aim, **options)
    rewards, cosines = (np.stack([getattr(answer, name) for answer in along]) for name in ("rewards", "cosines"))
    right = np.array([answer.response == 0 for answer in along])
    margin = rewards[right, -1] - rewards[~right, -1]
    return {
        "accuracy": float(((np.sign(margin) + 1) / 2).mean()),
        "auroc": [votes.auroc(rewards[:, i], right) for i in range(ANSWER)],
        "cosine_auroc": [votes.auroc(cosines[:, i], right) for i in range(ANSWER)],
        "cosines": [float(cosines[right, -1].mean()), float(cosines[~right, -1].mean())],
        "votes": {} if answers is None else _votes(answers, goal.along(judge, answers, aim, **options)),
    }


def _votes(answers: store.Prepared, along: list[goal.Answer]) -> dict:
    """Shares of questions whose vote is right, before and after the filter, and of the tokens that it saves. All tokens count."""
    before, after, samples = [], [], answers.groups.responses
    tokens, truth = answers.groups, answers.groups.columns["truth"]
    cosines = {(answer.group, answer.response): answer.cosines for answer in along}
    for group in range(len(tokens)):
        said = [tokens.piece(group, 1 + k)[0] for k in range(samples)]
        given = [int(ids[STEPS - 1]) if len(ids) == ANSWER else None for ids in said]
        right = [answer == int(truth[group, 0]) for answer in given]
        before.append(votes.vote(given, right))
        after.append(votes.vote(given, right, [cosines[group, k] for k in range(samples)], skip=0))
    shares = {f"{name} {when}": float(np.mean([getattr(vote, name) for vote in found]))
              for when, found in (("before", before), ("after", after)) for name in ("plain", "optimistic")}  # fmt: skip
    return shares | {"tokens saved": sum(vote.saved for vote in after) / max(sum(vote.tokens for vote in after), 1)}


def _spoken(model: models.Model, params: dict, seed: int, count: int, *, held_out) -> store.Prepared:
    """Several noisy answers of the language model to each question, with the true result as the column "truth"."""
    prompts, right, _ = held_out
    how = {"law": Law(temperature=TEMPERATURE), "stopping": Stopping(max_new_tokens=ANSWER, ids=(END,))}
    sampler = Sampler(model, **how, seed=seed, places=32, lanes=SAMPLES, dtype=jnp.float32, attention="xla")
    answers = np.full((count, SAMPLES, ANSWER), END, np.int32)
    for sample in sampler.draw(params, prompts[:count].tolist(), samples=SAMPLES):
        answers[sample.prompt, sample.number, : len(sample.token_ids)] = sample.token_ids
    said = rows(prompts[:count], answers, name="samples")
    truth = np.repeat(right[:count, STEPS - 1 : STEPS], SAMPLES, axis=1).astype(np.float32)
    return said.with_columns({"truth": truth})
