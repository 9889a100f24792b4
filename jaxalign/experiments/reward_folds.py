"""Reward models on answers that people or a checker judged: every answer is scored by models that were not trained on its prompt.

Prompts fall into as many folds as there are seeds. For each fold a decoder reads good answers of the others, and learns to judge them with
`reward` and with `goal_reward` (arXiv 2407.13887); both judge the answers of the fold. Answers that were judged one by one are put together
where their prompts are equal; where a prompt has several, they are also put to a vote, before and after those that fall away from the goal
are dropped.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from functools import partial
import math
from pathlib import Path
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.data.prepared import prepare
from jaxalign.data.rows import memory, store
from jaxalign.data.text import tokenizer as tokenizers
from jaxalign.experiments import arithmetic
from jaxalign.experiments.parts import many_seeds, readings, results
from jaxalign.experiments.parts.readings import SHARES, Reading
from jaxalign.experiments.parts.until import Stop, never, until
from jaxalign.models import model as models
from jaxalign.scoring import goal, rules, scorer, votes
from jaxalign.training.sources import Source

ARMS = {"reward": ("reward", {}), "goal_reward": ("goal_reward", {})}
VOTERS = 3  # answers that a prompt has at least, where they are put to a vote


class Judged(NamedTuple):
    """A prompt with its answers."""

    prompt: tuple[int, ...]
    answers: list[tuple[int, ...]]
    rewards: list[float]  # 1 of a right answer, 0 of a wrong one


def run(
    workdir: Path,
    stop: Stop = never,
    *,
    sources: Sequence[Mapping],
    language: Sequence[Mapping] = (),
    model: str = "package:stories260k",
    template: str = "plain",
    row_tokens: int = 1024,
    max_prompt_tokens: int = 256,
    max_response_tokens: int = 256,
    response_truncation: str = "drop",
    seeds: int = 3,
    language_steps: int = 200,
    language_rate: float = 1e-3,
    epochs: int = 2,
    rows: int = 8,
    learning_rate: float = 1e-3,
) -> dict:
    """Objective -> what `readings.summary` gives, and "difference", of goal_reward less reward; written into workdir too.

    Args:
      sources: of judged answers, as in data.train; pairs, or answers judged one by one.
      language: sources of good answers that the decoder reads first; none: the good ones of the other folds.
      model: that is trained, a folder of weights or a name.
      template: as in data.template.
      row_tokens: of a packed row; at least one prompt with all its answers.
      max_prompt_tokens, max_response_tokens: longer prompts keep their end.
      response_truncation: what becomes of longer answers, as in data.
      seeds: folds, at least 2, each with an order and a head of its own.
      language_steps: of reading good answers.
      language_rate: learning rate of these.
      epochs: over the judged answers.
      rows: of a step.
      learning_rate: of the reward models.
    """
    if seeds < 2:
        raise ValueError(f"experiment.seeds={seeds} must be at least 2: what one fold holds out the others train on.")
    how = {"tokenizer": model, "template": template, "row_tokens": row_tokens, "max_prompt_tokens": max_prompt_tokens}
    how |= {"max_response_tokens": max_response_tokens, "response_truncation": response_truncation, "processes": 1, "out_root": None}
    judged, read = judged_answers(sources, how), judged_answers(language, how)
    folds = [[one for one in judged if _fold(one, seeds) == seed] for seed in range(seeds)]
    mean = np.mean([len(one.prompt) + sum(map(len, one.answers)) for one in judged])  # batches of all folds have one shape
    training = {"rows": rows, "row_tokens": row_tokens, "places": max(1, int(row_tokens / mean)), "model": model}
    read_by, start = {arm: list[Reading]() for arm in ARMS}, {}
    with many_seeds.one_device():
        for seed, held_out in enumerate(folds):
            others = [one for fold in folds if fold is not held_out for one in fold]
            if not (start and read):  # what it reads does not depend on the fold
                start = _language(read or others, seed, steps=language_steps, learning_rate=language_rate, **training)
            for arm, objective in until(stop, ARMS.items()):
                reading = _of_arm(objective, start, others, held_out, seed, epochs=epochs, learning_rate=learning_rate, **training)
                read_by[arm].append(reading)
                said = f"AUROC {votes.auroc(reading.rewards[:, -1], reading.right):.3f} of {len(reading.right):,} answers"
                print(f"reward_folds: seed {seed}: {arm}: {said}", flush=True)
    found: dict[str, Any] = {arm: readings.summary(of_arm) for arm, of_arm in read_by.items()}
    found["difference"] = readings.difference(*(read_by[arm] for arm in ("goal_reward", "reward")))
    panels = [("held out", "share of the answer", "AUROC of the reward", partial(_draw, found))]
    results.write(Path(workdir), title="Reward models on judged answers", tables=_tables(found), results=found, panels=panels)
    return found


def judged_answers(sources: Sequence[Mapping], how: Mapping[str, Any]) -> list[Judged]:
    """The prompts of sources with their answers, those judged one by one together; `how` are arguments of `prepare`."""
    by_prompt: dict[Any, Judged] = {}
    for source in sources:
        groups = store.read(prepare(source, **how)).groups
        for group in range(len(groups)):
            prompt, *answers = (tuple(groups.piece(group, piece)[0].tolist()) for piece in range(groups.responses + 1))
            key = (source["path"], group) if groups.paired[group] else prompt  # a pair is judged by itself
            rewards = [1.0, 0.0] if groups.paired[group] else groups.reward[group].tolist()
            one = by_prompt.setdefault(key, Judged(prompt, [], []))
            for answer, reward, valid in zip(answers, rewards, groups.valid[group], strict=True):
                if valid:
                    one.answers.append(answer)
                    one.rewards.append(reward)
    return list(by_prompt.values())


def _fold(one: Judged, folds: int) -> int:
    return zlib.crc32(np.asarray(one.prompt, np.int32).tobytes()) % folds


def _set(judged: Sequence[Judged], *, row_tokens: int, places: int, name: str) -> store.Prepared:
    most = max(len(one.answers) for one in judged)
    rewards = np.array([one.rewards + [0.0] * (most - len(one.rewards)) for one in judged], np.float32)
    groups = [(one.prompt, one.answers) for one in judged]
    prepared = memory.prepared(groups, row_tokens=row_tokens, max_groups=places, rewards=rewards, name=name)
    return dataclasses.replace(prepared, meta={**prepared.meta, "tokenizer": "of the model"})  # the loader asks whether sets have the same


def _language(judged: Sequence[Judged], seed: int, *, steps, learning_rate, model, rows, row_tokens, places) -> dict:
    """Parameters of the decoder after it has read the good answers."""
    good = [Judged(one.prompt, [answer], [1.0]) for one in judged for answer, x in zip(one.answers, one.rewards, strict=True) if x > 0.5]
    source = Source(model)
    decoder = models.build(source.config())
    prepared, how = _set(good, row_tokens=row_tokens, places=places, name="good answers"), {"learning_rate": learning_rate, "seed": seed}
    params = source.load(decoder)
    if steps:
        params, metrics = arithmetic.train(decoder, params, prepared, objectives.bind("sft"), rows=rows, steps=steps, **how)
        print(f"reward_folds: seed {seed}: the decoder has a loss of {metrics['loss']:.2f} nats per token", flush=True)
    return params


def _of_arm(objective, start: dict, others, held_out, seed: int, *, epochs, learning_rate, model, rows, row_tokens, places) -> Reading:
    """What a reward model that learned from the other folds makes of the fold."""
    (name, options), source = objective, Source(model)
    judge = models.build(source.config(), reward_head="linear")
    params = {**jax.tree.map(jnp.copy, start), **models.init_heads(judge, jax.random.key(seed))}
    mixed = [one for one in others if len(set(one.rewards)) > 1]  # nothing is compared where all are right, or wrong
    known, asked = (_set(x, row_tokens=row_tokens, places=places, name=label) for x, label in ((mixed, "other folds"), (held_out, "fold")))
    steps = math.ceil(epochs * len(known) / rows)
    how = {"rows": rows, "learning_rate": learning_rate, "steps": steps, "seed": seed}
    params, _ = arithmetic.train(judge, params, known, objectives.bind(name, **options), **how)
    reads = scorer.of_model(name, judge, params, weights="in memory", dtype=jnp.float32, attention="xla")
    aim = goal.of_answers(reads, known, rows=rows, quiet=True)
    along = goal.along(reads, asked, aim, rows=rows, quiet=True)
    at = [[votes.partial_index(len(answer.rewards), share) for share in SHARES] for answer in along]
    return Reading(
        np.array([answer.group for answer in along]),
        np.array([held_out[answer.group].rewards[answer.response] > 0.5 for answer in along]),
        np.array([answer.rewards[places] for answer, places in zip(along, at, strict=True)]),
        np.array([answer.cosines[-1] for answer in along]),
        _votes(along, held_out, tokenizers.load(source.tokenizer())),
    )


def _votes(along: Sequence[goal.Answer], held_out: Sequence[Judged], tokenizer) -> dict[str, float]:
    """Shares of prompts whose vote is right, of all and after the filter; of tokens that it saves, and of right and wrong ones it drops."""
    cosines = {(answer.group, answer.response): answer.cosines for answer in along}
    before, after, dropped = [], [], {True: [], False: []}
    for group, one in enumerate(held_out):
        if len(one.answers) < VOTERS or not all((group, k) in cosines for k in range(len(one.answers))):
            continue
        numbers = [rules.final_number(tokenizer.decode(answer)) for answer in one.answers]
        right = [reward > 0.5 for reward in one.rewards]
        before.append(votes.vote(numbers, right))
        after.append(votes.vote(numbers, right, [cosines[group, k] for k in range(len(numbers))]))
        for k, ok in enumerate(right):
            dropped[ok].append(votes.violation(cosines[group, k]) is not None)
    if not before:
        return {}
    shares = {f"plain {when}": float(np.mean([vote.plain for vote in found])) for when, found in (("before", before), ("after", after))}
    shares |= {"tokens saved": sum(vote.saved for vote in after) / sum(vote.tokens for vote in after), "prompts": len(before)}
    return shares | {f"{name} dropped": float(np.mean(dropped[ok])) for name, ok in (("right", True), ("wrong", False))}


def _tables(found: dict) -> dict:
    def written(x, sign=""):
        return f"{x['value']:{sign}.3f} ({x['low']:{sign}.3f} to {x['high']:{sign}.3f})"

    lines = [[arm, written(one["accuracy"]), *map(written, one["auroc"]), " ".join(f"{x:.3f}" for x in one["auroc by seed"]),
              f"{one['cosine auroc']:.3f}"] for arm, one in found.items() if arm in ARMS]  # fmt: skip
    signed, difference = partial(written, sign="+"), found["difference"]
    lines.append(["difference", signed(difference["accuracy"]), *map(signed, difference["auroc"]), "", ""])
    columns = ["reward model", "in order", *(f"AUROC after {share:.0%}" for share in SHARES), "by seed", "of the cosine"]
    first = found[next(iter(ARMS))]
    heading = f"{first['answers']:,} held-out answers, {first['prompts compared']:,} prompts with right and wrong ones (95 % intervals)"
    tables = {heading: (columns, lines)}
    if first["votes"]:
        names = list(first["votes"])
        ballots = [[arm, *(f"{one['votes'][name]:.1%}" if name != "prompts" else f"{one['votes'][name]:.0f}" for name in names)]
                   for arm, one in found.items() if arm in ARMS]  # fmt: skip
        tables["votes of the answers to a prompt, before and after the filter"] = (["reward model", *names], ballots)
    return tables


def _draw(found: dict, axes) -> None:
    for arm in ARMS:
        values = found[arm]["auroc"]
        low, high = ([abs(x[side] - x["value"]) for x in values] for side in ("low", "high"))
        axes.errorbar(SHARES, [x["value"] for x in values], yerr=[low, high], marker="o", markersize=4, capsize=3, label=arm)
    axes.axhline(0.5, color="k", linestyle="--", label="chance")
