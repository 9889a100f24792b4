"""The tokenizer of a run is written as it trained with it: transformers encodes, renders and stops the same."""

import json

import pytest
import tiny_data

from jaxalign.data.text import render
from jaxalign.data.text import tokenizer as tokenizers
from jaxalign.hf import trained

CONVERSATION = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Good day."}, {"role": "user", "content": "Why?"}]
OWN = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
MARKERS = ("<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def written(tmp_path, template, *, added=(), all_turns=False, files=(), **options):
    """(renderer, folder) of a small tokenizer that was trained with a template."""
    source = tiny_data.write_tokenizer(tmp_path / "source", **options)
    for name, values in files:
        (source / name).write_text(json.dumps(values))
    renderer = render.make(tokenizers.load(source).with_added(added), template=template)
    trained.write(tmp_path / "tokenizer", renderer, source=source, all_turns=all_turns)
    return renderer, tmp_path / "tokenizer"


def generation(folder):
    return json.loads((folder / "generation_config.json").read_text())


CASES = {
    "a built-in template": ("chatml", {}),
    "a built-in template, without BOS": ("llama3", {"writes_bos": False, "extra": LLAMA3}),
    "a built-in template in the place of the tokenizer's": ("chatml", {"chat_template": OWN}),
    "added markers": ("chatml", {"extra": (), "added": MARKERS}),
    "the tokenizer's own": ("auto", {"chat_template": OWN}),
}


@pytest.mark.parametrize("case", CASES)
def test_transformers_encodes_and_renders_as_in_training(tmp_path, case):
    transformers = pytest.importorskip("transformers")
    template, options = CASES[case]
    renderer, folder = written(tmp_path, template, **options)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = renderer.template.render(CONVERSATION, add_generation_prompt=True)
    assert theirs.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False) == text
    assert theirs(text, add_special_tokens=False)["input_ids"] == renderer.tokenizer.encode(text)
    again = tokenizers.load(folder)
    assert render.make(again, template="auto").template.render(CONVERSATION, add_generation_prompt=True) == text
    assert again.encode(text) == renderer.tokenizer.encode(text)


def test_generation_stops_at_the_trained_token_and_at_eos(tmp_path):
    renderer, folder = written(tmp_path, "chatml")
    stop, eos = (renderer.tokenizer.model.token_to_id(token) for token in ("<|im_end|>", "</s>"))
    assert generation(folder) == {"eos_token_id": [stop, eos], "bos_token_id": renderer.tokenizer.bos_id}
    assert (folder / "chat_template.jinja").is_file()


def test_the_settings_of_the_source_are_kept_beside(tmp_path):
    settings = {"eos_token_id": [7, 257], "temperature": 0.5, "_from_model_config": True}
    files = [("generation_config.json", settings), ("config.json", {"eos_token_id": 9})]
    renderer, folder = written(tmp_path, "chatml", files=files)
    ends = [renderer.stops.last, renderer.tokenizer.eos_id, 7, 9]
    assert generation(folder) == {"eos_token_id": ends, "temperature": 0.5, "bos_token_id": renderer.tokenizer.bos_id}


def test_plain_text_stops_at_eos_and_keeps_the_tokenizers_template(tmp_path):
    renderer, folder = written(tmp_path, "plain", chat_template=OWN)
    assert generation(folder)["eos_token_id"] == renderer.tokenizer.eos_id
    assert tokenizers.load(folder).chat_template == OWN


def test_a_token_that_ends_turns_in_the_middle_ends_generation_where_it_was_trained(tmp_path):
    ends = (
        "{% for m in messages %}<|im_start|>{{ m['content'] }}"
        "{% if loop.last %}{{ eos_token }}{% else %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    for number, (all_turns, count) in enumerate([(False, 1), (True, 2)]):
        (tmp_path / str(number)).mkdir()
        renderer, folder = written(tmp_path / str(number), "auto", chat_template=ends, all_turns=all_turns)
        stops = generation(folder)["eos_token_id"]
        assert renderer.stops.middle is not None
        assert len(stops if isinstance(stops, list) else [stops]) == count


def test_a_second_writing_replaces_the_first(tmp_path):
    renderer, folder = written(tmp_path, "chatml")
    (folder / "chat_template.jinja").write_text("stale")
    (folder / "left.txt").touch()
    trained.write(folder, renderer, source=tmp_path / "source", all_turns=False)
    assert (folder / "chat_template.jinja").read_text() != "stale" and not (folder / "left.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "tokenizer"]
