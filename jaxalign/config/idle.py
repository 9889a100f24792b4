"""Keys that have no effect beside the other keys of a configuration: a person who sets one expects something that does not happen."""

from collections.abc import Callable, Iterator
import re
from typing import Any, NamedTuple

from jaxalign.config import columns
from jaxalign.config.schema import SCHEMA, SOURCE, units
from jaxalign.data.raw.files import SUFFIXES
from jaxalign.data.raw.formats import FEEDBACK

FILE = re.compile(rf".*({'|'.join(map(re.escape, SUFFIXES))})(\.gz)?", re.IGNORECASE)
SCORING = ("score_range", "score_weights", "score_transform")


class Idle(NamedTuple):
    """A key, when it has no effect, and beside what: a value other than the default is then refused."""

    key: str
    when: Callable[[dict], Any]  # of the section, or of the source
    beside: str  # "on X" or "without X"


SECTIONS = {
    "data": (Idle("sampling_column", lambda data: data["sampling"] == "shuffle", "on data.sampling='shuffle'"),),
    "optimizer": (Idle("min_lr_ratio", lambda own: own["schedule"] == "constant", "on optimizer.schedule='constant'"),),
    "train": (
        Idle(
            "extend_learning_rate",
            lambda train: not any(train.get(f"extend_{unit}") for unit in units("extend")),
            f"without train.extend_[{'|'.join(units('extend'))}]",
        ),
    ),
}
SOURCES = (
    Idle("config", lambda source: source["path"] is not None, "on path; it goes with hf"),
    Idle("config", lambda source: source["tfds"] is not None, "on tfds; write tfds='NAME/CONFIG'"),
    Idle("data_dir", lambda source: source["tfds"] is None, "without tfds"),
    Idle("split", lambda source: _names_split_of_files(source), "on files, whose splits have no names; of a slice write '[:90%]'"),
    *(Idle(key, lambda source: source["format"] not in (None, *FEEDBACK["score"]), "on a format without scores") for key in SCORING),
)
EXPORT = Idle("export_dtype", lambda train: not train["export"], "without train.export")
WEIGHT = Idle("weight", lambda source: True, "on a source that is not part of a mixture")


def check(section: str) -> Callable[[dict], Iterator[str]]:
    """The rule that objects to keys of a section that have no effect."""

    def rule(resolved: dict) -> Iterator[str]:
        for idle in SECTIONS[section]:
            yield from problems(idle, resolved[section], section, SCHEMA[section])

    return rule


def check_sources(resolved: dict) -> Iterator[str]:
    """Objects to keys of sources that have no effect."""
    data = resolved["data"]
    for where, source in columns.sources(data):
        alone = not where.startswith("data.train[")
        for idle in (*SOURCES, *([WEIGHT] if alone else [])):
            yield from problems(idle, source, where, SOURCE)


def problems(idle: Idle, section: dict, where: str, schema: dict) -> Iterator[str]:
    """Objects to the key where it has no effect and another value than its default."""
    value = section[idle.key]
    if value != schema[idle.key].default and idle.when(section):
        yield f"{where}.{idle.key}={value!r} has no effect {idle.beside}; leave it out."


def _names_split_of_files(source):
    paths = [source["path"]] if isinstance(source["path"], str) else source["path"] or ()
    name = (source["split"] or "").partition("[")[0]
    return paths and all(FILE.fullmatch(path) for path in paths) and name not in ("", "train")  # what datasets calls the rows of a file
