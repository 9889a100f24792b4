"""What the forward pass keeps for the backward pass, by the remat policies."""

import jax
from jax.ad_checkpoint import print_saved_residuals
import jax.numpy as jnp
import pytest

from jaxalign.models.decoder import REMAT


@pytest.mark.parametrize("outputs", [64, 4 * 64, 8 * 64], ids=["a square map", "an MLP of GPT-2 or Llama 3.2 1B", "an MLP of Gemma 2B"])
def test_dots_keeps_the_outputs_of_linear_maps(outputs, capsys):
    x, w = jnp.ones((8, 64)), jnp.ones((64, outputs))
    print_saved_residuals(jax.checkpoint(lambda x, w: jnp.sin(jnp.cos(x @ w)).sum(), policy=REMAT["dots"]), x, w)
    assert f"f32[8,{outputs}]" in "".join(line for line in capsys.readouterr().out.splitlines() if "argument" not in line)


@pytest.mark.parametrize(("rank", "kept"), [(4, 1), (64, 2)], ids=["an adapter", "two linear maps"])
def test_dots_keeps_one_output_of_a_map_with_an_adapter(rank, kept, capsys):
    x, w, a, b = (jnp.ones(shape) for shape in ((8, 64), (64, 64), (64, rank), (rank, 64)))

    def adapted(x, w, a, b):
        return jnp.sin(jnp.cos(x @ w) * jnp.cos((x @ a) @ b)).sum()

    print_saved_residuals(jax.checkpoint(adapted, policy=REMAT["dots"]), x, w, a, b)
    made = [line for line in capsys.readouterr().out.splitlines() if "f32[8,64]" in line and "argument" not in line]
    assert len(made) == kept + (rank == 64)  # at rank 64 x A is of that shape too
