"""A reward model as a function of text: as transformers scores a rendered conversation, whatever the batch; faults; a column of scores."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_data
import toys

from jaxalign import annotate
from jaxalign.data import prepared as preparing
from jaxalign.data.rows import store
from jaxalign.hf import trained
from jaxalign.hf.save import save
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.scoring import columns, reward_model, rewards, scorer

CONFIG = ModelConfig(
    family="llama", vocab_size=260, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16, max_positions=300, tied=True
)
QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
PROMPTS = ["Hi.", QUESTION, "Hi.", "Tell me more about it."]
COMPLETIONS = ["Good day.", "Because.", "", "x" * 150]


@pytest.fixture(autouse=True)
def on_one_device():
    with jax.set_mesh(toys.mesh()):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random classifier with a byte tokenizer and a chat template that goes on after its stop token."""
    out = tmp_path_factory.mktemp("judge")
    tokenizer = tiny_data.write_tokenizer(out / "tokenizer", chat_template=tiny_data.CHATML)
    model = models.build(CONFIG, reward_head="linear")
    with jax.set_mesh(toys.mesh()):
        params = models.init(model, jax.random.key(1))
        params["reward_head"]["score"]["kernel"] *= 30
        save(out / "model", model, params, tokenizer_from=tokenizer)
    return out / "model"


@pytest.fixture(scope="module")
def judge(folder):
    return rewards.make(f"model:{folder}")


def test_texts_score_as_in_transformers(folder, judge):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        asked = [*messages, {"role": "assistant", "content": completion}]
        ids = tokenizer.apply_chat_template(asked, return_dict=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected.append(model(input_ids=ids).logits[0, 0].item())
    np.testing.assert_allclose(judge(PROMPTS, COMPLETIONS, [{}] * 4), expected, rtol=1e-4, atol=1e-5)
    assert len(set(np.round(expected, 4))) == 4


def test_a_score_does_not_depend_on_the_others(judge):
    together = judge(PROMPTS, COMPLETIONS, [{}] * 4)
    for number in range(4):
        np.testing.assert_allclose(judge(PROMPTS[number : number + 1], COMPLETIONS[number : number + 1], [{}]), together[number], rtol=1e-5)
    many = judge(PROMPTS * 30, COMPLETIONS * 30, [{}] * 120)
    np.testing.assert_allclose(many, np.tile(together, 30), rtol=1e-5, atol=1e-6)


def test_texts_that_cannot_be_scored_are_counted_and_the_others_scored(folder):
    judge = rewards.make(f"model:{folder}")
    assert judge.writes_prompt  # so that it takes no prompt that is written already
    scores = judge(["Hi."] * 3, ["Good day.", "y" * 400, "Good day."], [{}] * 3)
    assert np.isfinite(scores[[0, 2]]).all() and math.isnan(scores[1])
    (line,) = judge.lines()
    assert "1 of 3 samples left out by too_long" in line and "reads 300; use shorter texts" in line
    assert not len(judge([], [], []))


def test_the_export_of_a_run_is_read_at_the_stop_token(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    trained.for_classifier(tmp_path / "out")
    text = reward_model.load_model(str(tmp_path / "out")).ids("Hi.", "Good day.")
    tail = reward_model.load_model(str(folder)).ids("Hi.", "Good day.")
    assert tail == [*text, ord("\n")]


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("model:package:stories260k", ValueError, "stories260k is no ForSequenceClassification by its config.json, so it scores nothing"),
        ("model:nowhere", ValueError, "nowhere is not a folder"),
        (dict(kind="model", model="package:stories260k", templat="x"), ValueError, "no option 'templat'"),
    ],
)
def test_what_is_no_reward_model_is_refused_before_anything_is_scored(spec, error, words):
    with pytest.raises(error, match=words):
        rewards.make(spec)


def test_a_tokenizer_of_another_model_is_named(folder, tmp_path):
    judge = reward_model.load_model(str(folder))
    with pytest.raises(ValueError, match="has 260 tokens and its tokenizer writes token id 300; they are not of one model"):
        judge.score_ids([[1, 300]])


def test_a_column_of_scores_holds_what_the_function_says(folder, tmp_path):
    rows = [{"prompt": "Hi.", "chosen": "Good day.", "rejected": "No."}, {"prompt": "Why?", "chosen": "Because.", "rejected": "So."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = dict(template="plain", row_tokens=96, processes=1, quiet=True, out_root=tmp_path / "out")
    prepared = store.read(preparing.prepare({"path": str(tmp_path / "rows.jsonl")}, tokenizer=str(folder), **options))
    judge = scorer.of_reward_model(str(folder), dtype=jnp.float32, attention="xla")
    (made,) = columns.add(columns.Column("judged", "score", [judge]), [prepared], rows=2, quiet=True)
    plain = reward_model.load_model(str(folder), template="plain")
    texts = [(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")]
    expected = plain([prompt for prompt, _ in texts], [answer for _, answer in texts], [{}] * 4)
    np.testing.assert_allclose(made.groups.columns["judged"].reshape(-1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_annotate_mends_labels_by_a_reward_model(folder, judge, tmp_path):
    rows = [dict(prompt=f"question {i}", chosen="abcdefgh"[: i + 1], rejected="hgfedcba"[: 8 - i]) for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--rows", str(tmp_path / "rows.jsonl"), "--reward", f"model:{folder}", "--relabel", "--out", str(tmp_path / "out.jsonl")]
    assert annotate.main(arguments) == 0
    mended = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    sides = [judge([row["prompt"] for row in rows], [row[side] for row in rows], [{}] * 6) for side in ("chosen", "rejected")]
    assert {row["chosen"] == mend["chosen"] for row, mend in zip(rows, mended, strict=True)} == {True, False}
    for side, best in (("chosen", np.maximum), ("rejected", np.minimum)):
        np.testing.assert_allclose([row[f"reward_{side}"] for row in mended], best(*sides), rtol=1e-4, atol=1e-5)
