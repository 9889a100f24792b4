"""What a config.json leaves out, contradicts or gets wrong: as transformers reads it, or refused with the key's name."""

import json
import random

import pytest

from jaxalign.hf import notes
from jaxalign.hf.config import ARCHITECTURES, from_json
from jaxalign.hf.config_json import to_json

SMALL = dict(
    hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, vocab_size=101,
    max_position_embeddings=64,
)  # fmt: skip
OF_TYPE = {
    "llama": dict(attention_bias=True, mlp_bias=True, rms_norm_eps=1e-4, tie_word_embeddings=True, rope_theta=500.0, head_dim=16),
    "mistral": dict(sliding_window=5, rms_norm_eps=1e-4, rope_theta=500.0, head_dim=16),
    "qwen2": dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, rope_theta=500.0),
    "qwen3": dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, head_dim=16, attention_bias=True),
    "gemma": dict(head_dim=16, hidden_act="relu", rope_theta=500.0),
    "gemma2": dict(head_dim=16, sliding_window=5, query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3_text": dict(head_dim=16, sliding_window=5, query_pre_attn_scalar=24, hidden_activation="gelu"),
    "gpt_neox": dict(rotary_pct=0.5, rotary_emb_base=500, use_parallel_residual=False, layer_norm_eps=1e-4),
    "gpt2": dict(n_inner=48, layer_norm_epsilon=1e-4, activation_function="relu"),
}
GPT2 = dict(n_embd=32, n_layer=4, n_head=4, n_positions=64, vocab_size=101)


def small(model_type, **changes):
    sizes = GPT2 if model_type == "gpt2" else SMALL
    return {"model_type": model_type, **sizes, **OF_TYPE[model_type], **changes}


def theirs(values):
    """The config.json that transformers writes for what it read: every default is in it."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoConfig.for_model(**values).to_dict()


def made_of(values):
    """The ModelConfig of what transformers makes of the values; None where it cannot build the model, for which it has many errors."""
    try:
        return from_json(theirs(values))
    except Exception:
        return None


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_absent_key_means_what_transformers_says(model_type):
    whole = small(model_type)
    for key in whole.keys() - {"model_type"}:
        rest = {name: value for name, value in whole.items() if name != key}
        expected = made_of(rest)
        try:
            ours = from_json(rest)
        except ValueError as error:
            assert key in str(error) or expected is None
        else:
            assert ours == expected, key


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_transformers_saves_is_read_as_what_it_loaded(model_type):
    assert from_json(theirs(small(model_type))) == from_json(small(model_type))


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gemma3_text"])
def test_an_absent_window_is_the_familys_and_null_is_none(model_type):
    absent = {key: value for key, value in small(model_type).items() if key != "sliding_window"}
    assert max(from_json(absent).windows) == 4096
    if model_type == "mistral":
        assert from_json(small("mistral", sliding_window=None)).windows == (0,) * 4
    else:
        with pytest.raises(ValueError, match="sliding_window.*this model has sliding layers"):
            from_json(small(model_type, sliding_window=None))


@pytest.mark.parametrize(("model_type", "key", "ours"), [
    ("gemma", "hidden_act", "gelu_tanh"),  # a legacy name there
    ("gemma2", "hidden_activation", "gelu"),
    ("gemma3_text", "hidden_activation", "gelu"),
    ("llama", "hidden_act", "gelu"),
    ("gpt_neox", "hidden_act", "gelu"),
])  # fmt: skip
def test_gelu_is_exact_but_for_gemma_1(model_type, key, ours):
    assert from_json(small(model_type, **{key: "gelu"})).activation == ours


def test_two_activations_that_differ_are_refused():
    with pytest.raises(ValueError, match="hidden_activation counts for this family: remove hidden_act"):
        from_json(small("gemma2", hidden_act="relu"))
    assert from_json(small("gemma2", hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh")).activation == "gelu_tanh"


LINEAR, YARN = {"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}
DEFAULT, LLAMA3 = {"rope_type": "default"}, dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)


@pytest.mark.parametrize(("scaling", "parameters", "words"), [
    (YARN, DEFAULT, "yarn"),
    (DEFAULT, YARN, "yarn"),
    (LINEAR, DEFAULT, "differ"),
    (DEFAULT, LINEAR, "differ"),
    (LINEAR, {**LINEAR, "factor": 2.0}, "differ"),
    (LLAMA3, LINEAR, "differ"),
    (LINEAR, {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}, "differ"),
    (LINEAR, {"full_attention": LINEAR}, "by kinds of layers"),
    ("linear", None, "rope_scaling to 'linear'; it must be a section"),
    ({"rope_type": "linear"}, None, "no key 'rope_scaling.factor'"),
    ({"rope_type": "linear", "factor": "4"}, None, "rope_scaling.factor to '4'"),
])  # fmt: skip
@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_rotary_sections_that_contradict_each_other_are_refused(model_type, scaling, parameters, words):
    values = {key: value for key, value in small(model_type).items() if key not in ("rope_theta", "rotary_emb_base", "rotary_pct")}
    with pytest.raises(ValueError, match=words):
        from_json({**values, "rope_scaling": scaling, "rope_parameters": parameters})


def test_rotary_sections_that_agree_are_read():
    values = small("llama", rope_scaling=LINEAR, rope_parameters={**LINEAR, "rope_theta": 500.0})
    assert from_json(values).rope_scaling.factor == 4.0


def test_gemma3_sections_are_compared_too():
    nested = {"full_attention": DEFAULT, "sliding_attention": DEFAULT}
    assert from_json(small("gemma3_text", rope_parameters=nested)).rope_theta == 1e6
    with pytest.raises(ValueError, match="which differ"):
        from_json(small("gemma3_text", rope_parameters=nested, rope_scaling=LINEAR))
    with pytest.raises(ValueError, match="rope_parameters.rope_type; rope_parameters of a gemma3_text hold"):
        from_json(small("gemma3_text", rope_parameters=LINEAR))
    with pytest.raises(ValueError, match="sliding layers; only full_attention"):
        from_json(small("gemma3_text", rope_parameters={"sliding_attention": LINEAR}))


@pytest.mark.parametrize(("key", "value"), [
    ("num_hidden_layers", 10**9), ("num_hidden_layers", -1), ("num_hidden_layers", 2.0), ("num_hidden_layers", "2"),
    ("hidden_size", 0), ("hidden_size", True), ("vocab_size", 2**40), ("intermediate_size", [48]), ("max_position_embeddings", 1e300),
    ("rms_norm_eps", "1e-6"), ("rms_norm_eps", -1.0), ("rms_norm_eps", float("nan")), ("rms_norm_eps", None), ("attention_bias", "yes"),
    ("tie_word_embeddings", 1), ("rope_theta", 0), ("hidden_act", 3), ("head_dim", -4), ("num_key_value_heads", "2"), ("rope_scaling", [1]),
])  # fmt: skip
def test_a_value_of_the_wrong_type_or_size_is_refused_with_its_key(key, value):
    with pytest.raises(ValueError, match=key):
        from_json(small("llama", **{key: value}))


@pytest.mark.parametrize("values", [[], None, {"model_type": ["llama"]}, {"model_type": {}}, {}], ids=str)
def test_a_config_that_is_no_config_is_refused(values):
    with pytest.raises(ValueError, match="config.json"):
        from_json(values)


def test_keys_that_nobody_reads_are_named_once_and_known_ones_are_not(capsys):
    notes.say_once.cache_clear()
    for _ in range(2):
        from_json(small("llama", logit_scale=2.0, rope_scaling={**LINEAR, "beta_fast": 32}, use_cache=True, temperature=0.5))
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "2 keys mean nothing to this model: logit_scale, rope_scaling.beta_fast." in shown


def mutated(seed):
    """(values, key): a config.json with one value removed, or replaced by one that it should not have."""
    draw = random.Random(seed)
    values = theirs(small(draw.choice(sorted(ARCHITECTURES))))
    key = draw.choice(sorted(values))
    if draw.random() < 0.2:
        del values[key]
    else:
        wrong = (None, True, False, -1, 0, 3, 10**12, 0.5, 1e300, float("nan"), "gelu", "", [], [1, 2], {}, {"rope_type": "yarn"})
        values[key] = draw.choice(wrong)
    return json.loads(json.dumps(values)), key


def check_mutation(seed, capsys):
    """A refusal names the key; what is accepted equals what transformers makes of it."""
    values, key = mutated(seed)
    try:
        ours = from_json(values)
    except ValueError as error:
        named = {key, *({"rope_theta", "rope_parameters"} if key.startswith("rope") else ())}
        assert any(name in str(error) for name in named) or "model config of family" in str(error), (key, str(error))
        return
    assert from_json(to_json(ours)) == ours
    expected = made_of(values)
    assert expected in (None, ours), (key, values.get(key))


@pytest.mark.parametrize("seed", range(30))
def test_a_mutated_config_is_refused_by_key_or_read_as_transformers_reads_it(seed, capsys):
    check_mutation(seed, capsys)


@pytest.mark.slow
def test_two_hundred_mutated_configs_are_refused_by_key_or_read_as_transformers_reads_them(capsys):
    for seed in range(30, 230):
        check_mutation(seed, capsys)
