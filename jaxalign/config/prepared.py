"""The prepared sets that a configuration names: made if they are not there, then opened."""

from collections.abc import Callable, Mapping
import dataclasses
import sys

from ml_collections import ConfigDict

from jaxalign.config import build, functions
from jaxalign.config.schema import named_sets
from jaxalign.config.stages import STAGE, training_stages
from jaxalign.data.prepared import fitting_row_tokens, prepare
from jaxalign.data.rows import store
from jaxalign.data.rows.store import Prepared
from jaxalign.data.summary import report
from jaxalign.hparams import hparams_of


@dataclasses.dataclass(frozen=True)
class Sets:
    """The prepared sets of a run."""

    train: list[Prepared]  # each with its weight in the mixture
    held_out: dict[str, Prepared]  # by name; one without a name is called ""

    @property
    def all(self) -> list[Prepared]:
        """Training sets, then held-out ones."""
        return [*self.train, *self.held_out.values()]

    def names(self) -> list[str]:
        """What a checkpoint records of the training sets: they are named by hashes of their content."""
        return ["/".join([*one.folder.parts[-2:], *one.meta.get("columns", ())]) for one in self.train]

    def map(self, function: Callable[[list[Prepared]], list[Prepared]]) -> "Sets":
        """The sets that a function of all of them gives, in their order."""
        changed = function(self.all)
        return Sets(changed[: len(self.train)], dict(zip(self.held_out, changed[len(self.train) :], strict=True)))


def to_stderr(lines: list[str]) -> None:
    """Prints lines on standard error."""
    if lines:
        print("\n".join(lines), file=sys.stderr)


def prepared_sets(cfg: ConfigDict, *, tell: Callable[[list[str]], None] = to_stderr) -> Sets:
    """The prepared sets of a resolved configuration. `tell` gets what became of the rows of each set, as lines of text.

    A data.row_tokens of None becomes the number of tokens that holds almost all training rows.

    Raises:
      ValueError: as `data.prepared.prepare`.
    """
    opened, train = _opener(cfg, tell), training_sources(cfg)
    trained = [opened(source, side="train") for source in train] if cfg.data.eval_fraction else [opened(source) for source in train]
    return Sets(trained, held_out_sets(cfg, tell=tell).held_out)


def held_out_sets(cfg: ConfigDict, *, tell: Callable[[list[str]], None] = to_stderr) -> Sets:
    """The same without the training sets, which an evaluation does not need."""
    opened, side = _opener(cfg, tell), {"side": "eval"} if cfg.data.eval_fraction else {}
    return Sets([], {name: opened(source, **side) for name, source in held_out_sources(cfg).items()})


def held_out_sources(cfg: ConfigDict) -> dict[str, Mapping]:
    """The sources of the held-out sets by name; of a fraction of the training rows the source of all of them."""
    if cfg.data.eval_fraction:
        return {"": training_sources(cfg)[0]}
    source = cfg.to_dict()["data"]["eval"]
    return {} if source is None else named_sets(source)


def training_sources(cfg: ConfigDict) -> list[Mapping]:
    """The sources of the training rows."""
    train = cfg.to_dict()["data"]["train"]
    return [] if train is None else train if isinstance(train, tuple | list) else [train]


def training_options(cfg: ConfigDict, *, tell: Callable[[list[str]], None] = to_stderr) -> dict:
    """Keyword arguments of `prepare` that all sets of the configuration share; a data.row_tokens of None becomes a number."""
    data = cfg.to_dict()["data"]
    options = {key: data[key] for key in hparams_of(prepare) if key in data}
    options |= {"pack_rows": data["pack"], "max_groups": data["max_groups_per_row"], "out_root": data["prepared_dir"]}
    options |= {"tokenizer": build.tokenizer_name(cfg), "mismatched": "mismatched" in functions.objective(cfg).reads}

    if data["row_tokens"] is None and training_sources(cfg):
        cfg.data.row_tokens = options["row_tokens"] = _fitting_row_tokens(cfg, training_sources(cfg), options)
        tell([f"data.row_tokens={cfg.data.row_tokens} is chosen: 99 % of the training rows fit into it whole"])
    return options


def _opener(cfg, tell):
    """(source, side=...) -> its prepared set, made if it is not there, with what every set of the configuration is made with."""
    options = training_options(cfg, tell=tell)

    def opened(source, **side):
        folder = prepare(source, **options, **side)
        tell(report(folder))
        return store.read(folder, weight=source.get("weight", 1.0))

    return opened


def prepared_stages(stages: Mapping[str, ConfigDict], *, tell: Callable[[list[str]], None]) -> list[tuple[Prepared, str]]:
    """(prepared set, tokenizer that the stage names) of every set of all stages that train; `tell` as above."""
    found: list[tuple[Prepared, str]] = []
    for cfg in training_stages(stages).values():
        source = cfg.model.checkpoint or ""
        while source.startswith(STAGE):  # its export carries the tokenizer of the stage that it comes from
            origin = stages[source.removeprefix(STAGE)]
            cfg.model.tokenizer = cfg.model.tokenizer or origin.model.tokenizer
            cfg.data.add_tokens = (*(origin.data.add_tokens or ()), *(cfg.data.add_tokens or ()))
            if cfg.data.template == "auto":
                cfg.data.template = origin.data.template
            source = cfg.model.checkpoint = origin.model.checkpoint or ""
        found += [(prepared, build.tokenizer_name(cfg)) for prepared in prepared_sets(cfg, tell=tell).all]
    return found


def _fitting_row_tokens(cfg, train, options):
    config = build.model(cfg).config
    tokens = fitting_row_tokens(train, options, context=config.max_positions)
    return min(tokens, config.max_positions) if config.learned_positions else tokens
