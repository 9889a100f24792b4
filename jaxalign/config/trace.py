"""An objective traced on the shapes of one tiny batch: what it objects to."""

from jaxalign.config import columns


def check(resolved: dict, objective) -> None:
    """Raises the ValueError that the bound objective raises of its hyper-parameters or of a column that it misses."""
    import jax

    from jaxalign import objectives, sharding
    from jaxalign.training.reference import RULES
    from jaxalign.types import Terms

    by_response, by_token = columns.known(resolved, objective.reads)
    with_head = resolved["model"]["value_head"] is not None
    policy, batch = objectives.tiny_inputs(columns=by_response, token_columns=by_token, value_head=with_head)
    plain = policy.replace(hidden=None, unembed=None)
    reference = {"weights": policy, "logps": plain, "nothing": None}[RULES[resolved["reference"]["rule"]].holds]
    with sharding.no_devices():
        statistics = jax.eval_shape(objective.statistics, policy, reference, batch)
        scalars = {name: jax.ShapeDtypeStruct((), "float32") for name in statistics}
        terms = jax.eval_shape(objective.terms, policy, reference, batch, scalars)
    shapes = batch.paired.shape, batch.valid.shape, batch.tokens.shape
    if not isinstance(terms, Terms) or terms.loss.shape not in shapes or terms.weight.shape != terms.loss.shape:
        raise ValueError(
            f"objective {objective.name!r} does not return Terms of a loss and a weight of one shape: [N], [N, K] or [R, T]."
        )
