"""A cell of the bench: one method trained with one learning rate and one seed on one rater's feedback, then measured on its own samples.

A step is compiled once for each method: the learning rate is a number in the optimizer's state.
"""

from collections import Counter
import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign.data.rows import loader
from jaxalign.evaluators.divergence import Divergence
from jaxalign.experiments.goldbench import feedback, golds, methods, online, world
from jaxalign.experiments.goldbench.claims import gold_of
from jaxalign.manifest import content_hash
from jaxalign.models import model as models
from jaxalign.rollout.source import Rows
from jaxalign.sampling.sampler import Sampler
from jaxalign.training import optim, reference, step
from jaxalign.training.forward import FORWARDS
from jaxalign.types import TrainState

WARMUP = 0.1
VERSION = 3  # of what a cell means; raised by hand, so that cells of different meanings do not meet in one table
PARTS, SAMPLES = 6, 6  # each seed has a part of the held-out prompts, with so many samples each
MEASURED = 1000  # what is added to a seed for the draws of its measurement
KL_SAMPLES = 3  # of each prompt, on which the KL is measured
KL_ROWS = 16
PROXY_AGREEMENT = 0.95


class Cell(NamedTuple):
    """What is trained and measured."""

    feedback: str  # GOLD-PERCENT, or proxyPAIRS
    method: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.feedback}_{self.method}_{self.learning_rate:g}_{self.seed}"


class Peak(NamedTuple):
    """The learning rate, as the last part of the optimizer's state."""

    learning_rate: jax.Array


def scale_by_peak() -> optax.GradientTransformation:
    """Updates times a learning rate that is part of the state."""
    return optax.GradientTransformation(
        lambda params: Peak(jnp.ones(())), lambda updates, state, _=None: (jax.tree.map(lambda u: u * state.learning_rate, updates), state)
    )


class Bench:
    """Trains and measures cells in one world; what it compiles serves all of them."""

    def __init__(self, made: world.World, *, steps: int):
        self.world, self.steps = made, steps
        self._runs: dict[str, tuple] = {}
        self._raters: dict[tuple, feedback.Judged] = {}
        self._base: dict[int, world.Answers] = {}
        self._samplers: dict[int, Sampler] = {}
        self._margins: dict[tuple, np.ndarray] = {}
        self._divergence = Divergence(world.look(made.model), rows=KL_ROWS)

    def run(self, cell: Cell) -> dict:
        """What was measured of a cell, see `measured`, with the cell and seconds."""
        began = time.process_time()
        params, last = self.trained(cell)
        middle = time.process_time()
        judge, proxy = self.rater(cell.feedback, cell.seed)
        found = self.measured(params, seed=cell.seed, gold=gold_of(cell.feedback), proxy=proxy)
        seconds = {"train": middle - began, "measure": time.process_time() - middle}
        if methods.named(cell.method).other:
            found["temperatures"] = (judge.temperature, self._other(cell).temperature)
        return {**cell._asdict(), **found, "loss": last.get("loss"), "seconds": seconds}

    def depends(self, method: str = "") -> dict:
        """What a cell of a method, or with "" the base, was measured with beside its own name."""
        found = {"version": VERSION, "base": self.world.identity, "samples": [PARTS, SAMPLES, KL_SAMPLES]}
        if not method:
            return found
        settings = dataclasses.asdict(methods.named(method))
        del settings["rates"]  # a cell has one, in its name
        return found | {"steps": self.steps, "method": content_hash(settings)}

    def base(self, seed: int) -> dict:
        """What the base is measured to be, with the same draws as the cells of a seed."""
        return {"feedback": "", "method": "base", "learning_rate": 0.0, "seed": seed, **self.measured(self.world.params, seed=seed)}

    def rater(self, name: str, seed: int) -> tuple[feedback.Judged, feedback.Proxy | None]:
        """The rater of a kind of feedback with the noise of a seed, and the proxy that it goes by, if it does."""
        if (name, seed) not in self._raters:
            source, percent = parse(name)
            train = self.world.train
            gold = golds.scored("sentiment" if source == "proxy" else source, self.world.prompt_texts["train"], train.texts)
            if source != "proxy":
                judge = feedback.judged(gold, agreement=percent / 100, seed=seed, stream=list(golds.GOLDS).index(source))
                self._raters[name, seed] = judge, None
            else:
                teacher = feedback.judged(gold, agreement=0.78, seed=seed)
                proxy = feedback.proxy(teacher, train, pairs=percent, seed=seed)
                how = {"agreement": PROXY_AGREEMENT, "seed": seed, "stream": len(golds.GOLDS)}
                judge = feedback.judged(proxy.scored(train.texts), **how)
                self._raters[name, seed] = judge, proxy
        return self._raters[name, seed]

    def trained(self, cell: Cell) -> tuple[dict, dict]:
        """(parameters, metrics of the last step)."""
        method = methods.named(cell.method)
        init, run = self._compiled(cell.method, method, method.reference_rule())
        source, carried = self._source(cell, method)
        heads = models.init_heads(self._model(method), jax.random.key(cell.seed)) if method.critic else {}
        state = init({**self._start(cell, method), **heads}).replace(source=carried)
        peak = Peak(jnp.full_like(state.opt_state[-1].learning_rate, cell.learning_rate))
        state, last = state.replace(opt_state=(*state.opt_state[:-1], peak)), {}
        for done in range(self.steps):
            state, _, batch = source.next(state, done)
            state, last = run(state, batch)
        return models.without_head(state.trainable), {name: float(value) for name, value in jax.device_get(last).items()}

    def _start(self, cell, method):
        """The parameters that a method starts from, which it may consume: the base, or what the method before it made of the base."""
        if method.after is None:
            return self.world.copied()
        name, rate = method.after
        return self.trained(cell._replace(method=name, learning_rate=rate))[0]

    def _source(self, cell: Cell, method: methods.Method):
        """(the source of the batches, what the state carries for it)."""
        judge, proxy = self.rater(cell.feedback, cell.seed)
        if not method.online:
            return Rows(loader.batches([self._data(cell, method, judge)], rows=online.ROWS, seed=cell.seed, steps=self.steps), 0), None

        def gold(prompts, texts):
            if proxy is not None:
                return proxy.scored([texts])[0]
            return golds.scored(parse(cell.feedback)[0], prompts, [[text] for text in texts])[:, 0]

        reward = online.utilities(judge, gold, seed=cell.seed)
        look, draw = world.look(self._model(method)), self._sampler(method.samples)
        return online.source(self.world, method, draw, look, reward, steps=self.steps, seed=cell.seed)

    def _sampler(self, lanes: int) -> Sampler:
        """The sampler with so many lanes for each prompt."""
        if lanes not in self._samplers:
            how = {"longest": world.LONGEST, "lanes": lanes}
            self._samplers[lanes] = world.sampler(self.world.model, self.world.tokenizer, **how)
        return self._samplers[lanes]

    def _model(self, method: methods.Method) -> models.Model:
        """The world's model, with the critic that the method needs."""
        return models.build(self.world.model.config, critic=method.critic) if method.critic else self.world.model

    def _data(self, cell, method, judge):
        """The feedback of a cell as prepared rows, with that of a second gold where the method has one."""
        margin, second, mismatched = None, None, method.reference_rule() not in ("precomputed", "none")
        if method.other:
            second = self._other(cell)
            judge = feedback.mixed(judge, second, share=method.share, seed=cell.seed)
            if method.share == 1:
                margin = self._margin(cell, second)
        return feedback.prepared(method.form, judge, self.world.train, mismatched=mismatched, margin=margin, other=second)

    def _margin(self, cell, second: feedback.Judged) -> np.ndarray:
        """What a reward model of all labels of the second gold gives to every response."""
        key = methods.named(cell.method).other, parse(cell.feedback)[1], cell.seed
        if key not in self._margins:
            every = feedback.proxy(second, self.world.train, pairs=second.gold.size, seed=cell.seed)
            self._margins[key] = every.scored(self.world.train.texts)
        return self._margins[key]

    def _other(self, cell) -> feedback.Judged:
        """The rater of the second gold of a cell's method."""
        return self.rater(f"{methods.named(cell.method).other}-{parse(cell.feedback)[1]}", cell.seed)[0]

    def _compiled(self, name: str, method: methods.Method, rule: str):
        if name not in self._runs:
            shape = {"learning_rate": 1.0, "warmup_steps": round(WARMUP * self.steps), "total_steps": self.steps, "min_lr_ratio": 0.0}
            schedule = optim.make_schedule("cosine", **shape)
            model = self._model(method)
            optimizer = optax.chain(
                optim.make_optimizer(optim.adamw, schedule, max_grad_norm=1.0, weight_decay=0.0, axes=model.axes), scale_by_peak()
            )
            objective, chosen = method.bound(), reference.RULES[rule]
            look = world.look(model, FORWARDS[objective.forward])
            moves = chosen.bind(**method.rule_options)

            def init(params):
                return step.init_state(params, optimizer, rule=chosen, seed=0, statistics=objective.statistics_names)

            self._runs[name] = init, step.make_train_step(look, objective, moves, optimizer, schedule)
        return self._runs[name]

    def measured(self, params: dict, *, seed: int, gold: str = "", proxy: feedback.Proxy | None = None) -> dict:
        """Of fresh samples for held-out prompts: every gold with its standard error over prompts, KL, length, end, diversity, win rate.

        "win" compares with a base sample of the same prompt and draw by the gold given. Prompts ("part" says which) and draws are those of
        the seed, the same for all policies, and samples of one prompt count as one observation.
        """
        own, base = self._answers(params, seed), None
        prompts = self.world.prompt_texts["held_out"][self._part(seed)]
        if params is not self.world.params:
            if seed not in self._base:
                self._base[seed] = self._answers(self.world.params, seed)
            base = self._base[seed]
        found = {"part": seed % PARTS} | {f"gold/{name}": _mean(golds.scored(name, prompts, own.texts)) for name in golds.GOLDS}
        if base is not None:
            ours, theirs = (golds.scored(gold.removeprefix("gold/"), prompts, some.texts) for some in (own, base))
            found["win"] = _mean((np.sign(ours - theirs) + 1) / 2)
            found["kl"] = self._kl(params, own)
        if proxy is not None:
            found |= {"proxy": _mean(proxy.scored(own.texts)), "proxy_of_base": _mean(proxy.scored(base.texts))}
        found |= {
            "length": _mean(np.array([[len(ids) for ids in row] for row in own.ids])),
            "ended": _mean(own.ended),
            "distinct_2": distinct_2([text for row in own.texts for text in row]),
        }
        return found

    def _answers(self, params, seed):
        how = {"samples": SAMPLES, "seed": MEASURED + seed}
        return world.answers(self._sampler(SAMPLES), self.world.tokenizer, params, self.world.held_out[self._part(seed)], **how)

    def _part(self, seed):
        """The held-out prompts of a seed: neighbours, as several prompts come from one story."""
        count, part = len(self.world.held_out), seed % PARTS
        return slice(count * part // PARTS, count * (part + 1) // PARTS)

    def _kl(self, params, own: world.Answers):
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(zero, params, self.world.params, (), jnp.zeros(2, jnp.uint32))
        prompts, ids = ([list(map(int, x)) for x in own.prompts], [ids[:KL_SAMPLES] for ids in own.ids])
        sums, counts = self._divergence.measure(state, prompts, ids, longest=world.LONGEST)
        return _mean((sums / counts)[:, None])


def parse(name: str) -> tuple[str, int]:
    """(gold, percent of agreement) of GOLD-PERCENT, ("proxy", pairs) of proxyPAIRS.

    Raises:
      ValueError: it is neither.
    """
    gold, _, percent = name.partition("-")
    if gold in golds.GOLDS and percent.isdecimal() and 50 < int(percent) < 100:
        return gold, int(percent)
    if name.startswith("proxy") and name.removeprefix("proxy").isdecimal() and int(name.removeprefix("proxy")):
        return "proxy", int(name.removeprefix("proxy"))
    raise ValueError(
        f"feedback {name!r} is neither GOLD-PERCENT, a gold of {', '.join(golds.GOLDS)} and the percent of labels that agree with it (51 "
        "to 99), nor proxyPAIRS, a reward model of so many pairs."
    )


def distinct_2(texts: list[str]) -> float:
    """The share of pairs of neighbouring words that differ, over all texts."""
    pairs = Counter(pair for own in map(golds.words, texts) for pair in zip(own, own[1:], strict=False))
    return len(pairs) / max(1, sum(pairs.values()))


def _mean(values: np.ndarray) -> tuple[float, float]:
    """(mean, standard error over prompts) of numbers [prompts, samples]."""
    by_prompt = np.asarray(values, np.float64).mean(1)
    return float(by_prompt.mean()), float(by_prompt.std(ddof=1) / len(by_prompt) ** 0.5)
