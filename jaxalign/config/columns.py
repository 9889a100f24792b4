"""The rules about columns: which data sets and models bring them, and what reads them."""

from collections.abc import Iterator
import math

from jaxalign.config.schema import named_sets
from jaxalign.data.rows.columns import RESERVED


def sources(data: dict) -> list[tuple[str, dict]]:
    """(where it stands, source) of all sources, held-out ones too."""
    train = data["train"] if isinstance(data["train"], tuple) else (data["train"],) if data["train"] is not None else ()
    named = [(f"data.train[{i}]" if len(train) > 1 else "data.train", source) for i, source in enumerate(train)]
    held_out = {} if data["eval"] is None else named_sets(data["eval"])
    return named + [(f"data.eval.{name}" if name else "data.eval", source) for name, source in held_out.items()]


def given(data: dict) -> set[str]:
    """Names of the data sets' own columns."""
    return {name for _, source in sources(data) for name in source["keep_columns"] or ()}


def of_rollouts(spec: dict | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the columns that data.rollout brings: ([N, K] ones, [R, T] ones)."""
    from jaxalign.objectives.families.adaptive_kl import FIRST_VISIT
    from jaxalign.rollout.computed import REWARD
    from jaxalign.rollout.feedback import FEEDBACK
    from jaxalign.training.step import ROLLOUT_LOGPS

    if spec is None or spec["feedback"] not in FEEDBACK:
        return (), ()
    kind = FEEDBACK[spec["feedback"]]
    reward = () if spec["reward"] is None else (REWARD,)
    return (*reward, FIRST_VISIT, *kind.columns), (ROLLOUT_LOGPS, *kind.token_columns)


def known(resolved: dict, reads: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the columns that batches will have: ([N, K] ones, [R, T] ones)."""
    from jaxalign.training import reference

    data = resolved["data"]
    named = {name for where, source in sources(data) if where.startswith("data.train") for name in source["keep_columns"] or ()}
    kinds = {name: column["kind"] for name, column in data["computed"].items()}
    by_token = {name for name, kind in kinds.items() if kind == "logps"}
    by_token |= {reference.COLUMN} if reference.RULES[resolved["reference"]["rule"]].holds == "logps" else set()
    extra = {"mismatched"} if "mismatched" in reads else set()
    of_responses, of_tokens = of_rollouts(data["rollout"])
    return tuple(sorted(named | (kinds.keys() - by_token) | extra | {*of_responses})), tuple(sorted(by_token | {*of_tokens}))


def check(resolved: dict) -> Iterator[str]:
    """Yields a problem for each column with an invalid name, an unknown reward to sum, or an invalid option."""
    data = resolved["data"]
    for name in sorted(given(data)):
        if wrong := _wrong_name(name, RESERVED):
            yield f"keep_columns.{name}: {wrong}."
    for name, column in data["computed"].items():
        if wrong := _wrong_name(name, {*RESERVED, *given(data)}):
            yield f"data.computed.{name}: {wrong}."
        if column["kind"] == "implicit_reward" and not 0 < column["beta"] < math.inf:
            yield f"data.computed.{name}.beta={column['beta']} makes every reward 0 or infinite; give that of its model's training."
        there = {"reward"} | given(data) | data["computed"].keys()
        if not column["rewards"] or not there >= set(column["rewards"]):
            what = "names columns that are not there" if column["rewards"] else "sums nothing"
            yield f"data.computed.{name}.rewards={column['rewards']} {what}; use {', '.join(sorted(there))}."
    drawn_by = data["sampling_column"]
    if data["sampling"] != "shuffle" and drawn_by != "reward" and drawn_by not in given(data) | data["computed"].keys():
        yield f"data.sampling goes by the column {drawn_by!r}, which neither keep_columns nor data.computed has; name it there."


def _wrong_name(name, taken) -> str:
    if name in taken:
        return "the name is taken; choose another"
    return "" if name.isidentifier() else "a name consists of letters, digits and _ and begins with no digit; choose another"


def of_features(resolved: dict, reads: tuple[str, ...]) -> Iterator[str]:
    """Yields a problem where the objective and the reward head do not both read features, and for each feature that is no column."""
    from jaxalign.models import features

    head, name = resolved["model"]["reward_head"], resolved["objective"]["name"]
    if isinstance(head, str) and "features" in reads:
        yield f"model.reward_head={head!r}: objective {name!r} reads features; set dict(features=dict(NAME=dict(range=(0, 5)), ...))."
    if isinstance(head, dict) and "reward_head" in reads and "features" not in reads:
        yield f"model.reward_head is on features, and objective {name!r} reads hidden states; set 'linear', or objective 'feature_reward'."
    there = known(resolved, reads)[0]
    for feature in features.names_of(head):
        if feature not in there:
            yield f"model.reward_head: feature {feature!r} is no column; bring it in keep_columns of the sources, or in data.computed."


def unread(resolved: dict, reads: tuple[str, ...]) -> Iterator[str]:
    """Yields a problem for each column that the objective reads and a source lacks, and for each computed one that nothing reads."""
    name = resolved["objective"]["name"]
    read = {key.removeprefix("columns.") for key in reads if key.startswith("columns.")}
    for where, source in sources(resolved["data"]):
        for column in read & given(resolved["data"]) - set(source["keep_columns"] or ()):
            yield f"{where}.keep_columns has no {column!r}, which objective {name!r} reads and another source has; name it there too."
    summed = {reward for column in resolved["data"]["computed"].values() for reward in column["rewards"]}
    drawn_by = {resolved["data"]["sampling_column"]} if resolved["data"]["sampling"] != "shuffle" else set()
    for column in resolved["data"]["computed"].keys() - summed - drawn_by - read:
        yield f"data.computed.{column} is read by nothing here: not by objective {name!r}, sampling or another column; leave it out."
