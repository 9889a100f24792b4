"""A base model learns a chat format with tokens that it lacked; its export answers and stops in transformers as it was taught."""

import json

import pytest
import tiny_data

from jaxalign import train
from jaxalign.training import runs

pytestmark = pytest.mark.slow
OPTIMIZED = True
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        model=dict(
            config=dict(model_type="llama", hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                        vocab_size=258, max_position_embeddings=64, rms_norm_eps=1e-5),
            tokenizer={tokenizer!r},
        ),
        data=dict(train=dict(path={rows!r}, format="messages"), template="chatml", add_tokens=("<|im_start|>", "<|im_end|>"),
                  row_tokens=48, prepared_dir={cache!r}, processes=1),
        batch=dict(rows=8),
        objective=dict(name="sft"),
        optimizer=dict(learning_rate=3e-2, warmup_percent=0),
        train=dict(total_steps=40, log_every_steps=20, export=True),
    ))
"""
ANSWERS = {"a": "xyz"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_data.write_tokenizer(folder / "tokenizer", extra=())
    turns = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in ANSWERS.items()]
    rows = [{"messages": messages} for messages in turns]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 32))
    paths = dict(tokenizer=str(tokenizer), rows=str(folder / "rows.jsonl"), cache=str(folder / "cache"))
    (folder / "config.py").write_text(CONFIG.format(**paths))
    assert start(folder) == 0
    return folder / "run"


def start(folder):
    return train.main(["--config", str(folder / "config.py"), "--workdir", str(folder / "run")])


def test_the_export_names_the_new_vocabulary_and_the_trained_stop_token(run):
    values, generation = (json.loads((run / "export" / name).read_text()) for name in ("config.json", "generation_config.json"))
    assert values["vocab_size"] == 260 and values["eos_token_id"] == generation["eos_token_id"] == [259, 257]
    assert runs.record(run, 40)["model"]["vocab_size"] == 260


def test_a_run_with_added_tokens_goes_on_and_keeps_its_export(run, capsys):
    (run / "export" / "seen").touch()
    assert start(run.parent) == 0
    assert "continues at step 40" in capsys.readouterr().err and (run / "export" / "seen").exists()


def test_generate_answers_and_stops_in_transformers(run):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "export")
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "export")
    for question, answer in ANSWERS.items():
        asked = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True)
        ids = torch.tensor([asked["input_ids"]])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert tokenizer.decode(whole[0, ids.shape[1] :]) == f"{answer}<|im_end|>"
