"""Tokens and passwords stand in no message, no record and no report; weights that can hold code are not opened."""

from ml_collections import ConfigDict
import pytest
import tiny

from jaxalign import hidden, train
from jaxalign.config import command_line
from jaxalign.config.resolve import ConfigError, resolve
from jaxalign.hf import load

TOKEN = "hf_" + "aB3" * 11
TEXTS = [TOKEN, "sk-" + "x1" * 20, "ghp_" + "9" * 30, "AKIA" + "Z" * 16, "https://me:secret@host/data.jsonl"]
TEXTS += ["github_pat_" + "1aB_" * 10, "glpat-" + "x-Y1" * 5, "ya29." + "a0_-" * 20]


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_a_token_is_left_out(text):
    shown = hidden.without(f"reading {text} failed", {})
    assert hidden.INSTEAD in shown and "secret" not in shown and text not in shown and shown.startswith("reading ")


def test_what_the_environment_holds_is_left_out_and_words_stay():
    environ = {"MY_API_KEY": "correct horse battery", "HF_TOKEN": "short", "TOKENIZERS_PARALLELISM": "a value of it"}
    assert hidden.without("correct horse battery, short, a value of it", environ) == "***, short, a value of it"
    plain = "package:stories260k hf_dataset https://host:8080/v1 model.safetensors sk-learn me@host"
    assert hidden.without(plain, {}) == plain


@pytest.mark.parametrize(
    ("name", "value", "is_hidden"),
    [
        ("AZURE_STORAGE_KEY", "pA9x/2mQ+0kZbT7w==", True),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=me;AccountKey=pA9x/2mQ", True),
        ("PGPASSWD", "correct horse", True),
        ("SORT_KEY", "name_of_a_column", False),
        ("SORT_KEY", "col7", False),
        ("JAX_COMPILATION_CACHE_KEY", "version-0.10.1", False),
        ("MONKEY", "Macaca-2-fascicularis", False),
    ],
)
def test_the_variables_that_hold_secrets_are_known_by_name(name, value, is_hidden):
    assert hidden.without(f"<{value}>", {name: value}) == ("<***>" if is_hidden else f"<{value}>")


@pytest.mark.parametrize("text", TEXTS)
def test_a_config_that_holds_a_token_is_refused_without_showing_it(text):
    config = ConfigDict(tiny.get_config())
    config.data.train.path, config.batch.rows = text, -3
    with pytest.raises(ConfigError, match=r"data\.train\.path holds a token or a password") as error:
        resolve(config)
    assert text not in str(error.value) and "secret" not in str(error.value) and "1 problem:" in str(error.value)


def test_no_message_shows_a_token(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "not-of-a-known-form")

    def body(argv):
        raise OSError(f"401 for {TOKEN} and not-of-a-known-form")

    assert command_line.run(body) == 1 and "401 for *** and ***" in capsys.readouterr().err
    monkeypatch.setenv(command_line.TRACEBACK, "1")
    assert command_line.run(body) == 1  # raised on, Python would show it once more
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "401 for *** and ***" in shown and TOKEN not in shown and "known-form" not in shown


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_weights_that_can_hold_code_are_named_and_not_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(ValueError, match=rf"has neither .*; it has {name}: convert with transformers' save_pretrained"):
        load._indexed(tmp_path)


@pytest.mark.parametrize("name", ["gs://bucket/run", "s3://bucket/run"])
def test_a_bucket_is_no_folder_of_a_run(name, capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--config", "x.py", "--workdir", name])
    message = " ".join(capsys.readouterr().err.split())
    assert end.value.code == 2 and f"{name} is no folder" in message and f"A run with train.mirror='{name}' keeps a copy there" in message
