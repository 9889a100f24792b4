"""Reward models and transformers' sequence classifiers are the same thing: read, written, and scored alike in every family."""

import json

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_data

from jaxalign import sharding
from jaxalign.hf import classifiers, trained
from jaxalign.hf.load import load, load_config, reward_head
from jaxalign.hf.save import save
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.training.sources import Source

TINY = ModelConfig(family="llama", vocab_size=260, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_width=4, max_positions=64)
LENGTHS = (23, 17, 9)
IDS = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3}


def classifier(case, folder):
    """A random classifier of transformers, saved in the folder."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model_type, arguments = checkpoints.CASES[case]
    config = transformers.AutoConfig.for_model(model_type, **{**arguments, "num_labels": 1, "pad_token_id": 0})
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            around = 1.0 if "norm" in key and key.endswith("weight") and not model_type.startswith("gemma") else 0.0
            parameter.copy_(around + 0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


def texts():
    draw = np.random.default_rng(0)
    rows = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64)
    for row, length in zip(rows, LENGTHS, strict=True):
        row[:length] = draw.integers(3, 101, length)
    return rows


def scores_of(model, rows):
    import torch

    with torch.no_grad():
        mask = torch.tensor(rows != 0).long()
        return model(input_ids=torch.tensor(rows), attention_mask=mask).logits[:, 0].numpy()


def scored_here(folder, rows):
    """The score at the last token of every text, from hidden states and head, and the parameters."""
    source = Source(str(folder))
    model = source.reward_model()
    with jax.set_mesh(checkpoints.one_device()):
        source.check(model)
        params = source.load(model)
        slots = np.where(np.arange(rows.shape[1]) == (np.array(LENGTHS) - 1)[:, None], 0, -1)
        positions = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        tokens, positions, segments, slots = checkpoints.rows(rows, positions, rows != 0, slots)
        valid = jax.device_put(np.ones((len(rows), 1), bool), sharding.named(sharding.rows_spec(2)))

        @jax.jit
        def look(params):
            states = checkpoints.hidden(model, params, (tokens, positions, segments, jnp.zeros_like(segments)))
            return models.rewards(model, params, states, positions, slots, valid)[:, 0]

        return np.asarray(look(params)), model, params


VARIANTS = ("llama_tied", "qwen2_window", "gpt_neox_sequential")
FAMILIES = [pytest.param(case, marks=() if case == "llama" else pytest.mark.slow) for case in checkpoints.CASES if case not in VARIANTS]


@pytest.mark.parametrize("case", FAMILIES)
def test_scores_equal_those_of_transformers_read_and_written(case, tmp_path):
    theirs, rows = classifier(case, tmp_path / "theirs"), texts()
    found, model, params = scored_here(tmp_path / "theirs", rows)
    np.testing.assert_allclose(found, scores_of(theirs, rows), rtol=1e-4, atol=1e-5)

    import transformers

    with jax.set_mesh(checkpoints.one_device()):
        save(tmp_path / "ours", model, params)
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert values["architectures"] == [type(theirs).__name__]
    (tmp_path / "ours" / "config.json").write_text(json.dumps({**values, "pad_token_id": 0}))
    again, report = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    np.testing.assert_allclose(scores_of(again.eval(), rows), found, rtol=1e-4, atol=1e-5)


def written(folder, kind="linear"):
    model = models.build(TINY, reward_head=kind)
    with jax.set_mesh(checkpoints.one_device()):
        params = models.init(model, jax.random.key(0))
        save(folder, model, params)
    return model, params


def test_a_written_reward_model_is_read_again_and_is_no_language_model(tmp_path):
    _, params = written(tmp_path / "out")
    assert reward_head(tmp_path / "out") == "linear" and load_config(tmp_path / "out").tied
    source = Source(str(tmp_path / "out"))
    with pytest.raises(ValueError, match="is a reward model: it scores answers and has no table of output tokens"):
        source.config()
    with jax.set_mesh(checkpoints.one_device()):
        found = load(tmp_path / "out", models.build(source.decoder(), reward_head="linear"))
    np.testing.assert_array_equal(found["reward_head"]["score"]["kernel"], params["reward_head"]["score"]["kernel"])


def test_a_language_model_scores_nothing(tmp_path):
    with pytest.raises(ValueError, match="is no ForSequenceClassification by its config.json, so it scores nothing; name a run"):
        Source("package:stories260k").reward_model()


def test_a_head_of_several_layers_has_no_class_in_transformers(tmp_path):
    with pytest.raises(ValueError, match="no class with a reward head of several layers.*train with model.reward_head='linear'"):
        written(tmp_path / "out", "mlp")


@pytest.mark.parametrize("keys", [{}, {"num_labels": 3}, {"id2label": {"0": "a", "1": "b"}}])
def test_a_classifier_of_several_labels_is_refused(tmp_path, keys):
    written(tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    values = json.loads(file.read_text())
    del values["id2label"]
    file.write_text(json.dumps(values | keys))
    with pytest.raises(ValueError, match=r"LlamaForSequenceClassification that .* labels \(.*one label, whose logit is.*\(in .*out\)"):
        Source(str(tmp_path / "out")).reward_model()


@pytest.mark.parametrize(
    ("special", "ends", "expected"),
    [
        ({"pad_token": "<pad>", "eos_token": "</s>"}, {3}, "<pad>"),
        ({"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}, {3}, "<unk>"),
        ({"bos_token": "<s>", "eos_token": "</s>"}, {3, None}, "<s>"),
        ({"pad_token": "</s>", "bos_token": "</s>", "eos_token": "</s>"}, {3}, None),
        ({"pad_token": "[PAD]"}, {3}, None),
    ],
)
def test_texts_are_filled_up_with_a_token_that_ends_none(special, ends, expected):
    assert classifiers.pad_token(special, IDS, ends) == expected


ENDS = tiny_data.CHATML.replace("<|im_end|>\n", "<|im_end|>")


@pytest.mark.parametrize("template", [tiny_data.CHATML, "\n" + tiny_data.CHATML, ENDS, None])
def test_transformers_reads_the_score_at_the_stop_token(tmp_path, template):
    transformers = pytest.importorskip("transformers")
    folder = tiny_data.write_tokenizer(tmp_path / "out", chat_template=template)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "</s>"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "pad_token_id": 257}))
    before = transformers.AutoTokenizer.from_pretrained(folder)
    trained.for_classifier(folder)
    after = transformers.AutoTokenizer.from_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == after.pad_token_id == 256  # BOS: texts end in EOS
    if template is None:
        assert after.chat_template is None
        return
    question = [{"role": "user", "content": "Hi. "}]
    for messages, asks in ((question, True), ([*question, {"role": "assistant", "content": "Good day.\n"}], False)):
        whole = before.apply_chat_template(messages, add_generation_prompt=asks, tokenize=False)
        found = after.apply_chat_template(messages, add_generation_prompt=asks, tokenize=False)
        assert found == (whole if asks else whole.rstrip("\n"))
    assert found.endswith("Good day.\n<|im_end|>")
