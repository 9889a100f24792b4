"""An objective traced on the shapes of one tiny batch: what it objects to, and the names of its statistics."""

from jaxalign.config import columns
from jaxalign.hparams import hparams_of


def statistics_names(resolved: dict) -> tuple[str, ...]:
    """Names of what the objective carries from step to step, found by tracing its `statistics` on the shapes of one tiny batch."""
    from jaxalign import objectives

    return objectives.statistics_of(*_tiny(resolved))


def check(resolved: dict) -> None:
    """Raises what the objective says, as a ValueError, of its hyper-parameters or of a column that it misses."""
    import jax

    from jaxalign import objectives, sharding
    from jaxalign.types import Terms

    objective, *inputs = _tiny(resolved)
    with sharding.no_devices():
        scalars = {name: jax.ShapeDtypeStruct((), "float32") for name in objectives.statistics_of(objective, *inputs)}
        terms = jax.eval_shape(objective.terms, *inputs, scalars)
    name, batch = resolved["objective"]["name"], inputs[-1]
    shapes = batch.paired.shape, batch.valid.shape, batch.tokens.shape
    if not isinstance(terms, Terms) or terms.loss.shape not in shapes or terms.weight.shape != terms.loss.shape:
        raise ValueError(f"objective {name!r} does not return Terms of a loss and a weight of one shape: [N], [N, K] or [R, T].")


def _tiny(resolved):
    """(objective, policy, reference, batch): the bound objective and shapes of what it will see."""
    from jaxalign import objectives
    from jaxalign.training.reference import WITH_WEIGHTS

    name, rule = resolved["objective"]["name"], resolved["reference"]["rule"]
    hparams = {key: resolved["objective"][key] for key in hparams_of(objectives.named(name)[0])}
    by_response, by_token = columns.known(resolved, objectives.reads(name, **hparams))
    with_head = resolved["model"]["value_head"] is not None
    policy, batch = objectives.tiny_inputs(columns=by_response, token_columns=by_token, value_head=with_head)
    reference = policy if rule in WITH_WEIGHTS else None if rule == "none" else policy.replace(hidden=None, unembed=None)
    return objectives.bind(name, **hparams), policy, reference, batch
