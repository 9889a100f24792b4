"""Every test sees eight simulated CPU devices; compiled programs are kept between runs, and compiled fast rather than made fast."""

import gc
from importlib import metadata
import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=2"  # compiles a quarter faster than 3; no slower on tiny models
os.environ["XLA_FLAGS"] += " --xla_cpu_collective_call_terminate_timeout_seconds=300"  # 40 abort where a busy machine has fewer cores
if metadata.version("jax").startswith("0.10."):  # newer ones have no such flag, and abort at it
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # compiles a third faster
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"  # not 32 parts: less work
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_finish():
    """Collects garbage seldom, and what imports left never: traces make many objects, and jax frees buffers at every collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(autouse=True, scope="module")
def programs_of_a_module(request):
    """Compiled with few optimizations, except where a module says OPTIMIZED = True, and let go at its end.

    A module does so for whole runs, whose many steps pay for it, or to compare the bits of different programs. One that says
    ONE_DEVICE = True has a single device, for which programs compile faster.

    A process can hold some thousands of programs at most (the kernel's limit of memory maps), fewer than the tests have.
    """
    import jax

    few = not getattr(request.module, "OPTIMIZED", False)
    jax.config.update("jax_disable_most_optimizations", few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(few)))  # of the processes that it starts
        if getattr(request.module, "ONE_DEVICE", False):
            one = jax.devices()[:1]
            patch.setattr(jax, "devices", lambda *_: one)
        yield
    jax.clear_caches()


@pytest.fixture
def few_optimizations():
    """For a test of few steps in a module that is OPTIMIZED."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
