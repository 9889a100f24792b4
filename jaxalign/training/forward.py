"""How a model looks at a batch: `(model, params, batch, step, **options) -> Outputs`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxalign.lm_head import distributions, logps
from jaxalign.models import critic
from jaxalign.models import model as models
from jaxalign.types import Array, Batch, Features, Outputs, column


def next_token(model: models.Model, params, batch: Batch, step: Array, *, dtype: jnp.dtype, remat: str, attention: str) -> Outputs:
    """The ordinary forward pass: log-probs of every scored token under teacher forcing.

    Args:
      model, params: the decoder and its float32 parameters.
      batch: R rows of T tokens.
      step: int32[]; handed on in the outputs.
      dtype: of the matmuls; norms, soft-max and log-probs are float32.
      remat: "none", "dots", "attention" or "full": what the backward pass computes again, see `models.hidden`.
      attention: name of the attention implementation.
    """
    return _outputs(model, params, batch, step, None, dtype=dtype, remat=remat, attention=attention)


def two_pass(
    model: models.Model,
    params,
    batch: Batch,
    step: Array,
    *,
    mixing: float = 0.2,
    mixing_start: float = 0.0,
    mixing_warmup_steps: int = 0,
    mixing_noise: float = 0.0,
    seed: int = 0,
    train_embeddings: bool = False,
    dtype: jnp.dtype,
    remat: str,
    attention: str,
) -> Outputs:
    """IFT's temporal residual (arXiv 2405.11870, equation 17 and algorithm 1): the gold text, mixed with what the model would have said.

    A first pass without a gradient finds the greedy token at every scored place; the second pass reads
    (1 - lambda) E[gold] + lambda E[greedy] there and E[gold] elsewhere, and gives the log-probs of the *gold* tokens. With mixing 0
    there is no first pass.

    Args:
      model, params, batch, dtype, remat, attention: as in `next_token`.
      step: int32[]; optimizer steps done, for the schedule of lambda.
      mixing, mixing_start, mixing_warmup_steps, mixing_noise: see `mixing_at`. The paper: 0.2, constant; noise 0.5 in its last table.
      seed: of the noise; one draw per step, the same for all microbatches.
      train_embeddings: False (as published): the embeddings that are read are constants, so a table that is not tied to the head rests.

    Raises:
      ValueError: an option out of its range.
    """
    check_mixing(mixing=mixing, mixing_start=mixing_start, mixing_warmup_steps=mixing_warmup_steps, mixing_noise=mixing_noise)
    scored, tokens, options = batch.slots >= 0, batch.tokens, {"dtype": dtype, "remat": remat, "attention": attention}
    greedy, share = None, jnp.zeros(())
    if mixing or (mixing_start and mixing_warmup_steps):
        first = jax.lax.stop_gradient(params)
        inputs = batch.positions, batch.segments, batch.prefixes
        hidden, unembed = models.hidden(model, first, tokens, *inputs, **options), models.unembed(model, first)
        greedy = distributions.token_argmax(hidden, unembed, scored, **_head(model))
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), step)) if mixing_noise else 0.0
        schedule = {"mixing": mixing, "mixing_start": mixing_start, "mixing_warmup_steps": mixing_warmup_steps}
        share = mixing_at(step, noise, **schedule, mixing_noise=mixing_noise)
    rows = mix(
        lambda ids: models.embed(model, params, ids, dtype=dtype),
        tokens,
        None if greedy is None else jnp.where(scored, greedy, tokens),
        share,
        train_embeddings=train_embeddings,
    )
    return _outputs(model, params, batch, step, rows, **options).replace(greedy=greedy)


def mixing_at(
    step: Array, noise: Array | float, *, mixing: float, mixing_start: float, mixing_warmup_steps: int, mixing_noise: float
) -> Array:
    """lambda at a step, float32 in [0, 1].

    Rises linearly from mixing_start at step 0 to `mixing` at step mixing_warmup_steps (0: `mixing` at once), times
    1 + mixing_noise * noise, where noise is one standard normal number.
    """
    ramp = jnp.minimum(1.0, step / mixing_warmup_steps) if mixing_warmup_steps else 1.0
    share = mixing_start + (mixing - mixing_start) * ramp
    return jnp.clip(jnp.asarray(share * (1 + mixing_noise * noise), jnp.float32), 0.0, 1.0)


def mix(embed: Callable, gold: Array, greedy: Array | None, share: Array, *, train_embeddings: bool) -> Array:
    """(1 - share) embed(gold) + share embed(greedy): [R, T, D], without greedy embed(gold); a constant unless train_embeddings."""
    x = embed(gold)
    if greedy is not None:
        share = share.astype(x.dtype)
        x = (1 - share) * x + share * embed(greedy)
    return x if train_embeddings else jax.lax.stop_gradient(x)


def check_mixing(*, mixing: float, mixing_start: float, mixing_warmup_steps: int, mixing_noise: float) -> None:
    """Raises ValueError where an option of `two_pass` is out of its range or has no effect."""
    for name, value in (("mixing", mixing), ("mixing_start", mixing_start)):
        if not 0 <= value <= 1:
            raise ValueError(f"forward.{name}={value} is a share of the embedding; choose it in [0, 1], the paper has 0.2.")
    if mixing_start and not mixing_warmup_steps:
        raise ValueError(f"forward.mixing_start={mixing_start} is where a warm-up begins, and there is none; set mixing_warmup_steps.")
    if mixing_warmup_steps < 0 or mixing_noise < 0:
        raise ValueError(f"forward.mixing_warmup_steps={mixing_warmup_steps} and mixing_noise={mixing_noise} must not be below 0.")
    if mixing_noise and not mixing and not mixing_start:
        raise ValueError(f"forward.mixing_noise={mixing_noise} has no effect on mixing=0: it is a factor of it; leave it out.")


def _head(model):
    return {"vocab_size": model.config.vocab_size, "softcap": model.config.logit_softcap or None}


def _outputs(model, params, batch, step, embedded, *, dtype, remat, attention):
    inputs, options = (batch.tokens, batch.positions, batch.segments, batch.prefixes), dict(dtype=dtype, remat=remat, attention=attention)
    hidden = models.hidden(model, params, *inputs, embedded=embedded, **options)
    unembed, head = models.unembed(model, params), _head(model)
    values = logps.token_logps(hidden, unembed, batch.tokens, batch.slots >= 0, **head)
    prompt_values = models.prompt_values(model, params, hidden, *inputs[1:], batch.slots, batch.valid) if model.value_head else None
    rewards, features = _rewards(model, params, hidden, batch)
    of_critic = critic.token_values(model, params, hidden, batch, **options) if model.critic else None
    return Outputs(values, hidden, unembed, prompt_values, rewards=rewards, step=step, features=features, values=of_critic, **head)


def _rewards(model, params, hidden, batch):
    # of hidden states, or of columns, for which the decoder is not computed
    if model.reward_head is None or model.features is None:
        return models.rewards(model, params, hidden, batch.positions, batch.slots, batch.valid) if model.reward_head else None, None
    names, directions = zip(*((feature.name, feature.direction) for feature in model.features.features), strict=True)
    rewards, members, values = models.feature_rewards(model, params, jnp.stack([column(batch, name) for name in names], axis=-1))
    return rewards, Features(values, members, names, directions)


FORWARDS = {"next_token": next_token, "two_pass": two_pass}
