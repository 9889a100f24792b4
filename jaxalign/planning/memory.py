"""Memory of one device by what it is for, from shapes and shardings; what rests on the host is counted by itself."""

import dataclasses

import jax

from jaxalign import offload
from jaxalign.planning.program import Work, local_bytes

CAUSES = ("parameters", "optimizer", "reference", "gradients", "activations", "head", "temporary")


@dataclasses.dataclass(frozen=True)
class State:
    """Bytes of one device's part of a train state."""

    parameters: float  # trained and frozen
    trained: float  # of these, those that have a gradient
    optimizer: float
    reference: float  # and the initial one, where it is kept
    host: float = 0.0  # of optimizer and reference in the memory of the host, and of neither above


def state_bytes(state) -> State:
    """Of a TrainState of shapes with shardings, or of arrays."""

    def total(tree, *, host=False):
        return float(sum(local_bytes(x) for x in jax.tree.leaves(tree) if (x.sharding.memory_kind == offload.KIND) == host))

    trained, references = total(state.trainable), (state.reference, state.initial, state.source)
    on_host = total((state.opt_state, references), host=True)
    return State(trained + total(state.frozen), trained, total(state.opt_state), total(references), on_host)


def by_cause(
    state: State,
    work: Work,
    *,
    batch_bytes: float,
    table_bytes: float,
    table_gradient_bytes: float,
    prefetched_bytes: float,
    microbatches: int,
) -> dict[str, float]:
    """Bytes of one device at the step's peak by CAUSES.

    Gradients stand twice where microbatches are added up. The peak is in the head or in a layer, whichever works with more; the
    other one's memory is reused.

    Args:
      batch_bytes: of a device's part of the batch.
      table_bytes: of the output table in the dtype of the matmuls, whole over fsdp: the head gathers it.
      table_gradient_bytes: of its gradient before that is split.
      prefetched_bytes: of the whole weights of a layer, where they are gathered while another one computes.
      microbatches: parts that the rows of a step are split into.
    """
    head = table_bytes + table_gradient_bytes + work.head_bytes
    layer = work.layer_bytes
    return {
        "parameters": state.parameters,
        "optimizer": state.optimizer,
        "reference": state.reference,
        "gradients": state.trained * (2 if microbatches > 1 else 1),
        "activations": work.saved_bytes,
        "head": head,
        "temporary": max(0.0, layer - head) + batch_bytes + prefetched_bytes,
    }
