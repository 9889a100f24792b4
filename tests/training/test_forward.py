"""How a model looks at a batch: the two passes of IFT against a dense computation, and the schedule of the mixing coefficient."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign.data.rows import pack
from jaxalign.models import model as models
from jaxalign.training import forward

SCHEDULE = json.loads((Path(__file__).parents[1] / "golden" / "vectors-tr-ift.json").read_text())["T10_lambda_schedule"]["expected"]
OPTIONS = {"dtype": jnp.float32, "remat": "none", "attention": "xla"}
PLAN = np.array([[0, 1], [2, -1], [3, 4], [-1, 5], [6, 7], [8, 9], [-1, -1], [10, 11]], np.int32)


def mixing(step, noise=0.0, *, largest=0.2, start=0.0, warmup=0, std=0.0):
    return forward.mixing_at(step, noise, mixing=largest, mixing_start=start, mixing_warmup_steps=warmup, mixing_noise=std)


def arrays():
    return pack.assemble(toys.groups(12, seed=3), PLAN, row_tokens=64, share_prompt=True)


def outputs(mesh=(1, 1, 1), **options):
    with jax.set_mesh(toys.mesh(mesh)):
        run = jax.jit(lambda p, b, s: forward.two_pass(toys.model(), p, b, s, **OPTIONS, **options))
        return jax.device_get(run(toys.place_params(toys.params(0)), toys.place(arrays()), jnp.asarray(7)))


def test_constant_mixing():
    np.testing.assert_allclose(mixing(900), SCHEDULE["static"], rtol=1e-6)


def test_linear_mixing():
    values = [mixing(jnp.asarray(step), largest=0.4, warmup=150) for step in (0, 75, 149, 150, 900)]
    np.testing.assert_allclose(values, SCHEDULE["linear_at_steps_0_75_149_150_900"], rtol=1e-6)


def test_noisy_mixing_is_kept_in_range():
    values = [mixing(0, noise, std=0.5) for noise in (-3.0, -1.0, 0.0, 0.5, 2.0)]
    np.testing.assert_allclose(values, SCHEDULE["noisy_lambda_for_each_xi"], rtol=1e-6, atol=1e-8)
    assert mixing(0, 100.0, std=0.5) == 1


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_two_passes_equal_a_dense_computation(mesh):
    ours = outputs(mesh, mixing=0.3)
    with jax.set_mesh(toys.mesh()):
        batch, params = toys.place(arrays()), toys.place_params(toys.params(0))
        places = batch.positions, batch.segments, batch.prefixes

        @jax.jit
        def logits(embedded):
            hidden = models.hidden(toys.model(), params, batch.tokens, *places, embedded=embedded, **OPTIONS)
            values = jnp.einsum("rtd,vd->rtv", hidden, models.unembed(toys.model(), params), precision="highest")
            return jnp.pad(jax.nn.log_softmax(values[:, :, : toys.CONFIG.vocab_size])[:, :-1], ((0, 0), (1, 0), (0, 0)))

        scored = batch.slots >= 0
        greedy = jnp.where(scored, logits(None).argmax(-1), 0)
        gold = params["embed"]["tokens"].at[batch.tokens].get(out_sharding=jax.typeof(batch.tokens).sharding)
        other = params["embed"]["tokens"].at[greedy].get(out_sharding=jax.typeof(batch.tokens).sharding)
        mixed = logits(jnp.where(scored[:, :, None], 0.7 * gold + 0.3 * other, gold))
        hit = batch.tokens[:, :, None] == jnp.arange(toys.CONFIG.vocab_size)
        expected = jnp.where(scored, jnp.where(hit, mixed, 0.0).sum(2), 0.0)
    np.testing.assert_array_equal(ours.greedy, greedy)
    np.testing.assert_allclose(ours.logps, expected, rtol=1e-4, atol=1e-4)


def test_without_mixing_there_is_one_pass_and_the_ordinary_log_probs():
    with jax.set_mesh(toys.mesh()):
        plain = jax.jit(lambda p, b: toys.next_token()(p, b, 0))(toys.place_params(toys.params(0)), toys.place(arrays()))
    ours = outputs(mixing=0.0)
    assert ours.greedy is None
    np.testing.assert_array_equal(ours.logps, plain.logps)


@pytest.mark.parametrize("train_embeddings", [False, True])
def test_embeddings_are_trained_only_where_asked(train_embeddings):
    def total(params, batch):
        return forward.two_pass(toys.model(), params, batch, 0, train_embeddings=train_embeddings, **OPTIONS).logps.sum()

    with jax.set_mesh(toys.mesh()):
        gradient = jax.jit(jax.grad(total))(toys.place_params(toys.params(0)), toys.place(arrays()))
    assert bool(gradient["embed"]["tokens"].any()) == train_embeddings
    assert gradient["head"]["kernel"].any()


@pytest.mark.slow
def test_noise_depends_on_seed_and_step_only():
    first, again, other = (outputs(mixing_noise=0.5, seed=seed).logps for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_mixing_rises_from_its_start_to_its_largest_over_the_warm_up():
    shares = [float(mixing(step, largest=0.5, start=0.1, warmup=4)) for step in (0, 2, 4, 9)]
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("options", [{"mixing": 1.2}, {"mixing_start": 0.1}, {"mixing_noise": -1.0}], ids=str)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"forward.*{next(iter(options))}"):
        outputs(**options)
