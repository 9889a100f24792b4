"""An objective traced on the shapes of one tiny batch: what it objects to, what is wrong with it, and what it reports."""

from collections.abc import Collection, Iterator
from pathlib import Path
import traceback

from jaxalign.config import columns
from jaxalign.paths import line_of, message_of
from jaxalign.suggest import meant


def check(resolved: dict, objective) -> None:
    """Raises ValueError where the bound objective objects to its hyper-parameters or misses a column, fails, or returns no Terms."""
    import jax

    from jaxalign import objectives, sharding
    from jaxalign.training.reference import RULES

    policy, batch = _inputs(resolved, objective)
    plain = policy.replace(hidden=None, unembed=None)
    reference = {"weights": policy, "logps": plain, "nothing": None}[RULES[resolved["reference"]["rule"]].holds]
    file = objectives.named(objective.name)[1].__file__
    try:
        with sharding.no_devices():
            statistics = jax.eval_shape(objective.statistics, policy, reference, batch)
            scalars = {name: jax.ShapeDtypeStruct((), "float32") for name in statistics}
            terms = jax.eval_shape(objective.terms, policy, reference, batch, scalars)
    except Exception as error:
        line = line_of(error, file)
        if not line or (isinstance(error, ValueError) and _is_raised_here(error)):  # which is written for its reader
            raise
        raise ValueError(f"objective {objective.name!r} fails in {file}{line}: {message_of(error)}") from error
    if wrong := _wrong(terms, batch):
        raise ValueError(f"objective {objective.name!r} in {file} {wrong}.")


def unknown_metric(best_metric: str, names: Collection[str]) -> Iterator[str]:
    """Objects to a train.best_metric, "-NAME" where more is better, that is not among the names of a run's held-out metrics."""
    if (metric := best_metric.removeprefix("-")) not in names:
        there = ", ".join(sorted(names)) or "none, as no rows are held out"
        yield f"train.best_metric={best_metric!r} is no held-out metric of this run{meant(metric, names)}; there are {there}."


def metrics(resolved: dict, objective) -> set[str]:
    """Names of the held-out metrics that the objective and the reference rule can give, in one set without a name.

    Rows of single responses give fewer.
    """
    import jax

    from jaxalign import sharding
    from jaxalign.training.metrics import kl
    from jaxalign.training.reference import RULES
    from jaxalign.training.step import make_eval_step
    from jaxalign.types import TrainState

    policy, batch = _inputs(resolved, objective)
    rule, scalar = RULES[resolved["reference"]["rule"]], jax.ShapeDtypeStruct((), "float32")
    reference = policy if rule.holds == "weights" else None
    initial = reference if rule.moves and resolved["reference"]["keep_initial"] else None
    statistics = dict.fromkeys(objective.statistics_names, scalar)
    count = jax.ShapeDtypeStruct((), "int32")
    state = TrainState(count, policy, reference, None, jax.ShapeDtypeStruct((2,), "uint32"), initial=initial, statistics=statistics)
    with sharding.no_devices():  # the outputs stand in the place of the parameters that give them
        return set(jax.eval_shape(make_eval_step(lambda outputs, *_: outputs, objective, kl), state, batch))


def _inputs(resolved, objective):
    from jaxalign import objectives
    from jaxalign.models import features

    by_response, by_token = columns.known(resolved, objective.reads)
    heads = {head: resolved["model"][head] is not None for head in ("value_head", "reward_head", "critic")}
    names = features.names_of(resolved["model"]["reward_head"])
    return objectives.tiny_inputs(columns=by_response, token_columns=by_token, features=names, **heads)


def _is_raised_here(error):
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(__file__).parents[1])


def _wrong(terms, batch) -> str:
    """What is wrong with the shapes that an objective returned; "" if nothing is."""
    from jaxalign.types import Terms

    if not isinstance(terms, Terms):
        return f"returns {type(terms).__name__}, not Terms(loss, weight, metrics)"
    shapes = batch.paired.shape, batch.valid.shape, batch.tokens.shape
    loss, weight = (getattr(part, "shape", None) for part in (terms.loss, terms.weight))
    if loss not in shapes or weight != loss:
        return f"returns a loss of shape {loss} and a weight of {weight} for N, K, R, T = 1, 2, 1, 3; both are [N], [N, K] or [R, T]"
    metrics = terms.metrics.items() if isinstance(terms.metrics, dict) else [("metrics", terms.metrics)]
    for name, pair in metrics:
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(hasattr(part, "shape") for part in pair):
            return f"returns metrics in which {name!r} is no pair of arrays, (values, weights)"
        values, weights = (part.shape for part in pair)
        if weights != values or (values[:1] != batch.paired.shape and values != batch.tokens.shape):
            return f"returns the metric {name!r} of shape {values} with weights of shape {weights}; both are [N, ...] or [R, T]"
    return ""
