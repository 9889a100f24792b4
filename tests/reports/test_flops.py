"""What a step of a run with a teacher counts as work."""

import dataclasses

import pytest
import toys

from jaxalign.reports.flops import forward_flops, step_flops

SIZES = {"tokens": 100, "scored": 40, "seen": 900}


def test_a_teacher_counts_as_one_forward_pass_of_its_own_size():
    alone, same = (step_flops(toys.CONFIG, **SIZES, forwards=0, teacher=teacher) for teacher in (None, toys.CONFIG))
    assert same == pytest.approx(step_flops(toys.CONFIG, **SIZES, forwards=1))
    assert same == pytest.approx(alone * 4 / 3)
    deep = dataclasses.replace(toys.CONFIG, layers=20, windows=())
    assert step_flops(toys.CONFIG, **SIZES, forwards=0, teacher=deep) - alone == pytest.approx(forward_flops(deep, **SIZES))


def test_a_separate_critic_is_trained_and_has_no_output_tokens():
    alone, both = (step_flops(toys.CONFIG, **SIZES, forwards=0, critic=critic) for critic in (None, toys.CONFIG))
    assert both - alone == pytest.approx(3 * forward_flops(toys.CONFIG, **{**SIZES, "scored": 0}))


def test_adapters_save_the_gradient_of_the_weights_and_cost_their_own():
    forward, tokens = forward_flops(toys.CONFIG, **SIZES), SIZES["tokens"]
    assert step_flops(toys.CONFIG, **SIZES, forwards=1, adapters=100) == pytest.approx(3 * forward + 600 * tokens)
