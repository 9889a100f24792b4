"""The gold bench: methods against each other where the reward is known and samples are unlimited, at equal KL and with intervals.

A small policy that writes stories is trained on what a noisy rater says of its own samples; the rater goes by a gold reward, a known
function of the text, and so does the measurement. Reward and KL are measured on fresh samples, the KL by exact sums over the vocabulary.
"""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path

import numpy as np

from jaxalign.experiments.goldbench import cells as bench
from jaxalign.experiments.goldbench import claims, fronts, golds, methods, report, world
from jaxalign.experiments.parts import many_seeds, results
from jaxalign.experiments.parts.until import Stop, never, until

KEEPS_PARTS = True  # its cells, see `experiments`
BEST_OF = (2, 4, 8, 16)
BEST_PROMPTS = 128


def run(
    workdir: Path,
    stop: Stop = never,
    *,
    cells: tuple,
    seeds: int = 3,
    first_seed: int = 0,
    steps: int = 30,
    base: str | None = None,
) -> dict:
    """{"cells": what was measured of each, "bases", "best_of"}; written into workdir too, each cell into a file as soon as it is measured.

    Args:
      cells: texts "FEEDBACK METHOD [RATE ...]", a tuple of such or of parts of one: GOLD-PERCENT or proxyPAIRS, a method of
        goldbench/methods.py, and learning rates, by default those of the method. All cells of a seed come before those of the next.
      seeds, first_seed: of label noise, order of the data, and samples.
      steps: of training, of 16 rows with two pairs each.
      base: the folder of the base policy and its samples, made where it is missing; several runs may share it. None: in workdir.

    Raises:
      ValueError: a cell names no feedback, method or number; workdir holds cells that were measured in another way.
    """
    workdir = Path(workdir)
    wanted = _wanted(cells, range(first_seed, first_seed + seeds))
    with many_seeds.one_device():
        made = bench.Bench(world.make(workdir / "base" if base is None else Path(base)), steps=steps)
        whole, files = made.depends(), {cell: workdir / "cells" / f"{cell.name}.json" for cell in wanted}
        for cell, file in files.items():
            check_kept(file, made.depends(cell.method))
        best = _kept(workdir / "best_of.json", whole | {"n": [*BEST_OF], "prompts": BEST_PROMPTS}, lambda: best_of(made))
        bases = [_kept(workdir / "cells" / f"base_{seed}.json", whole, lambda seed=seed: made.base(seed)) for seed in _seeds(wanted)]
        measured = []
        for number, cell in enumerate(until(stop, wanted), 1):
            measured.append(_kept(files[cell], made.depends(cell.method), lambda cell=cell: made.run(cell)))
            gold, kl = measured[-1][claims.gold_of(cell.feedback)][0], measured[-1]["kl"][0]
            print(f"gold: {number} of {len(wanted)}: {cell.name}: gold {gold:.3f} at KL {kl:.2f}", flush=True)
    everything = {"cells": measured, "bases": bases, "best_of": best}
    tables = report.tables(measured, bases, best)
    if front := fronts.rows(measured, bases):
        tables["two golds at once"] = (["KL", "", "MODPO", "mixed losses", "difference", "seeds"], front)
    results.write(workdir, title="Gold bench", tables=tables, results=everything, panels=report.panels(measured, bases, best))
    return everything


def best_of(made: bench.Bench) -> dict:
    """n -> {"kl": the most that the KL of best of n to the base is, ln n - (n - 1) / n, and every gold}, on samples of the base.

    It is the KL itself only where no two samples are tied.
    """
    some = made.world
    draw = world.sampler(some.model, some.tokenizer, longest=world.LONGEST, lanes=max(BEST_OF))
    own = world.answers(draw, some.tokenizer, some.params, some.held_out[:BEST_PROMPTS], samples=max(BEST_OF), seed=bench.MEASURED)
    prompts, found = some.prompt_texts["held_out"][:BEST_PROMPTS], {}
    for n in BEST_OF:
        found[str(n)] = {"kl": float(np.log(n) - (n - 1) / n)}
        for name in golds.GOLDS:
            values = golds.scored(name, prompts, own.texts)
            found[str(n)][f"gold/{name}"] = float(values.reshape(len(prompts), -1, n).max(2).mean())
    return found


def _wanted(cells: Sequence[str], seeds: Sequence[int]) -> list[bench.Cell]:
    found = []
    for text in cells:
        feedback, method, *rates = [*str(text).split(), ""][:2] + str(text).split()[2:]
        judge = bench.parse(feedback)
        methods.check(method)
        if (other := methods.named(method).other) and judge[0] in ("proxy", other):
            raise ValueError(f"experiment.cells: {text!r} has two golds, of which the second is {other!r}; feedback is another gold's.")
        try:
            found += [(feedback, method, float(rate)) for rate in rates or methods.named(method).rates]
        except ValueError as error:
            raise ValueError(f"experiment.cells: {text!r} has a learning rate that is no number.") from error
    return [bench.Cell(*one, seed) for seed in seeds for one in dict.fromkeys(found)]


def _seeds(cells):
    return list(dict.fromkeys(cell.seed for cell in cells))


def check_kept(file: Path, depends: Mapping) -> None:
    """Raises ValueError where a file holds what was measured with something else, naming what differs."""
    if not file.exists():
        return
    kept = json.loads(file.read_text(encoding="utf-8")).get("depends", {})
    if other := [name for name in depends if kept.get(name) != depends[name]]:
        raise ValueError(f"{file} was measured with other settings ({', '.join(other)}); remove it, or name another --workdir.")


def _kept(file: Path, depends: Mapping, measure) -> dict:
    """What a file holds, or what is measured, then kept in it with what it depends on."""
    check_kept(file, depends)
    if not file.exists():
        results.keep(file, {"depends": depends, "measured": measure()})
    return json.loads(file.read_text(encoding="utf-8"))["measured"]
