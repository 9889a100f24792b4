"""Teacher hacking (arXiv 2502.02671): does a student that comes nearer to its teacher move away from the truth that the teacher imitates?

The truth, the oracle, is a language whose next-token distribution is known (`topics`). A teacher and a smaller student learn it from the
same texts, then the student is distilled from the teacher: on texts that the teacher wrote once (offline), or on fresh ones of the teacher
or of the student (online). Proxy is KL(teacher || student), golden KL(oracle || student), both of whole texts on prompts held out.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
from functools import partial
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign import objectives
from jaxalign.evaluators.hacking import Curve
from jaxalign.evaluators.sequence_kl import SequenceKL
from jaxalign.experiments.parts import hacking_tables, many_seeds, results, tiny_decoder
from jaxalign.experiments.parts.tiny_decoder import Size
from jaxalign.experiments.parts.topics import Language
from jaxalign.experiments.parts.until import Stop, check, never
from jaxalign.training import reference, step
from jaxalign.types import Batch

LANGUAGE = Language.draw(1234)
PROMPT, RESPONSE = LANGUAGE.prompt, LANGUAGE.response  # tokens
ROWS = 64  # texts per step
LEARNING_RATE, WARMUP_STEPS = 1e-3, 50
COUNTS = {"oracle": 2500, "prompts": 1000, "validation": 1024}
TEACHER_STEPS, TEACHER_EVERY, STUDENT_STEPS = 600, 100, 100  # of learning the oracle's texts
SCAN = 5  # steps per call, and the most by which samples of the student are older than its weights
TEACHER, STUDENT = (Size(LANGUAGE.vocabulary, PROMPT + RESPONSE, width) for width in (64, 48))


class Arm(NamedTuple):
    """Where the texts of a distillation come from, and what it minimises."""

    source: str  # who writes fresh texts whenever a prompt is visited, "teacher" or "student"; "fixed": the teacher once
    prompts: int = 1000
    generations: int = 1  # per prompt, of fixed texts
    student_share: float = 0.0  # of the calls of SCAN steps that the student writes the texts of, beside the fixed ones
    divergence: dict = {"divergence": "forward"}


ARMS = {
    "online_teacher": Arm("teacher"),
    "online_student": Arm("student"),
    "offline_1000x4": Arm("fixed", 1000, 4),
    "offline_1000x1": Arm("fixed"),
    "offline_200x5": Arm("fixed", 200, 5),
    "mixed_half": Arm("fixed", student_share=0.5),
    "mixed_tenth": Arm("fixed", student_share=0.1),
    "offline_1000x1_reverse": Arm("fixed", divergence={"divergence": "reverse"}),
    "offline_1000x1_jsd": Arm("fixed", divergence={"divergence": "jsd"}),
}
MAIN = tuple(ARMS)[:5]
KEEPS_PARTS = True  # the curves of arms, see `experiments`


def run(
    workdir: Path,
    stop: Stop = never,
    *,
    seeds: int = 3,
    first_seed: int = 0,
    steps: int = 2400,
    every: int = 200,
    arms: tuple = MAIN,
    workers: int = 2,
) -> dict:
    """{"golden_final": arm -> mean over seeds, "seeds": seed -> arm -> curves and what `hacking_tables.summary` gives}; in workdir too.

    A run that was stopped goes on with the arms that it has not finished.

    Args:
      seeds, first_seed: random weights, prompts, texts and orders; the language is the same for all.
      steps: of distillation, each on ROWS texts.
      every: steps from one measurement to the next, up to twice so many half of it; ten early ones come on top.
      arms: names in ARMS.
      workers: arms that run side by side, each on a core.

    Raises:
      ValueError: an unknown arm, nothing to measure, or steps that cannot be measured at.
    """
    at = points(steps, every)
    if not arms or set(arms) - ARMS.keys() or seeds < 1:
        raise ValueError(f"experiment.arms={tuple(arms)!r}, experiment.seeds={seeds}: name a seed at least, and arms of {', '.join(ARMS)}.")
    folder = Path(workdir) / "curves"
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        worlds = list(pool.map(World.learned, range(first_seed, first_seed + seeds)))
        cells = [(world, name) for name in sorted(arms, key=lambda name: ARMS[name].source == "fixed") for world in worlds]

        def curve(cell) -> Curve:
            check(stop)
            world, name = cell
            return world.distilled(name, at, folder / f"{world.seed}-{name}.json")

        curves = list(pool.map(curve, cells))
    found: dict = {str(world.seed): {"start": world.start} for world in worlds}
    for (world, name), curve in zip(cells, curves, strict=True):
        found[str(world.seed)][name] = hacking_tables.summary(curve)
    return hacking_tables.write(Path(workdir), found, arms, oracle_entropy=worlds[0].entropy)


def points(steps: int, every: int) -> list[int]:
    """Steps to measure at: 0, a few early ones with equal ratios, every so many, and the last; multiples of SCAN.

    Raises:
      ValueError: the numbers are no multiples of SCAN, the steps that are made at once.
    """
    for name, number in (("steps", steps), ("every", every)):
        if number < SCAN or number % SCAN:
            raise ValueError(f"{name}={number} of teacher_hacking is no multiple of the {SCAN} steps that are made at once; choose one.")
    early = [*np.geomspace(SCAN, max(every // 2, SCAN), 10), *range(every // 2, 2 * every, every // 2)]
    return sorted({0, steps, *(SCAN * round(x / SCAN) for x in early if x < steps), *range(every, steps, every)})


@dataclasses.dataclass
class World:
    """What all arms of a seed share."""

    seed: int
    teacher: dict  # parameters
    student: dict  # where distillation starts
    prompts: np.ndarray  # to distil on
    golden: SequenceKL
    proxy: SequenceKL
    start: dict  # golden and proxy before distillation with their standard errors over texts, and the golden of the teacher, the "floor":
    # the least of its checkpoints on the same texts that chose it, so a little below what it has on others
    entropy: float  # of the oracle, in nats per token

    @classmethod
    def learned(cls, seed: int):
        """The world of a seed: teacher and student have learned the same texts of the oracle, the teacher until its golden is least."""
        prompts, texts = {}, {}
        for i, (name, count) in enumerate(COUNTS.items()):
            rng = np.random.default_rng([seed, i])
            prompts[name] = LANGUAGE.prompts(count, rng)
            texts[name] = np.concatenate([prompts[name], LANGUAGE.responses(prompts[name], rng)], axis=1)
        with many_seeds.one_device():
            truth = LANGUAGE.log_probs(prompts["validation"], texts["validation"][:, PROMPT:])
            golden = {size: _kept(size, truth, texts["validation"]) for size in (TEACHER, STUDENT)}
            data = shuffled(texts["oracle"], np.random.default_rng([seed, 10]))
            checkpoints = _sft(TEACHER, seed, data, range(0, TEACHER_STEPS + 1, TEACHER_EVERY))
            measured = [(golden[TEACHER].measure(params).value, params) for params in checkpoints]
            floor, teacher = min(measured, key=lambda pair: pair[0])
            data = shuffled(texts["oracle"], np.random.default_rng([seed, 10]))
            (student,) = _sft(STUDENT, seed + 1000, data, [STUDENT_STEPS])
            own = said(TEACHER, teacher, prompts["validation"], seed=seed)[:, 0]
            proxy = _kept(STUDENT, _log_probs(TEACHER, teacher, own), own)
            measured = {"golden": golden[STUDENT].measure(student), "proxy": proxy.measure(student)}
            start = {name: one.value for name, one in measured.items()} | {"floor": floor}
            start |= {f"{name}_standard_error": one.standard_error for name, one in measured.items()}
        entropy = float(-(np.exp(truth) * truth).sum(-1).mean())
        return cls(seed, teacher, student, prompts["prompts"], golden[STUDENT], proxy, start, entropy)

    def distilled(self, name: str, at: list[int], file: Path) -> Curve:
        """Proxy and golden of an arm at these steps; step 0 stands as step 1, as steps have a logarithm.

        They are in `file` as they come, and are read from there where an earlier run has them all.
        """
        measured = json.loads(file.read_text()) if file.exists() else []
        if [done for done, *_ in measured] == [max(done, 1) for done in at]:
            return Curve(*zip(*measured, strict=True))
        arm = ARMS[name]
        with many_seeds.one_device():
            state, run = _begun(arm, self.student, self.teacher)
            texts, measured = self._texts(arm, at[-1]), []
            for done in range(0, at[-1] + 1, SCAN):
                if done in at:
                    measured.append((max(done, 1), self.proxy.measure(state.trainable).value, self.golden.measure(state.trainable).value))
                    results.keep(file, measured)
                if done < at[-1]:
                    state = run(state, texts(done, state.trainable))
        print(f"teacher_hacking: seed {self.seed}: {name}: proxy {measured[-1][1]:.2f}, golden {measured[-1][2]:.2f}")
        return Curve(*zip(*measured, strict=True))

    def _texts(self, arm: Arm, steps: int):
        """(step, the student's parameters) -> int32[SCAN, ROWS, T]: the texts of the next steps."""
        prompts = self.prompts[: arm.prompts]
        order = np.random.default_rng([self.seed, 20])
        if arm.source == "student" or arm.student_share:
            turns = shuffled(np.arange(len(prompts)), order)
            fresh, coins = partial(_own, turns, prompts, self.seed), np.random.default_rng([self.seed, 21])
            if arm.source == "student":
                return fresh
        visits = -(-steps * ROWS // len(prompts)) + 1 if arm.source == "teacher" else arm.generations
        written = said(TEACHER, self.teacher, prompts, seed=self.seed + 1, samples=visits)  # [prompts, visits, T]
        if arm.source == "teacher":  # what it writes does not depend on the step, so it may write ahead
            batches = _taken(row[order.permutation(len(row))] for row in written.swapaxes(0, 1))
        else:
            batches = shuffled(written.reshape(-1, written.shape[-1]), order)
        if not arm.student_share:
            return lambda *_: next(batches)
        return lambda done, params: fresh(done, params) if coins.random() < arm.student_share else next(batches)


def shuffled(texts: np.ndarray, order: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields [SCAN, ROWS, ...] of the texts for ever, all of them in a new order before any comes again."""
    return _taken(texts[order.permutation(len(texts))] for _ in iter(int, 1))


def _taken(epochs):
    rest = next(epochs)
    while True:
        while len(rest) < SCAN * ROWS:
            rest = np.concatenate([rest, next(epochs)])
        yield rest[: SCAN * ROWS].reshape(SCAN, ROWS, *rest.shape[1:])
        rest = rest[SCAN * ROWS :]


def _own(turns, prompts, seed, done, params):
    """Texts that the student writes for the next steps, with its weights of this one."""
    asked = prompts[next(turns)]
    return said(STUDENT, params, asked.reshape(-1, PROMPT), seed=[seed, done])[:, 0].reshape(SCAN, ROWS, -1)


def said(size: Size, params: dict, prompts: np.ndarray, *, seed, samples: int = 1) -> np.ndarray:
    """Prompts with what a model says to each: int32[n, samples, PROMPT + RESPONSE]."""
    asked, key = np.repeat(prompts, samples, axis=0), jax.random.key(np.random.default_rng(seed).integers(2**32))
    texts = []
    for number, first in enumerate(range(0, len(asked), SCAN * ROWS)):
        part = asked[first : first + SCAN * ROWS]
        filled = np.resize(part, (SCAN * ROWS, PROMPT))  # one shape, so that one program draws all
        texts.append(np.asarray(_drawing(size)(params, filled, jax.random.fold_in(key, number)))[: len(part)])
    return np.concatenate(texts).reshape(len(prompts), samples, -1)


@functools.cache
def _drawing(size):
    return jax.jit(lambda *arguments: tiny_decoder.draw(*arguments, size=size)[0])


def batch(texts: jax.Array) -> Batch:
    """Rows of one prompt with one response each, from int32[R, PROMPT + RESPONSE]."""
    slots = jnp.broadcast_to(jnp.where(jnp.arange(PROMPT + RESPONSE) < PROMPT, -1, 0), texts.shape)
    positions = jnp.broadcast_to(jnp.arange(PROMPT + RESPONSE), texts.shape)
    one = jnp.ones((len(texts), 1))
    return Batch(texts, positions, jnp.ones_like(texts), jnp.zeros_like(texts), slots, one, jnp.zeros(len(texts), bool), one > 0)


@functools.cache
def _steps(size, objective, hparams, rule):
    """(optimizer, (state, int32[SCAN, ROWS, T]) -> state after SCAN steps): compiled once for all arms and seeds."""
    schedule = optax.linear_schedule(0.0, LEARNING_RATE, WARMUP_STEPS)  # and constant from there
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    bound, move = objectives.bind(objective, **dict(hparams)), reference.frozen if rule == "teacher" else reference.none
    teacher = partial(tiny_decoder.forward, size=TEACHER) if rule == "teacher" else None
    one = step.make_train_step(partial(tiny_decoder.forward, size=size), bound, move, optimizer, schedule, teacher=teacher)

    def steps(state, texts):
        return jax.lax.scan(lambda state, rows: (one(state, batch(rows))[0], None), state, texts)[0]

    return optimizer, jax.jit(steps, donate_argnums=0)


def _sft(size, seed, batches, at):
    """Yields the parameters at these steps of learning texts from random weights."""
    optimizer, run = _steps(size, "sft", (), "none")
    params = tiny_decoder.init(size, jax.random.key(seed))
    state = step.init_state(params, optimizer, rule=reference.RULES["none"], seed=seed)
    for done in range(0, max(at) + 1, SCAN):
        if done in at:
            yield jax.tree.map(jnp.copy, state.trainable)
        if done < max(at):
            state = run(state, next(batches))


def _begun(arm, student, teacher):
    """(the state before distillation, what makes its steps); the parameters given stay."""
    optimizer, run = _steps(STUDENT, "distill", tuple(arm.divergence.items()), "teacher")
    state = step.init_state(jax.tree.map(jnp.copy, student), optimizer, rule=reference.RULES["teacher"], seed=0)
    return state.replace(reference=jax.tree.map(jnp.copy, teacher)), run


def _kept(size, log_p, texts):
    """The KL of a model of this size from who wrote these texts [n, T] with log-probs [n, RESPONSE, V]."""
    return SequenceKL(log_p[:, None], np.ones((len(texts), 1, RESPONSE), bool), lambda params: _log_probs(size, params, texts)[:, None])


def _log_probs(size, params, texts):
    """Log-probs of every token of the responses: float32[n, RESPONSE, V]."""
    return np.asarray(_table(size)(params, texts))


@functools.cache
def _table(size):
    def table(params, texts):
        hidden = tiny_decoder.states(params, texts, size)[0]
        return tiny_decoder.log_probs(params, hidden[:, PROMPT - 1 : -1])  # the state before a token gives its distribution

    return jax.jit(table)
