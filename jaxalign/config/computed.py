"""The columns that a configuration has computed: those of data.computed, and log-probs of a reference whose weights are not in memory."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from jaxalign.config import build
from jaxalign.config.prepared import Sets, prepared_sets
from jaxalign.config.sets import check_fits, check_rewards, check_rows
from jaxalign.data.rows import store
from jaxalign.manifest import content_hash
from jaxalign.models.model import Model
from jaxalign.objectives import Objective
from jaxalign.scoring import columns, scorer
from jaxalign.training import reference
from jaxalign.training.sources import Source


def has_columns(cfg: ConfigDict) -> bool:
    """Whether `with_columns` computes any for a resolved configuration: of the data, or of its reference rule."""
    return bool(cfg.data.computed) or reference.RULES[cfg.reference.rule].holds == "logps"


def checked_sets(cfg: ConfigDict, objective: Objective, model: Model) -> Sets:
    """The sets of a run with their columns, made where they are not there.

    Raises:
      ValueError: the rows cannot be made, or the objective or the model cannot use them.
    """
    sets = prepared_sets(cfg)
    check_rows(cfg, objective, model, sets.all)
    sets = with_columns(cfg, sets)
    check_rewards(cfg, objective, sets.all)
    return sets


def with_columns(cfg: ConfigDict, sets: Sets, *, quiet: bool = False) -> Sets:
    """The sets with the columns of a resolved configuration, computed where they are not on disk. Needs a mesh in scope.

    A reference rule that holds log-probs alone adds "reference_logps" of the model that the run starts from; where the reference moves, to
    the held-out rows only, because the training rows get theirs from the policy.

    Raises:
      ValueError: a model is not there or does not fit the rows, or what is on disk does not agree with it.
    """
    for name, spec in sorted(cfg.data.computed.items(), key=lambda item: item[1]["kind"] == "advantage"):  # which may sum other columns
        sets = sets.map(_adding(cfg, _column(cfg, name, spec), quiet=quiet))
    rule = reference.RULES[cfg.reference.rule]
    if rule.holds == "logps":
        some = Sets([], sets.held_out) if rule.moves else sets
        if some.all:
            some = some.map(_adding(cfg, columns.Column(reference.COLUMN, "logps", [_start(cfg)]), quiet=quiet))
        sets = Sets(some.train or sets.train, some.held_out)
    return sets


def _adding(cfg, column, *, quiet) -> Callable[[list[store.Prepared]], list[store.Prepared]]:
    way = "the rows are not of its tokenizer: name a model that shares it."

    def add(sets):
        for one in sets:
            for scoring in column.scorers:
                check_fits(scoring.model.config, one, f"the model {scoring.name} of column {column.name!r}", way)
        return list(columns.add(column, sets, rows=cfg.batch.rows, quiet=quiet))

    return add


def _column(cfg, name, spec: Mapping) -> columns.Column:
    options = {"dtype": build.dtype(cfg), "attention": cfg.model.attention}
    if spec["kind"] == "advantage":
        scorers = [scorer.of_value_run(spec["model"], rewards=tuple(spec["rewards"]), **options)]
    elif spec["kind"] == "score":
        scorers = [scorer.of_reward_model(spec["model"], **options)]
    else:
        scorers = [scorer.of_source(source, **options) for source in (spec["model"], spec["reference"]) if source is not None]
    return columns.Column(name, spec["kind"], scorers, beta=spec["beta"], rewards=tuple(spec["rewards"]))


def _start(cfg) -> scorer.Scorer:
    """The scorer of the model that the run starts from."""
    model = build.model(cfg)
    # random weights are what they are drawn from
    origin = {"seed": cfg.seed} if cfg.model.checkpoint is None else {"weights": scorer.weights_of(Source(cfg.model.checkpoint))}
    weights = content_hash({**origin, "config": str(model.config)})
    options = {"dtype": build.dtype(cfg), "attention": cfg.model.attention}
    return scorer.of_model(cfg.model.checkpoint or "with random weights", model, build.params(cfg, model), weights=weights, **options)
