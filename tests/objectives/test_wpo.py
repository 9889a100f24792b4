"""WPO against numpy in float64: its weights from the whole distribution, constant in the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import toys

from jaxalign import objectives, sharding
from jaxalign.data.rows import pack
from jaxalign.objectives.dpo import dpo
from jaxalign.objectives.wpo import wpo
from jaxalign.training import forward
from jaxalign.types import Outputs

OPTIONS = {"dtype": jnp.float32, "remat": "none", "attention": "xla"}


def case():
    plan = np.arange(6, dtype=np.int32).reshape(3, 2)
    with jax.set_mesh(toys.mesh()):
        batch = toys.place(pack.assemble(toys.groups(6, seed=5), plan, row_tokens=64, share_prompt=True))
        look = jax.jit(lambda p: forward.next_token(toys.model(), p, batch, 0, **OPTIONS))
        return (*(look(toys.place_params(toys.params(seed))) for seed in (0, 1)), batch)


def expected_weights(policy, batch):
    """w of every response: float64[N, K]."""
    hidden, head = (np.asarray(x, np.float64) for x in (policy.hidden, policy.unembed))
    logits = (hidden @ head.T)[:, :, : toys.CONFIG.vocab_size]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    collision = np.log(np.exp(2 * log_p).sum(-1))
    groups, responses = batch.valid.shape
    weights, slots = np.ones((groups, responses)), np.asarray(batch.slots)
    for r in range(len(slots)):
        for slot in range(groups // len(slots) * responses):
            places = np.flatnonzero(slots[r] == slot)
            if len(places):
                terms = log_p[r, places - 1, np.asarray(batch.tokens)[r, places]] - collision[r, places - 1]
                weights[(r * groups // len(slots)) + slot // responses, slot % responses] = np.exp(terms.mean())
    return weights


def test_the_loss_is_dpo_times_both_weights_and_the_weights_have_no_gradient():
    policy, reference, batch = case()
    weights = expected_weights(policy, batch)
    product = jnp.asarray(weights[:, :2].prod(1), jnp.float32)

    def total(objective, factor):
        def run(logps):
            terms = objective(policy.replace(logps=logps), Outputs(reference.logps), batch)
            return jnp.sum(factor * terms.loss * terms.weight), terms

        return jax.jit(jax.grad(run, has_aux=True))(policy.logps)

    with jax.set_mesh(toys.mesh()):
        gradient, terms = total(wpo, 1.0)
        plain_gradient, plain = total(dpo, product)
    np.testing.assert_allclose(terms.loss, product * plain.loss, rtol=2e-5)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=2e-5, atol=1e-6)
    for side, name in enumerate(("chosen", "rejected")):
        value, weight = terms.metrics[f"weights/{name}"]
        np.testing.assert_allclose(value, weights[:, side], rtol=2e-5)
        np.testing.assert_array_equal(weight, terms.weight)


def test_it_can_be_traced_on_shapes_where_there_is_no_mesh():
    outputs, batch = objectives.tiny_inputs()
    with sharding.no_devices():
        assert jax.eval_shape(lambda o, b: wpo(o, o, b), outputs, batch).loss.shape == (1,)
