"""Tokenizers and templates are those of transformers: ids, special tokens and renderings, for files in every state they come in."""

import json

import pytest
from tiny_data import CHATML, response_ids, write_tokenizer
import tokenizers

from jaxalign.data.text import templates, tokenizer, tokenizer_files

TEXTS = ("Hello world 2024", "<|im_start|>user\nhi<|im_end|>\n<|im_start|> a</s>", "  é 😀\t\n\nx<pad>y", "<one><two> <two>x")
SPECIAL = {"content": "<one>", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def settings(folder, **values):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "PreTrainedTokenizerFast", **values}))


def only_in_decoder(folder):
    settings(folder, added_tokens_decoder={"260": SPECIAL, "261": {**SPECIAL, "content": "<two>", "rstrip": False, "lstrip": True}})


def only_in_additional(folder):
    settings(folder, additional_special_tokens=["<one>", "<two>"])


def only_in_extra(folder):
    settings(folder, extra_special_tokens=["<one>", "<two>"])


def extra_by_name(folder):
    settings(folder, extra_special_tokens={"image_token": "<one>", "video_token": "<two>"})


def only_in_map(folder):
    settings(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": SPECIAL, "eos_token": "<two>"}))


def map_beside_decoder(folder):
    settings(folder, added_tokens_decoder={"260": SPECIAL})
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<two>"}))


def only_in_added_tokens(folder):
    settings(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<two>": 261, "<one>": 260}))


def pad_outside_the_vocabulary(folder):
    settings(folder, pad_token="<pad>", mask_token={"__type": "AddedToken", **SPECIAL})


def new_flags_of_a_known_token(folder):
    settings(folder, added_tokens_decoder={"258": {**SPECIAL, "content": "<|im_start|>"}})


def another_template_in_a_file(folder):
    settings(folder)
    (folder / "chat_template.jinja").write_text("from the file")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))


def named_templates(folder):
    settings(folder, chat_template=[{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}])


def template_folder(folder):
    settings(folder)
    (folder / tokenizer_files.TEMPLATE_FOLDER).mkdir()
    (folder / tokenizer_files.TEMPLATE_FOLDER / "tool_use.jinja").write_text("t")
    (folder / "chat_template.jinja").write_text("d")


EDITS = (
    *(settings, only_in_decoder, only_in_additional, only_in_extra, extra_by_name, only_in_map, map_beside_decoder, only_in_added_tokens),
    *(pad_outside_the_vocabulary, new_flags_of_a_known_token, another_template_in_a_file, named_templates, template_folder),
)


@pytest.mark.parametrize("edit", EDITS)
def test_a_folder_is_read_as_transformers_reads_it_and_so_is_the_one_that_is_saved(transformers, tmp_path, edit):
    folder = write_tokenizer(tmp_path / "given", chat_template=CHATML)
    edit(folder)
    tokenizer.save(tokenizer.load(folder), tmp_path / "saved")
    for place in (folder, tmp_path / "saved"):
        ours, theirs = tokenizer.load(place), transformers.AutoTokenizer.from_pretrained(str(place))
        assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text, add_special_tokens=False) for text in TEXTS]
        assert dict(ours.special) == theirs.special_tokens_map and ours.vocab_size == len(theirs)
        theirs = theirs.chat_template
        assert dict(ours.templates) == (theirs if isinstance(theirs, dict) else {"default": theirs})
    assert tokenizer.load(folder).content == tokenizer.load(tmp_path / "saved").content


def vocabulary_and_merges(folder, name):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({**model["vocab"], "12": 256, "<|endoftext|>": 257}))
    (folder / "merges.txt").write_text("#version: 0.2\n1 2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_the_class_that_the_settings_name_decides_how_text_is_split(transformers, tmp_path, name):
    folder = write_tokenizer(tmp_path / "given")
    vocabulary_and_merges(folder, name)
    ours, theirs = tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    assert ours.encode("a 1212") == theirs.encode("a 1212") and (256 in ours.encode("12")) == (name == "GPT2Tokenizer")
    assert ours.eos == "<|endoftext|>"
    tokenizer.save(ours, tmp_path / "saved")
    assert transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved")).encode("a 1212") == ours.encode("a 1212")


def test_vocabularies_that_merge_otherwise_never_share_a_hash(transformers, tmp_path):
    hashes = set()
    for name, merge in (("a", "1 2"), ("b", "2 1")):
        folder = write_tokenizer(tmp_path / name)
        vocabulary_and_merges(folder, "GPT2Tokenizer")
        (folder / "vocab.json").write_text((folder / "vocab.json").read_text().replace('"12"', f'"{merge.replace(" ", "")}"'))
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merge}\n")
        hashes.add(tokenizer.load(folder).content)
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer.model": "nonsense", "tokenizer_config.json": "{}"}, "cannot read the tokenizer .*tokenizer.model"),
        ({"vocab.json": "{}", "merges.txt": ""}, "vocab.json does not specify how text is split; name the tokenizer_class"),
        ({"qwen.tiktoken": "IQ== 0"}, "qwen.tiktoken is a vocabulary without its split pattern"),
    ],
)
def test_a_vocabulary_that_cannot_be_read_is_named(transformers, tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        tokenizer.load(tmp_path)


def test_the_classes_and_model_types_that_are_read_without_transformers_are_its_generic_ones(transformers):
    auto = transformers.models.auto.tokenization_auto
    generic = {*tokenizer_files.GENERIC, "MistralCommonBackend", "PythonBackend", None}
    own = {kind for kind, name in auto.TOKENIZER_MAPPING_NAMES.items() if name not in generic}
    assert not set(tokenizer_files.NO_OWN_CLASS) & own
    assert auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS & own <= set(tokenizer_files.OWN_CLASS_ALWAYS)


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What time is it?"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "a clock <b>",
        "tool_calls": [{"type": "function", "function": {"name": "get_time", "arguments": {"city": "Oslo é"}}}],
    },
    {"role": "tool", "content": "noon", "name": "get_time"},
    {"role": "assistant", "content": "Noon."},
]
TOOLS = [{"type": "function", "function": {"name": "get_time", "description": "Time.", "parameters": {"type": "object", "properties": {}}}}]
TEMPLATE = (
    "{{- bos_token }}{{ pad_token }}{{ image_token }}{{ sep_token is defined }}\n{% if tools is not none %}{{ tools | tojson(indent=2) }}"
    "{% endif %}{{ documents is none }}\n{%- for m in messages %}\n  {{- m.role + ': ' + m.content | trim }}\n  {% if m.thinking %}"
    "({{ m.thinking }}{{ m.reasoning_content }}){% endif %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}"
    "{{ c.function.arguments.items() | list }}{% endfor %}{% if loop.last %}{% generation %}{{ eos_token }}{% endgeneration %}{% break %}"
    "{% endif %}{{ m.name if 'name' in m }}{% endfor %}\n{% if add_generation_prompt %}{{ strftime_now is defined }}go{% endif %}"
)


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("tools", [TOOLS, []])
def test_a_template_renders_as_apply_chat_template_renders_it(transformers, tmp_path, prompted, tools):
    folder = write_tokenizer(tmp_path / "given", chat_template=TEMPLATE)
    settings(folder, pad_token="<pad>", extra_special_tokens={"image_token": "<one>"})
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder)).apply_chat_template(
        CONVERSATION, tools=tools or None, add_generation_prompt=prompted, tokenize=False
    )
    loaded = tokenizer.load(folder)
    template = templates.load("auto", own=loaded.templates, special=loaded.special, writes_bos=True)
    assert template.render(CONVERSATION, tools=tools, add_generation_prompt=prompted) == theirs


SPACED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


@pytest.mark.parametrize("normalizer", [True, False])
def test_an_answer_is_encoded_in_its_left_context(transformers, tmp_path, normalizer):
    # Sentencepiece puts a space before a text that follows a special token: the old form by a normalizer, the new one before each part.
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    from jaxalign.data.text import render

    pieces = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "▁", "G", "o", "d", "▁G", "oo", "▁Goo", "▁Good", "Good", "Goo"]
    merges = [("▁", "G"), ("o", "o"), ("▁G", "oo"), ("▁Goo", "d"), ("G", "oo"), ("Goo", "d")]
    model = tokenizers.Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    if normalizer:
        model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    model.add_special_tokens(pieces[1:5])
    model.save(str(tmp_path / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": SPACED}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    messages = [{"role": "user", "content": "Good"}, {"role": "assistant", "content": "Good Good"}]
    renderer = render.make(tokenizer.load(tmp_path), template="auto")
    prompt, (ids, scored) = renderer.prompt_ids(messages[:1]), response_ids(renderer, messages[:1], messages[1:], train_turns="last")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path)).apply_chat_template(messages, return_dict=False)
    assert prompt + ids == theirs and ids == [12, 12, 2] and all(scored)
