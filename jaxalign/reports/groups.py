"""Which runs are seeds of one configuration, and what stages they have.

A *group* is a stage of runs that have stages, or runs whose folders differ in their number only and whose settings differ in the seed only
(`dpo_0`, `dpo_1`, `dpo_2` are three seeds of `dpo`).
"""

import collections
from collections.abc import Sequence
import json
from pathlib import Path
import re
from typing import NamedTuple

from jaxalign.reports import log, summary

NUMBER = re.compile(r"[-_](seed)?[-_]?\d+$")  # that ends the name of a run's folder


class Group(NamedTuple):
    """Runs of one configuration, usually one per seed."""

    name: str
    stage: str  # of all of them; "" where they have none
    folders: dict[str, Path]  # name of the run's folder -> the folder that holds its logs, which is that of the stage


def read(folders: Sequence[Path], stages: Sequence[str] | None = None) -> tuple[list[Group], list[str]]:
    """(groups in the order of the folders, what is missing, a sentence each), with all stages by name, or with those asked for.

    Raises:
      ValueError: a folder is no run.
    """
    groups = {}
    folders, missing = _named_once(folders)
    names = _names(folders)
    folders, doubles = _of_other_seeds(folders, names)
    missing += doubles
    several = len(set(names.values())) > 1
    for folder in folders:
        there = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{log.METRICS}"))}
        if (folder / log.METRICS).is_file():
            there = {"": folder}
        if not there:
            raise ValueError(f"{folder} is no run: neither it nor a folder in it holds {log.METRICS}. Give the --workdir of runs.")
        wanted = stages if stages and "" not in there else list(there)
        missing += [f"{folder.name} has no stage {stage}." for stage in wanted if stage not in there]
        for stage in filter(there.__contains__, wanted):
            name = "/".join(filter(None, (names[folder] if several or not stage else "", stage)))
            runs = groups.setdefault(name, Group(name, stage, {})).folders
            runs[folder.name if folder.name not in runs else str(folder)] = there[stage]
    return list(groups.values()), missing


def _named_once(folders):
    """(each folder once, a sentence for each that is named again)."""
    counts, first = collections.Counter(folder.resolve() for folder in folders), {}
    for folder in folders:
        first.setdefault(folder.resolve(), folder)
    return list(first.values()), [f"{first[path]} is named {count} times; it counts once." for path, count in counts.items() if count > 1]


def _of_other_seeds(folders, names):
    """(the first folder of each group and seed, a sentence for each other one): a seed that was run twice is no second seed."""
    first, doubles = {}, []
    for folder in folders:
        settings, seeds = _settings(folder)
        key = (names[folder], seeds) if settings else folder
        if first.setdefault(key, folder) != folder:
            doubles.append(f"{folder.name} has the settings and the seed of {first[key].name}; it is left out.")
    return list(first.values()), doubles


def _names(folders):
    """Folder -> name of its group: without the number that ends it, where runs of that name have the same settings but for the seed.

    Runs of other settings have groups of their own, whose names begin with as many of the folders above as tell them apart.
    """
    named = {folder: NUMBER.sub("", folder.resolve().name) for folder in folders}
    settings = {name: {_settings(folder)[0] for folder in folders if named[folder] == name} - {""} for name in named.values()}
    alone = [folder for folder, name in named.items() if len(settings[name]) > 1]
    return named | {folder: _apart(folder, [other for other in alone if named[other] == named[folder]]) for folder in alone}


def _apart(folder, others):
    """The end of a folder's path that none of the others has."""
    parts = folder.resolve().parts
    ends = ("/".join(parts[-size:]) for size in range(1, len(parts)))
    return next((end for end in ends if sum(str(other.resolve()).endswith(f"/{end}") for other in others) == 1), str(folder.resolve()))


def _settings(folder):
    """What the summaries of a run contain of its settings but for the seed, and the seeds, as texts; "" where there are none yet."""
    paths = sorted([*folder.glob(summary.FACTS), *folder.glob(f"*/{summary.FACTS}")])
    facts = [facts["settings"] for path in paths if (facts := summary.read_facts(path.parent)) and "settings" in facts]
    parts = [{**stage, "seed": None} for stage in facts], [stage.get("seed") for stage in facts]
    return tuple(json.dumps(part) if facts else "" for part in parts)
