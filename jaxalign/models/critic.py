"""The critic: the value of every token, on the hidden states of the policy's decoder or of a decoder of its own.

The weights of a decoder of its own are params["critic"]["decoder"], beside those of the head.
"""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from jaxalign.lm_head.chunks import by_token
from jaxalign.models import model as models
from jaxalign.models.model import CRITIC, DECODER, Model
from jaxalign.types import Batch

Array = jax.Array


def token_values(model: Model, params: dict[str, Any], hidden: Array, batch: Batch, **options) -> Array:
    """The critic's value before each scored token is drawn: float32[R, T], 0 where slots < 0.

    It is read from hidden[r, t - 1], hidden [R, T, D] as from `model.hidden`, or from the states of the critic's own decoder; the gradient
    goes into the decoder that it is read from. A value does not depend on how rows are packed or prompts shared.

    Args:
      options: of `model.hidden`.
    """
    own = model.critic_decoder
    if own is not None:
        inputs = batch.tokens, batch.positions, batch.segments, batch.prefixes
        hidden = models.hidden(own, params[CRITIC][DECODER], *inputs, **options)
    head = {name: tree for name, tree in params[CRITIC].items() if name != DECODER}
    after = nnx.merge(model.critic, head)(hidden)
    return jnp.where(batch.slots >= 0, by_token(after), 0.0)
