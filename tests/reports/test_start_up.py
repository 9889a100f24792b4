"""The split of a start: every second belongs to one part, and what overlaps counts once."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from jaxalign.reports import start_up


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0), ([(1, 3)], 2), ([(-5, 1), (9, 20)], 2), ([(1, 5), (2, 3), (4, 6)], 5), ([(4, 6), (1, 2)], 3), ([(11, 12)], 0)],
)
def test_overlapping_spans_count_once_and_within_the_time_asked_for(spans, seconds):
    assert start_up.covered(spans, 0, 10) == seconds


def test_parts_follow_each_other_from_the_beginning_and_compiling_is_a_part_of_its_own():
    began = time.monotonic() - 5
    with start_up.Clock(began) as clock:
        clock.lap("imports")
        jax.jit(lambda x: x * 3 + len("not cached"))(jnp.arange(3))
        clock.lap("data")
        metrics = clock.finish()
        assert clock.finish() == {} and clock.line().startswith("first step finished after 5.")
        clock.restart()
        assert clock.parts == {}
    assert metrics[start_up.TOTAL] == pytest.approx(sum(value for name, value in metrics.items() if name != start_up.TOTAL))
    assert metrics["speed/start_up/imports_s"] == pytest.approx(5, abs=0.5) and metrics["speed/start_up/compile_s"] > 0


def test_the_clock_of_a_process_begins_before_its_first_import():
    script = "import time; time.sleep(0.3); from jaxalign.reports import start_up; print(time.monotonic() - start_up.process_began())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0.3 <= float(done.stdout) < 30
