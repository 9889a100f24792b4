"""The value head: golden numbers, exact masks, any packing and mesh, and that the decoder never notices it."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxalign import sharding
from jaxalign.data.rows import pack
from jaxalign.hf import names
from jaxalign.hf.load import load
from jaxalign.hf.save import save
from jaxalign.models import heads
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.models.heads import ValueHeadConfig
from jaxalign.training import forward

COUNT, ROW_TOKENS = 6, 128
MAX_VALUE = 5.0


@functools.cache
def with_head():
    return models.build(toys.CONFIG, ValueHeadConfig(max_value=MAX_VALUE))


def parameters(seed=0):
    """Random parameters on the mesh in scope, biases too, so that nothing is at a special value."""
    draw = np.random.default_rng(seed)

    def leaf(shape, partition):
        return jax.device_put((0.3 * draw.standard_normal(shape.shape)).astype(np.float32), sharding.named(partition))

    return jax.tree.map(leaf, with_head().shapes, models.shardings(with_head()))


def rows(plan, *, share_prompt=True):
    return pack.assemble(toys.groups(COUNT, seed=3), np.asarray(plan, np.int32), row_tokens=ROW_TOKENS, share_prompt=share_prompt)


@jax.jit
def look(params, batch):
    """Values float32[N, K]; N in the order of the plan."""
    inputs = batch.positions, batch.segments, batch.prefixes
    hidden = models.hidden(with_head(), params, batch.tokens, *inputs, dtype=jnp.float32, remat="none", attention="xla")
    return models.prompt_values(with_head(), params, hidden, *inputs, batch.slots, batch.valid)


def values(plan, *, mesh=(1, 1, 1), **options):
    """By group: float32[COUNT, 3], of which the last is a response to another prompt."""
    with jax.set_mesh(toys.mesh(mesh)):
        found = np.asarray(look(parameters(), toys.place(rows(plan, **options))))
    members = np.asarray(plan).reshape(-1)
    return found[[int(np.flatnonzero(members == g)[0]) for g in range(COUNT)]]


SINGLE = np.arange(COUNT)[:, None]


@functools.cache
def alone():
    return values(SINGLE)


def test_both_responses_of_a_prompt_have_its_value_and_prompts_differ():
    expected = alone()
    assert ((expected[:, 0] > 0) & (expected[:, 0] < MAX_VALUE)).all()
    whole = [0, 3, 4, 5]  # group 1 has one response only, in group 2 unscored tokens of the responses belong to what is given
    np.testing.assert_allclose(expected[whole, 0], expected[whole, 1], rtol=1e-6)
    assert len(np.unique(expected[:, 0].round(4))) == COUNT


def test_a_response_that_is_not_there_has_the_value_0():
    assert alone()[1, 1] == 0 and (np.delete(alone().reshape(-1), 4) > 0).all()


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("plan", [SINGLE, [[0, 1, 2], [3, 4, 5]], [[5, 3, -1], [-1, 1, 0], [2, 4, -1]]], ids=["single", "packed", "mixed"])
def test_packing_and_sharing_of_prompts_do_not_change_a_value(plan, share_prompt):
    np.testing.assert_allclose(values(plan, share_prompt=share_prompt), alone(), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)], ids=str)
def test_meshes_agree(mesh):
    plan = np.array([[0, 1], [2, -1], [3, -1], [4, -1], [5, -1], [-1, -1], [-1, -1], [-1, -1]])
    np.testing.assert_allclose(values(plan, mesh=mesh), alone(), rtol=1e-6, atol=1e-6)


def test_only_tokens_before_the_first_scored_one_are_seen():
    arrays = rows([[0, 2], [3, 5]])
    with jax.set_mesh(toys.mesh()):
        inputs = (arrays[name] for name in ("positions", "segments", "prefixes", "slots"))
        found = np.asarray(heads.prompts_of(*inputs, 6))
    groups = toys.groups(COUNT, seed=3)
    for (r, g), group in zip(np.ndindex(2, 2), (0, 2, 3, 5), strict=True):
        prompt, _ = groups.piece(group, 0)
        for k in range(3):
            _, scored = groups.piece(group, 1 + k)
            assert found[r, 3 * g + k].sum() == len(prompt) + np.flatnonzero(scored)[0]
            np.testing.assert_array_equal(arrays["tokens"][r][found[r, 3 * g + k]][: len(prompt)], prompt)


def test_what_the_responses_say_does_not_change_the_value():
    changed = rows(SINGLE)
    scored = changed["slots"] >= 0
    changed["tokens"] = np.where(scored, (changed["tokens"] + 7) % toys.CONFIG.vocab_size, changed["tokens"]).astype(np.int32)
    with jax.set_mesh(toys.mesh()):
        np.testing.assert_array_equal(look(parameters(), toys.place(changed)), alone())


def test_the_decoder_gets_no_gradient_and_every_weight_of_the_head_does():
    with jax.set_mesh(toys.mesh()):
        gradient = jax.jit(jax.grad(lambda params, batch: (look(params, batch) ** 2).sum()))(parameters(), toys.place(rows(SINGLE)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(models.without_head(gradient)))
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradient["value_head"]))


@pytest.mark.slow
def test_the_decoder_does_not_notice_the_head():
    with jax.set_mesh(toys.mesh()):
        plain, key = toys.model(), jax.random.key(3)
        ours, theirs = models.init(with_head(), key), models.init(plain, key)
        assert jax.tree.all(jax.tree.map(np.array_equal, models.without_head(ours), theirs))
        head = models.init_heads(with_head(), key)["value_head"]
        assert jax.tree.all(jax.tree.map(np.array_equal, head, ours["value_head"]))
        np.testing.assert_allclose(np.std(head["query"]), 1, rtol=0.4)
    assert [tensor.name for tensor in names.tensors(with_head())] == [tensor.name for tensor in names.tensors(plain)]


def test_the_head_is_stored_like_other_weights():
    with jax.set_mesh(toys.mesh((1, 8, 1))):
        assert jax.tree.map(lambda x: x.sharding.spec, models.init(with_head(), jax.random.key(0))) == models.shardings(with_head())
        partitions = models.shardings(with_head())["value_head"]
    assert all(sharding.FSDP in partitions[name]["kernel"] for name in ("q", "k", "v", "linear"))


@pytest.mark.parametrize(("width", "heads", "used"), [(32, 8, 8), (36, 8, 6), (36, 4, 4), (14, 8, 7), (2, 8, 2)])
def test_the_number_of_heads_divides_the_width(width, heads, used):
    config = ModelConfig(family="llama", vocab_size=8, width=width, layers=1, heads=1, kv_heads=1, head_dim=2, mlp_width=4, max_positions=8)
    built = models.build(config, ValueHeadConfig(heads=heads))
    assert built.shapes["value_head"]["q"]["kernel"].shape == (width, used, width // used)


@pytest.mark.parametrize("options", [{"max_value": 0.0}, {"heads": 0}])
def test_a_head_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="both must be above 0"):
        ValueHeadConfig(**options)


def test_scores_of_any_size_give_finite_weights_and_gradients():
    scores, mask = jnp.array([[800.0, -800.0, 1e30], [800.0, -800.0, 3.0]]), jnp.array([[True, True, False], [False, False, False]])
    weights, gradient = heads.masked_softmax(scores, mask), jax.grad(lambda x: heads.masked_softmax(x, mask)[0, 0])(scores)
    np.testing.assert_array_equal(weights, [[1, 0, 0], [0, 0, 0]])
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_the_forward_pass_fills_in_the_values_of_a_model_with_a_head():
    look = functools.partial(forward.next_token, dtype=jnp.float32, remat="none", attention="xla")
    with jax.set_mesh(toys.mesh()):
        params, batch = parameters(), toys.place(rows(SINGLE))
        found = look(with_head(), params, batch, jnp.int32(0))
        plain = look(toys.model(), models.without_head(params), batch, jnp.int32(0))
    np.testing.assert_allclose(found.prompt_values, alone(), rtol=1e-6)
    np.testing.assert_array_equal(found.logps, plain.logps)
    assert plain.prompt_values is None


def test_the_attention_is_that_of_torch_which_has_a_bias_on_the_keys_too():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    width, count, length = toys.CONFIG.width, 8, 7
    theirs = torch.nn.MultiheadAttention(width, count, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    torch.nn.init.normal_(theirs.out_proj.bias)
    query, hidden, linear = torch.randn(width), torch.randn(2, length, width), torch.nn.Linear(width, 1)
    seen = torch.tensor([[True] * length, [True, False, True, True, False, False, True]])
    with torch.no_grad():
        pooled, _ = theirs(query.expand(2, 1, width), hidden, hidden, key_padding_mask=~seen)
        expected = MAX_VALUE * torch.sigmoid(linear(pooled[:, 0]))[:, 0]

    kernels = theirs.in_proj_weight.detach().numpy().reshape(3, count, width // count, width).transpose(0, 3, 1, 2)
    biases = theirs.in_proj_bias.detach().numpy().reshape(3, count, width // count)
    head = {name: {"kernel": kernels[i], "bias": biases[i]} for i, name in enumerate("qkv")} | {
        "query": query.numpy(),
        "output": {
            "kernel": theirs.out_proj.weight.detach().numpy().T.reshape(count, width // count, width),
            "bias": theirs.out_proj.bias.detach().numpy(),
        },
        "linear": {"kernel": linear.weight.detach().numpy().T, "bias": linear.bias.detach().numpy()},
    }
    del head["k"]["bias"]
    with jax.set_mesh(toys.mesh()):
        placed = jax.tree.map(lambda x, spec: jax.device_put(x, sharding.named(spec)), head, models.shardings(with_head())["value_head"])
        arrays = (jax.device_put(x.numpy(), sharding.named(sharding.rows_spec(3))) for x in (hidden, seen[:, None]))
        ours = nnx.merge(with_head().value_head, placed)(*arrays)
    np.testing.assert_allclose(ours[:, 0], expected.numpy(), rtol=1e-5)


def test_a_checkpoint_of_a_model_with_a_head_holds_the_decoder_and_loads_into_either(tmp_path):
    config = ModelConfig(family="llama", vocab_size=64, width=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp_width=4, max_positions=8)
    headed, plain = models.build(config, ValueHeadConfig()), models.build(config)
    with jax.set_mesh(toys.mesh()):
        params = models.init(headed, jax.random.key(0))
        save(tmp_path / "out", headed, params)
        for model in (headed, plain):
            loaded, kept = load(tmp_path / "out", model), models.without_head(params)
            for tree in (loaded, kept):
                tree |= {"embed": {"tokens": tree["embed"]["tokens"][:64]}, "head": {"kernel": tree["head"]["kernel"][:64]}}  # no padding
            jax.tree.map(np.testing.assert_array_equal, loaded, kept)
