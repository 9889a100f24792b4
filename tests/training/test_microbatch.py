"""Parts of a batch: what becomes of rows and groups, and on which device they are."""

import jax
import numpy as np
import pytest
import toys

from jaxalign import sharding
from jaxalign.data.rows import pack
from jaxalign.training import microbatch

PLAN = np.arange(8, dtype=np.int32).reshape(4, 2)


def arrays():
    return pack.assemble(toys.groups(8, seed=5), PLAN, row_tokens=64, share_prompt=True)


@pytest.mark.parametrize(
    ("mesh", "parts", "message"), [((1, 1, 1), 3, "multiple of 3"), ((2, 1, 1), 4, "data=2 x fsdp=1 = 2 devices")], ids=["parts", "devices"]
)
def test_rows_that_do_not_split_are_refused(mesh, parts, message):
    words = rf"batch.rows=4 .* batch.gradient_accumulation_steps={parts}.*{message}"
    with jax.set_mesh(toys.mesh(mesh)), pytest.raises(ValueError, match=words):
        microbatch.split(toys.place(arrays()), parts)


def test_groups_stay_with_their_rows_in_a_microbatch():
    with jax.set_mesh(toys.mesh()):
        parts = microbatch.split(toys.place(arrays()), 2)
    whole = arrays()
    for part in range(2):
        rows = [part, part + 2]
        np.testing.assert_array_equal(parts.tokens[part], whole["tokens"][rows])
        np.testing.assert_array_equal(parts.valid[part], whole["valid"].reshape(4, 2, 3)[rows].reshape(4, 3))


def test_microbatches_keep_every_row_on_its_device():
    with jax.set_mesh(toys.mesh((2, 2, 1))):
        x = jax.device_put(np.arange(32.0).reshape(16, 2), sharding.named(sharding.rows_spec(2)))
        parts = jax.jit(lambda x: microbatch.split_axis(x, 2, 8))(x)  # 8 rows of two groups
        homes = {shard.device: set(np.asarray(shard.data).ravel()) for shard in x.addressable_shards}
        assert all(set(np.asarray(shard.data).ravel()) == homes[shard.device] for shard in parts.addressable_shards)
        back = jax.jit(lambda parts: microbatch.join_axis(parts, 8))(parts)
        assert back.sharding == x.sharding and back.shape == x.shape
    np.testing.assert_array_equal(back, x)
    np.testing.assert_array_equal(parts[0][:, 0], [0, 2, 8, 10, 16, 18, 24, 26])
