"""How a model looks at a batch: `(model, params, batch, step, **options) -> Outputs`."""

import jax.numpy as jnp

from jaxalign import logps
from jaxalign.models import model as models
from jaxalign.types import Array, Batch, Outputs


def next_token(model: models.Model, params, batch: Batch, step: Array, *, dtype: jnp.dtype, remat: str, attention: str) -> Outputs:
    """The ordinary forward pass: log-probs of every scored token under teacher forcing.

    Args:
      model, params: the decoder and its float32 parameters.
      batch: R rows of T tokens.
      step: int32[]; not read here.
      dtype: of the matmuls; norms, soft-max and log-probs are float32.
      remat: "none", "dots" or "full": what the backward pass computes again.
      attention: name of the attention implementation.
    """
    hidden = models.hidden(
        model, params, batch.tokens, batch.positions, batch.segments, batch.prefixes, dtype=dtype, remat=remat, attention=attention
    )
    unembed = models.unembed(model, params)
    values = logps.token_logps(
        hidden, unembed, batch.tokens, batch.slots >= 0, vocab_size=model.config.vocab_size, softcap=model.config.logit_softcap or None
    )
    return Outputs(values, hidden, unembed)
