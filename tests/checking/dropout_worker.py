"""The self-check of a run whose forward pass drops log-probs at random, as a command. Not a test itself."""

import sys

import jax

from jaxalign import selfcheck
from jaxalign.training import forward

plain = forward.next_token


def dropped(model, params, batch, step, **options):
    outputs = plain(model, params, batch, step, **options)
    layout = jax.typeof(outputs.logps).sharding
    kept = jax.random.bernoulli(jax.random.fold_in(jax.random.key(0), step), 0.9, outputs.logps.shape, out_sharding=layout)
    return outputs.replace(logps=outputs.logps * kept)


forward.FORWARDS["next_token"] = dropped
sys.exit(selfcheck.main())
