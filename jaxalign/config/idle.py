"""Keys that have no effect beside the other keys of a configuration: a person who sets one expects something that does not happen."""

from collections.abc import Callable, Iterator
import re
from typing import Any, NamedTuple

from jaxalign.config import columns
from jaxalign.config.schema import COLUMN, OPTIONS_OF_KIND, SCHEMA, SOURCE, units
from jaxalign.data.raw.files import SUFFIXES
from jaxalign.data.raw.formats import FEEDBACK

FILE = re.compile(rf".*({'|'.join(map(re.escape, SUFFIXES))})(\.gz)?", re.IGNORECASE)
SCORING = ("score_range", "score_weights", "score_transform")
# Keys of data about rows that hold texts, which rollouts alone have none of, and what holds for rollouts.
OF_TEXTS = {
    "max_response_tokens": ", which data.rollout.max_new_tokens ends",
    "response_truncation": ", which are trained as they were drawn",
    "prompt_truncation": ", which leave out a prompt that is too long",
    "train_turns": ", whose one turn is trained",
    "on_bad_row": ", which leave out a prompt that cannot be asked, and count it",
}


class Idle(NamedTuple):
    """A key, when it has no effect, and beside what: a value other than the default is then refused."""

    key: str
    when: Callable[[dict], Any]  # of the section, or of the source
    beside: str  # "on X" or "without X"


SECTIONS = {
    "data": (
        Idle("sampling_column", lambda data: data["sampling"] == "shuffle", "on data.sampling='shuffle'"),
        Idle("max_groups_per_row", lambda data: not data["pack"], "on data.pack=False, where a row holds one group"),
        Idle("sampling", lambda data: data["train"] is None, "without data.train"),
        *(Idle(key, lambda data: data["train"] is None and data["eval"] is None, f"on rollouts{why}") for key, why in OF_TEXTS.items()),
    ),
    "optimizer": (Idle("min_lr_ratio", lambda own: own["schedule"] == "constant", "on optimizer.schedule='constant'"),),
    "train": (
        Idle("on_spike", lambda train: train["spike_grad_norm"] is None, "without train.spike_grad_norm"),
        Idle("max_roll_backs", lambda train: "roll_back" not in (train["on_nan"], train["on_spike"]), "without train.on_*='roll_back'"),
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
COLUMNS = tuple(
    Idle(key, lambda column, kind=kind: column["kind"] == kind, f"on kind={kind!r}")
    for kind, options in OPTIONS_OF_KIND.items()
    for key in sorted(COLUMN.keys() - {"kind", "model", *options})
)
EXPORT = Idle("export_dtype", lambda train: not train["export"], "without train.export")
WEIGHT = Idle("weight", lambda source: True, "on a source that is not part of a mixture")


class Place(NamedTuple):
    """A part of a configuration and the keys of it that may have no effect."""

    name: str  # as in a message: "optimizer", "data.eval.SET"
    values: dict
    schema: dict
    idle: tuple[Idle, ...]


def places(sections: dict, name: str) -> Iterator[Place]:
    """The parts below a section, its sources and columns too."""
    yield Place(name, sections[name], SCHEMA[name], SECTIONS[name])
    if name == "data":
        for where, source in columns.sources(sections["data"]):
            yield Place(where, source, SOURCE, SOURCES if where.startswith("data.train[") else (*SOURCES, WEIGHT))
        for column, values in sections["data"]["computed"].items():
            yield Place(f"data.computed.{column}", values, COLUMN, COLUMNS)


def check(section: str) -> Callable[[dict], Iterator[str]]:
    """The rule that objects to keys of a section that have no effect."""

    def rule(resolved: dict) -> Iterator[str]:
        for place in places(resolved, section):
            for idle in place.idle:
                yield from problems(idle, place.values, place.name, place.schema)

    return rule


def problems(idle: Idle, section: dict, where: str, schema: dict) -> Iterator[str]:
    """Objects to the key where it has no effect and another value than its default."""
    if has_no_effect(idle, section, schema):
        yield f"{where}.{idle.key}={section[idle.key]!r} has no effect {idle.beside}; leave it out."


def has_no_effect(idle: Idle, section: dict, schema: dict) -> bool:
    """Whether the key is set to another value than its default where it has no effect."""
    return section[idle.key] != schema[idle.key].default and bool(idle.when(section))


def _names_split_of_files(source):
    paths = [source["path"]] if isinstance(source["path"], str) else source["path"] or ()
    name = (source["split"] or "").partition("[")[0]
    return paths and all(FILE.fullmatch(path) for path in paths) and name not in ("", "train")  # what datasets calls the rows of a file
