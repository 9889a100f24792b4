"""Logits, log-prob gradients and checkpoint round trips against transformers (torch CPU, float32) for every family."""

import types

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.hf import names
from jaxalign.hf.load import load, load_config
from jaxalign.hf.save import save
from jaxalign.hf.tensors import scan
from jaxalign.models import model as models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = np.random.default_rng(0).integers(3, 101, (2, 20))
TOLERANCE = 2e-5  # of the largest value of each array


QUICK = ("llama", "gemma3", "gpt_neox", "gpt2")  # between them all that distinguishes the others


@pytest.fixture(scope="module", params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in checkpoints.CASES])
def both(request, tmp_path_factory):
    """One checkpoint: its folder, what torch computes, and what we compute."""
    folder = tmp_path_factory.mktemp(request.param) / "theirs"
    theirs = checkpoints.torch_model(request.param)
    theirs.save_pretrained(folder)
    tokens = torch.tensor(TOKENS)
    logits = theirs(tokens).logits
    logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum().backward()
    in_file = {"lm_head.weight": "embed_out.weight"} if request.param.startswith("gpt_neox") else {}  # in memory it has another name
    gradients = {in_file.get(name, name): parameter.grad.numpy() for name, parameter in theirs.named_parameters()}

    model = models.build(load_config(folder))
    with jax.set_mesh(checkpoints.one_device()):
        params = load(folder, model)
        inputs = checkpoints.plain(TOKENS)

        def total(params):
            found = checkpoints.logits(model, params, inputs)
            logps = jax.nn.log_softmax(found[:, :-1])
            return jnp.take_along_axis(logps, inputs[0][:, 1:, None], -1).sum(), found

        (_, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return types.SimpleNamespace(
        folder=folder, model=model, params=params, theirs=logits.detach().numpy(), ours=np.asarray(found),
        their_gradients=gradients, our_gradients=_by_tensor(model, gradient),
    )  # fmt: skip


def test_logits_equal_transformers(both):
    np.testing.assert_allclose(both.ours, both.theirs, rtol=0, atol=TOLERANCE * np.abs(both.theirs).max())


def test_gradients_of_the_log_probs_equal_transformers(both):
    assert set(both.our_gradients) == set(both.their_gradients)
    errors = {name: _error(both.our_gradients[name], theirs) for name, theirs in both.their_gradients.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def test_export_writes_every_tensor_bit_equal_and_transformers_gives_the_same_logits(both, tmp_path):
    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "ours", both.model, both.params, max_shard_bytes=20_000)
    index = transformers.utils.cached_file(tmp_path / "ours", "model.safetensors.index.json")
    files = (tmp_path / "ours").glob("*.safetensors")
    ours = {name: stored.read() for file in files for name, stored in scan(file).items()}
    theirs = {name: stored.read() for name, stored in scan(both.folder / "model.safetensors").items()}
    assert index and set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.tensor(TOKENS)).logits.numpy(), both.theirs)


def test_importing_our_export_gives_back_every_parameter_bit_equal(both, tmp_path):
    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "ours", both.model, both.params)
        assert load_config(tmp_path / "ours") == both.model.config
        again = load(tmp_path / "ours", both.model)
    jax.tree.map(np.testing.assert_array_equal, both.params, again)


def _by_tensor(model, tree):
    leaves = dict(names.leaves(tree))

    def pick(path, layer):
        return np.asarray(leaves[path] if layer is None else leaves[path][layer])

    return {t.name: names.from_leaves(t, [pick(path, t.layer) for path, _ in t.leaves], model.config) for t in names.tensors(model)}


def _error(ours, theirs):
    # A key bias shifts every score of a query alike, so its true gradient is 0 and only rounding is left: hence the floor.
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 0.1)
