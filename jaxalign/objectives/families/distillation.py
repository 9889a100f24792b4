"""What the distillation objectives share: the teacher's distributions, and what is logged of teacher and student."""

import jax
import jax.numpy as jnp

from jaxalign.lm_head import divergences
from jaxalign.types import Array, Batch, Outputs, at_tokens, max_responses, response_lengths, sum_responses

PARTS = ("front", "middle", "end")  # thirds of a response
Metrics = dict[str, tuple[Array, Array]]


def measured(name: str, policy: Outputs, reference: Outputs, batch: Batch, kind: divergences.Kind) -> tuple[Array, Metrics]:
    """(the divergence of the student, the policy, from the teacher, the reference: float32[R, T]; its metrics).

    Metrics are means over tokens in nats: the divergence in each third of a response, both KLs whatever is trained, both entropies; and
    sums over whole responses: "kl/sequence", the mean of which is the KL of whole texts where the teacher wrote the responses and no
    temperature or top_k changes the distributions.

    Raises:
      ValueError: the teacher is a table of log-probs, or has another vocabulary, or a value of `kind` is out of its range; `name` is
        that of the objective.
    """
    kind.check()
    if reference.hidden is None:
        raise ValueError(
            f"objective {name!r} needs the teacher's whole distribution but this reference has log-probs of the given tokens only; use "
            "reference.rule='teacher', or the objective distill_sampled, which needs no more."
        )
    sides = ((outputs.hidden, outputs.unembed) for outputs in (policy, reference))
    options = {"vocab_size": shared_vocabulary(policy, reference), "softcaps": (policy.softcap, reference.softcap)}
    value, of = divergences.measured_divergence(*sides, batch.slots >= 0, kind, **options)
    weight = token_weights(batch)
    names = "kl/forward", "kl/reverse", "entropy/teacher", "entropy/student"
    metrics = {key: (x, weight) for key, x in zip(names, of, strict=True)}
    metrics["kl/sequence"] = sum_responses(of.forward, batch), batch.valid.astype(jnp.float32)
    third = _third(batch)
    metrics |= {f"divergence/{part}": (value, weight * (third == i)) for i, part in enumerate(PARTS)}
    constant = jax.lax.stop_gradient({key: values for key, (values, _) in metrics.items()})
    return value, {key: (constant[key], weights) for key, (_, weights) in metrics.items()} | sides_metrics(policy, reference, batch)


def shared_vocabulary(policy: Outputs, reference: Outputs) -> int:
    """The number of tokens of both.

    Raises:
      ValueError: they have different numbers.
    """
    if policy.vocab_size != reference.vocab_size:
        sizes = f"{policy.vocab_size:,} tokens and its reference {reference.vocab_size:,}"
        raise ValueError(f"the policy has {sizes}, and they cannot be compared; use a reference with the same vocabulary.")
    return policy.vocab_size


def sides_metrics(policy: Outputs, reference: Outputs, batch: Batch) -> Metrics:
    """Log-probs of valid responses under student and teacher, and their lengths; a gradient goes through none of them."""
    valid = batch.valid.astype(jnp.float32)
    sums = {"student": policy.logps, "teacher": reference.logps}
    logps = {f"logps/{name}": (sum_responses(jax.lax.stop_gradient(x), batch), valid) for name, x in sums.items()}
    return logps | {"lengths/responses": (response_lengths(batch), valid)}


def token_weights(batch: Batch) -> Array:
    """1 for every scored token of a valid response, else 0: float32[R, T]."""
    return at_tokens(batch.valid.astype(jnp.float32), batch)


def _third(batch):
    """Which of PARTS a scored token stands in: float32[R, T]. Positions of its response that are not scored count."""
    span = batch.positions.shape[1]
    last = max_responses(batch.positions, batch)
    first = span - max_responses(jnp.maximum(span - batch.positions, 0), batch)
    return jnp.floor(3 * (batch.positions - at_tokens(first, batch)) / (at_tokens(last - first, batch) + 1.0))
