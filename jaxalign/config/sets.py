"""The rules between a configuration and its prepared sets: what objective and model cannot use, and how labels are balanced."""

from collections.abc import Callable, Collection
import logging
import math

from ml_collections import ConfigDict

from jaxalign import objectives
from jaxalign.config import teacher, trace
from jaxalign.config.durations import Durations
from jaxalign.config.schema import SCHEMA
from jaxalign.data import summary
from jaxalign.data.rows import store
from jaxalign.models import model as models

LOG = logging.getLogger(__name__)


def check_rows(cfg: ConfigDict, objective: objectives.Objective, built: models.Model, sets: list[store.Prepared]) -> None:
    """Raises ValueError where the objective, the model or its teacher cannot use these prepared sets."""
    check_data(objective, built, sets)
    if theirs := teacher.model(cfg):
        for prepared in sets:
            check_fits(theirs.config, prepared, "the teacher", "choose a teacher with the student's tokenizer.")


def check_data(objective: objectives.Objective, built: models.Model, sets: list[store.Prepared]) -> None:
    """Raises ValueError where the objective or the model cannot use these prepared sets."""
    reads, name = objective.reads, objective.name
    for prepared in sets:
        groups = prepared.groups
        own = groups.reward.shape[1]  # without mismatched responses
        if "ranked" in reads and own < 2:
            raise ValueError(
                f"objective {name!r} reads ranked lists but {prepared.folder} has one response per prompt; "
                "use a data set of format 'ranked', 'scored' with several completions, or 'paired'."
            )
        if "paired" in reads and not groups.paired.any():
            raise ValueError(
                f"objective {name!r} reads pairs but {prepared.folder} has none; "
                "use a paired data set (prompt, chosen, rejected), or another objective."
            )
        if ("paired" in reads and own > 2) or ("mixed" in reads and own > 2 and groups.paired.any()):
            raise ValueError(
                f"objective {name!r} reads pairs but {prepared.folder} has up to {own} responses per prompt, of which it would "
                "use two; make pairs of them, or use an objective for lists."
            )
        if "unpaired" in reads and groups.paired.any():
            raise ValueError(
                f"objective {name!r} trains on every response, and {prepared.folder} holds rejected ones too; "
                'set responses="chosen" in data.train and data.eval, or use an objective for pairs.'
            )
        if "unpaired" in reads and prepared.meta.get("format") == "binary" and (groups.reward[groups.valid] < 0.5).any():
            raise ValueError(
                f"objective {name!r} trains on every response, and {prepared.folder} holds responses labelled bad; "
                'set responses="chosen" in data.train and data.eval, or use an objective for thumbs (kto, una).'
            )
        check_fits(built.config, prepared, "the model", "the tokenizer is not the model's: set model.tokenizer to the checkpoint's own.")


def check_rewards(cfg: ConfigDict, objective: objectives.Objective, sets: list[store.Prepared]) -> None:
    """Raises ValueError where a value head cannot reach the rewards that it is to learn. Needs the sets' computed columns."""
    if "value_head_alone" not in objective.reads:
        return
    largest, names = cfg.model.value_head, objective.hparams.get("rewards", ("reward",))
    for prepared in sets:
        groups = prepared.groups
        columns = {"reward": groups.reward, **groups.columns}
        found = sum(columns[name] for name in names)[groups.valid]
        if not -1e-3 * largest <= found.min() <= found.max() <= 1.001 * largest:
            raise ValueError(
                f"model.value_head={largest} but the rewards of {prepared.folder}, {' + '.join(names)}, go from {found.min():.4g} to "
                f"{found.max():.4g}; a value lies between 0 and model.value_head: choose it larger, map scores (score_range), and sum "
                "no column with numbers below 0, as log-ratios have."
            )


def check_best(cfg: ConfigDict, lengths: Durations, metrics: Callable[[], Collection[str]]) -> None:
    """Raises ValueError where no held-out metric is called train.best_metric, or train.keep_best can keep nothing.

    Args:
      metrics: gives the names of the held-out metrics; called where train.best_metric matters.
    """
    keep, best = cfg.train.keep_best, cfg.train.best_metric
    if keep or best != SCHEMA["train"]["best_metric"].default:
        for problem in trace.unknown_metric(best, metrics()):
            raise ValueError(problem)
    evaluated, saved, total = lengths.eval_every, lengths.save_every, lengths.total
    if not keep or not saved or saved >= total or (evaluated and math.lcm(evaluated, saved) < total):
        return
    often = f"evaluated every {evaluated}" if evaluated else "never evaluated"
    raise ValueError(
        f"train.keep_best={keep}: the {total} steps are {often} and saved every {saved}, so no checkpoint but the last has "
        "held-out metrics; make train.save_every a multiple of train.eval_every."
    )


def check_fits(config, prepared: store.Prepared, who: str, way_out: str) -> None:
    """Raises ValueError where a model of this ModelConfig cannot read the rows: an unknown token id, or a position beyond its table.

    Rotary positions have no table: rows beyond those that the model was trained for are counted in a warning.
    """
    lengths = prepared.groups.lengths()
    positions = lengths[:, 0] + lengths[:, 1:].max(1)
    longest = int(positions.max())
    beyond = int((positions > config.max_positions).sum())
    if beyond and not config.learned_positions:
        LOG.warning(
            "%s: %d of %d examples are longer than the %d positions of %s (the longest has %d); it was not trained for those. Set "
            "data.max_prompt_tokens and data.max_response_tokens to leave them out or to cut them.",
            prepared.folder, beyond, len(positions), config.max_positions, who, longest,
        )  # fmt: skip
    if config.learned_positions and longest > config.max_positions:
        raise ValueError(
            f"{prepared.folder} has an example of {longest} tokens but {who} has {config.max_positions} learned positions; "
            f"choose data.max_prompt_tokens and data.max_response_tokens that add up to at most {config.max_positions}."
        )
    largest = int(prepared.groups.tokens.max(initial=0))
    if largest >= config.vocab_size:
        raise ValueError(f"{prepared.folder} holds token id {largest} but {who} has {config.vocab_size} tokens; {way_out}")


def class_weights(cfg: ConfigDict, objective: objectives.Objective, sets: list[store.Prepared]) -> str:
    """What KTO's class weights make of the labels that the sets hold, as a sentence; "" for other objectives.

    The weighted numbers of desirable and undesirable responses should be about as many: desirable_weight * n_D / (undesirable_weight * n_U)
    in [1, 4/3] (arXiv 2402.01306 v1, equation 8; later versions up to 3/2).
    """
    hparams = objective.hparams
    if "desirable_weight" not in hparams or not sets:
        return ""
    counts = [summary.label_counts(prepared, hparams["threshold"]) for prepared in sets]
    good, bad = (sum(side) for side in zip(*counts, strict=True))
    start = f"{objective.name}: {good:,} desirable and {bad:,} undesirable responses"
    if not good or not bad:
        return f"{start}; with one label only the weights scale the loss and no more."
    if len(sets) > 1:  # as often as they are drawn: a set's rows have its share
        shares = [prepared.weight / len(prepared.plan) for prepared in sets]
        good, bad = (sum(share * side for share, side in zip(shares, sides, strict=True)) for sides in zip(*counts, strict=True))
        start = f"{start}, drawn as {good / (good + bad):.1%} desirable"
    if cfg.data.sampling != "shuffle":
        start = f"{start}, before data.sampling={cfg.data.sampling!r}"
    ratio = hparams["desirable_weight"] * good / (hparams["undesirable_weight"] * bad)
    fit = f"desirable_weight={bad / good:.3g}" if bad > good else f"undesirable_weight={good / bad:.3g}"
    inside = "within" if 1 - 1e-6 <= ratio <= 1.5 + 1e-6 else f"outside; {fit} would balance them. The published range is"
    return f"{start}; desirable_weight * n_D / (undesirable_weight * n_U) = {ratio:.3f}, {inside} [1, 3/2]."
