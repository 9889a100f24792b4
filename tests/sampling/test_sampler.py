"""Samples: the cache gives what the full forward pass gives, and nothing but seed, prompt and number decides what a sample says."""

import dataclasses
import functools
import os

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import sharding
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig, RopeScaling
from jaxalign.sampling.law import Law
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.stopping import Stopping

VOCABULARY, NEW = 97, 9
SMALL = dict(vocab_size=VOCABULARY, width=32, layers=2, heads=8, kv_heads=2, head_dim=8, mlp_width=48, max_positions=256, init_std=0.2)
KINDS = {
    "llama": dict(family="llama", rope_scaling=RopeScaling("llama3", 8.0, original_positions=16)),
    "mistral": dict(family="mistral", windows=(4, 4)),
    "qwen2": dict(family="qwen2", qkv_bias=True, windows=(0, 4)),
    "qwen3": dict(family="qwen3", qk_norm=True),
    "gemma": dict(family="gemma", norm_offset=True, activation="gelu_tanh", tied=True),
    "gemma2": dict(family="gemma2", windows=(4, 0), attention_softcap=2.0, logit_softcap=3.0, post_norms=True, tied=True),
    "gemma3": dict(family="gemma3", windows=(4, 0), local_rope_theta=100.0, qk_norm=True, tied=True),
    "gpt_neox": dict(family="gpt_neox", rotary_fraction=0.25, norm="layer", gated=False, parallel_residual=True),
    "gpt2": dict(family="gpt2", rotary_fraction=0.0, learned_positions=True, norm="layer", gated=False),
}
ONE, CUBE, TENSOR = (1, 1, 1), (2, 2, 2), (1, 1, 8)
RANDOM = np.random.default_rng(0)
PROMPTS = [RANDOM.integers(0, VOCABULARY, n).tolist() for n in (5, 1, 130, 64, 65, 2)]  # around the borders of windows and blocks


def mesh_of(sizes):
    return jax.set_mesh(sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))]))


@functools.cache
def host_params(kind):
    """Random weights, those of norms and biases too."""
    model = models.build(ModelConfig(**{**SMALL, **KINDS[kind]}))
    draw = np.random.default_rng(1)
    return model, jax.tree.map(lambda shape: 0.2 * draw.standard_normal(shape.shape).astype(np.float32), model.shapes)


def on_mesh(kind):
    model, params = host_params(kind)
    return model, jax.tree.map(lambda x, spec: jax.device_put(x, sharding.named(spec)), params, models.shardings(model))


def sampler_of(model, *, law=None, places=4, lanes=1, seed=0, text_of=None, **stopping):
    options = {"dtype": jnp.float32, "attention": "xla", "text_of": text_of}
    stopping = Stopping(**{"max_new_tokens": NEW, **stopping})
    return Sampler(model, law=law or Law(), stopping=stopping, seed=seed, places=places, lanes=lanes, **options)


def draw(kind, prompts=PROMPTS, *, mesh=ONE, samples=3, done=(), **options):
    """(prompt, number) -> sample."""
    with mesh_of(mesh):
        model, params = on_mesh(kind)
        drawn = list(sampler_of(model, **options).draw(params, prompts, samples=samples, done=done))
    found = {(sample.prompt, sample.number): sample for sample in drawn}
    assert len(found) == len(drawn)
    return found


def logits_of(kind, prompts, samples):
    """(prompt, number) -> logits of the full forward pass at the places of the sample's tokens [L, vocabulary]."""
    width = max(map(len, prompts)) + NEW
    rows = np.zeros((len(samples), width), np.int32)
    for row, ((prompt, _), sample) in zip(rows, samples.items(), strict=True):
        row[: len(prompts[prompt]) + len(sample.token_ids)] = [*prompts[prompt], *sample.token_ids]
    with mesh_of(ONE):
        model, params = on_mesh(kind)
        inputs = checkpoints.plain(rows)
        logits = np.asarray(jax.jit(lambda params: checkpoints.logits(model, params, inputs))(params))
    starts = [len(prompts[prompt]) - 1 for prompt, _ in samples]
    return {key: logits[i, n : n + len(samples[key].token_ids)] for i, (key, n) in enumerate(zip(samples, starts, strict=True))}


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)


# Every family on a mesh of all axes, and one of them on the others too; SWEEP=1 tries all on all.
PLACED = [(kind, mesh) for kind in KINDS for mesh in (ONE, CUBE, TENSOR) if mesh == CUBE or kind == "gemma2" or os.environ.get("SWEEP")]


@pytest.mark.parametrize(
    ("kind", "mesh"), [pytest.param(*placed, marks=() if placed == ("gemma3", CUBE) else pytest.mark.slow) for placed in PLACED]
)
def test_log_probs_of_samples_are_those_of_the_full_forward_pass(kind, mesh):
    samples = draw(kind, mesh=mesh)
    assert samples.keys() == {(i, k) for i in range(len(PROMPTS)) for k in range(3)}
    logits = logits_of(kind, PROMPTS, samples)
    for key, sample in samples.items():
        expected = np.take_along_axis(log_softmax(logits[key]), sample.token_ids[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(sample.logps, expected, rtol=0, atol=2e-5, err_msg=str(key))
        np.testing.assert_array_equal(sample.sampled_logps, sample.logps)
        assert (len(sample.token_ids), sample.stop) == (NEW, "length")
    assert len({tuple(sample.token_ids) for sample in samples.values()}) == len(samples)


@pytest.mark.slow
def test_the_law_is_that_of_temperature_and_filters():
    law = Law(temperature=0.7, top_k=20, top_p=0.8, min_p=0.01)
    samples = draw("llama", PROMPTS[:2], law=law, samples=8)
    logits = logits_of("llama", PROMPTS, samples)
    for key, sample in samples.items():
        for place, token in enumerate(sample.token_ids):
            values = log_softmax(logits[key][place] / 0.7)
            values = np.where(values >= np.sort(values)[-20], values, -np.inf)
            probabilities = np.exp(log_softmax(values))
            order = np.argsort(-probabilities)
            kept = order[: int((np.cumsum(probabilities[order]) < 0.8).sum()) + 1]
            values = np.where(np.isin(np.arange(VOCABULARY), kept), values, -np.inf)
            values = log_softmax(np.where(values >= values.max() + np.log(0.01), values, -np.inf))
            assert sample.sampled_logps[place] == pytest.approx(values[token], abs=1e-4)
        expected = np.take_along_axis(log_softmax(logits[key]), sample.token_ids[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(sample.logps, expected, atol=2e-5)


@pytest.mark.slow
def test_greedy_takes_the_likeliest_token_of_the_full_forward_pass():
    samples = draw("gemma3", law=Law(temperature=0.0), samples=1)
    logits = logits_of("gemma3", PROMPTS, samples)
    for key, sample in samples.items():
        np.testing.assert_array_equal(sample.token_ids, logits[key].argmax(-1))
        np.testing.assert_array_equal(sample.sampled_logps, 0.0)


usual = functools.cache(functools.partial(draw, "llama"))  # what the ways below must not change
WAYS = {
    "one place": dict(places=1),
    "lanes that share a prompt": dict(places=3, lanes=2),
    "more places than prompts": dict(places=16),
    "another order, and one prompt twice": dict(prompts=[*PROMPTS[::-1], PROMPTS[0]]),
    "a mesh": dict(mesh=CUBE, places=8),
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if "order" in way else pytest.mark.slow) for way in WAYS])
def test_what_a_sample_says_depends_on_seed_prompt_and_number_alone(way):
    ours, prompts = draw("llama", **WAYS[way]), WAYS[way].get("prompts", PROMPTS)
    for (prompt, number), sample in ours.items():
        expected = usual()[PROMPTS.index(prompts[prompt]), number]
        np.testing.assert_array_equal(sample.token_ids, expected.token_ids)
        np.testing.assert_allclose(sample.logps, expected.logps, rtol=0, atol=2e-5)
    assert len(ours) == 3 * len(prompts)


@pytest.mark.slow
def test_another_seed_says_something_else():
    other = draw("llama", PROMPTS[:1], seed=1)
    assert all(list(sample.token_ids) != list(usual()[key].token_ids) for key, sample in other.items())


def test_what_was_drawn_before_is_left_out_and_the_rest_stays_the_same():
    done = {(0, 0), (0, 1), (0, 2), (1, 0), (3, 1)}
    rest = draw("llama", done=done)
    assert rest.keys() == usual().keys() - done
    for key, sample in rest.items():
        np.testing.assert_array_equal(sample.token_ids, usual()[key].token_ids)


def test_a_stop_token_ends_a_sample_and_is_its_last_token():
    stops = tuple({int(sample.token_ids[4]) for sample in usual().values()})
    for key, sample in draw("llama", ids=stops, lanes=2).items():
        whole = usual()[key].token_ids.tolist()
        end = min(whole.index(stop) for stop in stops if stop in whole) + 1
        assert (sample.token_ids.tolist(), sample.stop) == (whole[:end], "stop")


@pytest.mark.slow
def test_no_stop_token_comes_before_the_least_length():
    samples = draw("llama", ids=tuple(range(0, VOCABULARY, 2)), min_new_tokens=4)
    assert {len(sample.token_ids) for sample in samples.values()} > {4 + 1}
    for sample in samples.values():
        assert all(token % 2 for token in sample.token_ids[:4]) and (sample.stop == "stop") == (sample.token_ids[-1] % 2 == 0)


def test_a_stop_string_ends_a_sample_at_the_token_that_completes_it():
    def text_of(prompt, ids):
        return "".join(f"<{token}>" for token in ids)

    whole = usual()[2, 1].token_ids.tolist()
    string = f"{whole[3]}><{whole[4]}"
    samples = draw("llama", strings=(string,), text_of=text_of)
    assert (samples[2, 1].token_ids.tolist(), samples[2, 1].stop) == (whole[:5], "string")
    assert len(samples[2, 1].logps) == 5
    assert all(sample.stop == "length" for sample in samples.values() if string not in text_of(None, sample.token_ids))


@pytest.mark.slow
def test_lanes_stay_busy_while_samples_end_at_different_times():
    prompts = [np.random.default_rng(i).integers(0, VOCABULARY, 5 + i % 7).tolist() for i in range(80)]
    with mesh_of(ONE):
        model, params = on_mesh("llama")
        sampler = sampler_of(model, places=8, ids=tuple(range(0, VOCABULARY, 8)), max_new_tokens=24)
        samples = list(sampler.draw(params, prompts, samples=8))
    assert len(samples) == 80 * 8 and len({len(sample.token_ids) for sample in samples}) > 10
    assert sampler.usage.tokens == sum(len(sample.token_ids) for sample in samples)
    assert 0.9 < sampler.usage.busy <= 1


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([[]], "prompt 0 is empty"),
        ([[1], [VOCABULARY]], "prompt 1 has a token outside of the model's vocabulary, 0 to 96"),
        ([[1] * 248], "prompt 0 has 248 tokens, and with max_new_tokens=9 that is more than the model's 256 positions"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(prompts, words):
    with pytest.raises(ValueError, match=words):
        draw("llama", prompts)


def test_samples_may_end_at_the_last_position_of_a_model_and_are_the_beginnings_of_longer_ones():
    prompt = [PROMPTS[0]]
    whole = draw("gpt2", prompt, samples=3)
    with mesh_of(ONE):
        model, params = on_mesh("gpt2")
        positions = len(prompt[0]) + 4
        params = {**params, "embed": {**params["embed"], "positions": params["embed"]["positions"][:positions]}}  # NaN beyond
        short = sampler_of(models.build(dataclasses.replace(model.config, max_positions=positions)))
        found = {sample.number: sample for sample in short.draw(params, prompt, samples=3, most=4)}
    for number, sample in found.items():
        assert sample.token_ids.tolist() == whole[0, number].token_ids[:4].tolist() and sample.stop == "length"
        np.testing.assert_allclose(sample.logps, whole[0, number].logps[:4], rtol=1e-5)


def test_no_prompts_give_no_samples():
    assert draw("llama", []) == {}


def test_stop_strings_need_text():
    with mesh_of(ONE), pytest.raises(ValueError, match="text_of"):
        sampler_of(host_params("llama")[0], strings=("a",))


@pytest.mark.slow
def test_frequencies_are_those_of_the_law():
    prompt, count = PROMPTS[0], 20_000
    for law in (Law(), Law(top_p=0.6)):
        samples = draw("llama", [prompt], samples=count, law=law, places=8, lanes=64, max_new_tokens=1)
        exact = np.exp(log_softmax(logits_of("llama", [prompt], {(0, 0): samples[0, 0]})[0, 0][0]))  # by the full forward pass
        order = np.argsort(-exact)
        within = exact[order].cumsum() - exact[order] < law.top_p  # the fewest that hold top_p of the probability
        exact[order[~within]] = 0.0
        exact /= exact.sum()
        tokens = np.array([sample.token_ids[0] for sample in samples.values()])
        said = np.array([sample.sampled_logps[0] for sample in samples.values()])
        np.testing.assert_allclose(said, np.log(exact[tokens]), rtol=0, atol=1e-4)
        expected, observed = exact * count, np.bincount(tokens, minlength=VOCABULARY)
        common = expected >= 5
        statistic = ((observed - expected)[common] ** 2 / expected[common]).sum()
        assert statistic < common.sum() + 4 * np.sqrt(2 * common.sum())
        assert within.all() == (law.top_p == 1.0) and observed[exact == 0].sum() == 0
