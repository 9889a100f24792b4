"""How much arithmetic a step needs and how much the devices can do: model FLOP/s utilisation (MFU).

Counted is what the mathematics asks for: a multiply-add is 2 FLOPs, the backward pass is twice the forward pass, or once where weights
rest and only adapters are trained, the reference makes one forward pass, and so does a teacher of its own size. Padding, and what remat
computes again, count as nothing, so waste lowers the MFU.
"""

import functools
import time

import jax
import numpy as np

from jaxalign import chips
from jaxalign.data.rows import loader
from jaxalign.models.config import ModelConfig


def step_flops(
    config: ModelConfig,
    *,
    tokens: float,
    scored: float,
    seen: float,
    forwards: int,
    teacher: ModelConfig | None = None,
    critic: ModelConfig | None = None,
    adapters: int | None = None,
) -> float:
    """FLOPs of one training step.

    Args:
      tokens: tokens that go through the layers (padding not counted).
      scored: tokens that go through the head.
      seen: sum over tokens of how many tokens each one attends to (position + 1, where no window cuts it).
      forwards: passes of the policy's own model without a gradient: a reference, the first pass of IFT.
      teacher: another model that makes one pass; None: there is none.
      critic: a decoder that the critic has for itself, which is trained too; None: there is none.
      adapters: parameters of adapters, which alone are trained; None: all weights are.
    """
    sizes = {"tokens": tokens, "scored": scored, "seen": seen}
    passes = forwards + (3 if adapters is None else 2)
    theirs = forward_flops(teacher, **sizes) if teacher else 0.0
    theirs += 3 * forward_flops(critic, **{**sizes, "scored": 0.0}) if critic else 0.0
    return forward_flops(config, **sizes) * passes + theirs + 6.0 * tokens * (adapters or 0)


def forward_flops(config: ModelConfig, *, tokens: float, scored: float, seen: float) -> float:
    """FLOPs of one forward pass; arguments as of `step_flops`."""
    attention = config.width * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    mlp = config.width * config.mlp_width * (3 if config.gated else 2)
    forward = 2.0 * tokens * config.layers * (attention + mlp)
    forward += 2.0 * scored * config.width * config.vocab_size
    forward += 4.0 * seen * config.layers * config.heads * config.head_dim
    return forward


def peak_flops() -> tuple[float, str]:
    """(FLOP/s of one device, where the number is from): the data sheet, or what numpy reaches here where there is none."""
    kind = jax.devices()[0].device_kind
    if chip := chips.of_device(kind):
        return chip.flops / chip.devices, f"bf16 peak of {kind}"
    # simulated devices share one processor
    return _measured_flops() / jax.local_device_count(), f"numpy's float32 matmul on this {kind}"


@functools.cache
def _measured_flops(size: int = 1024) -> float:
    x = np.ones((size, size), np.float32)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        x @ x
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak_memory_bytes() -> int:
    """Most memory in use so far on this host's fullest device; on CPU, of the process."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(s["peak_bytes_in_use"] for s in stats)
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Speed between two readings, or between `restart` (after an evaluation or a save) and a reading; the first one holds the compile."""

    def __init__(self, config: ModelConfig, **models):
        """What `models` are: see `step_flops`."""
        self._config, self._models = config, models
        self._peak, _ = peak_flops()
        self._since = None

    def restart(self) -> None:
        """The clock starts anew now."""
        if self._since is not None:
            self._since = time.perf_counter()

    def read(self, batches: list[dict]) -> dict[str, float]:
        """Values "speed/..." of the steps since the last reading, all devices together; without times at the first reading.

        Args:
          batches: this host's arrays of these steps, as the loader gave them.
        """
        now, since, self._since = time.perf_counter(), self._since, time.perf_counter()
        values = {"speed/peak_memory_gib": peak_memory_bytes() / 2**30}
        if since is None:
            return values
        counts = [loader.counts(arrays) for arrays in batches]
        hosts, seconds = jax.process_count(), now - since
        tokens, scored = (hosts * sum(c[key] for c in counts) for key in ("tokens", "scored_tokens"))
        seen = hosts * float(sum((arrays["positions"] + 1)[arrays["segments"] > 0].sum() for arrays in batches))
        work = step_flops(self._config, tokens=tokens, scored=scored, seen=seen, **self._models)
        return values | {
            "speed/tokens_per_s": tokens / seconds,
            "speed/examples_per_s": hosts * sum(c["groups"] for c in counts) / seconds,
            "speed/step_s": seconds / len(batches),
            "speed/model_tflops_per_s": work / seconds / 1e12,
            "speed/mfu": work / seconds / (self._peak * jax.device_count()),
        }
