"""What passes, but not as it stands in the row, is counted: typed special tokens, normalized texts, what a template adds to an answer."""

import pytest
from tiny_data import CHATML
import tokenizers
from tokenizers import normalizers

from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.examples import Example
from jaxalign.data.rows import encode
from jaxalign.data.text import render, tokenizer

HI, YO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
LIMITS = encode.Limits(row_tokens=500, share_prompt=True)


def make(make_tokenizer, template="plain", *, name="tokenizer", chat=CHATML, normalizer=None):
    folder = make_tokenizer(name=name, chat_template=chat, extra=("<|im_start|>", "<|im_end|>", "<unk>"))
    if normalizer is not None:
        model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        model.normalizer = normalizer
        model.save(str(folder / "tokenizer.json"))
    return render.make(tokenizer.load(folder), template=template)


def rules(renderer, prompt, response):
    notes = []
    example = Example(prompt, (response,), rewards=(1.0,), paired=False)
    encode.encode(example, row=0, renderer=renderer, limits=LIMITS, train_turns="last", changed=lambda *note: notes.append(note))
    return dict(notes)


@pytest.mark.parametrize("template", ["plain", "auto"])
@pytest.mark.parametrize(("prompt", "response", "found"), [("p", "a<unk>b", True), ("<unk>", "ab", True), ("p<unk", "unk>", False)])
def test_a_special_token_in_letters_is_counted(make_tokenizer, template, prompt, response, found):
    notes = rules(make(make_tokenizer, template), prompt, response)
    assert notes.keys() == ({"typed_token"} if found else set())
    assert not found or "'<unk>'" in notes["typed_token"]


def test_a_special_token_in_a_text_without_a_prompt_is_counted(make_tokenizer):
    renderer = make(make_tokenizer)
    assert rules(renderer, None, "a<unk>b").keys() == {"typed_token"} and rules(renderer, None, "ab") == {}


@pytest.mark.parametrize("where", ["prompt", "response"])
def test_a_special_token_in_an_earlier_turn_is_counted(make_tokenizer, where):
    renderer, typed = make(make_tokenizer, "auto"), {**HI, "content": "<unk>"}
    prompt, response = ([typed, YO, HI], [YO]) if where == "prompt" else ([HI], [YO, typed, YO])
    assert rules(renderer, prompt, response).keys() == {"typed_token"}


def test_the_stop_token_in_letters_refuses_an_answer_without_a_template_too(make_tokenizer):
    with pytest.raises(RowError, match="holds the stop token '</s>'") as error:
        rules(make(make_tokenizer), "p", "a</s>b")
    assert error.value.rule == "stop_token"


LOSSES = [
    (normalizers.Replace(tokenizers.Regex("[0-9]"), "0"), "born in 1987", "'born in 0000'"),
    (normalizers.Replace(tokenizers.Regex(" +"), " "), "a  b", "'a b'"),
    (normalizers.Replace("▁", " "), "a▁b", "'a b'"),
    (normalizers.Lowercase(), "Hello", "'hello'"),
    (normalizers.NFKC(), "ﬁve", "'five'"),
]


@pytest.mark.parametrize("template", ["plain", "auto"])
@pytest.mark.parametrize(("normalizer", "text", "made"), LOSSES)
def test_what_a_normalizer_makes_of_an_answer_is_counted(make_tokenizer, template, normalizer, text, made):
    renderer = make(make_tokenizer, template, normalizer=normalizer)
    notes = rules(renderer, "p", text)
    assert notes.keys() == {"normalized_text"} and f"makes {made[:-1]}" in notes["normalized_text"]
    assert rules(renderer, "p", "abc.") == {}


def test_a_text_that_a_template_writes_before_the_stop_token_is_counted(make_tokenizer):
    closing = CHATML.replace("message['content'] +", "message['content'] + (' Bye!' if message['role'] == 'assistant' else '') +")
    notes = rules(make(make_tokenizer, "auto", chat=closing), "Hi", "Yo")
    assert notes.keys() == {"text_after_answer"} and "writes 'Bye!' between the answer 'Yo'" in notes["text_after_answer"]


def test_a_template_that_writes_answers_twice_is_refused(make_tokenizer):
    twice = CHATML.replace("message['content'] +", "message['content'] + ' ' + message['content'] +")
    with pytest.raises(ValueError, match="writes the assistant's text 2 times"):
        make(make_tokenizer, "auto", chat=twice)


@pytest.mark.parametrize("template", ["plain", "auto"])
def test_what_a_tokenizer_cannot_write_of_a_prompt_is_counted(make_tokenizer, template):
    renderer = make(make_tokenizer, template)
    vocabulary = {**renderer.tokenizer.model.get_vocab(), "<unk>": 260}
    del vocabulary["z"]
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    model.pre_tokenizer, model.decoder = renderer.tokenizer.model.pre_tokenizer, renderer.tokenizer.model.decoder
    model.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<unk>"])
    loses = tokenizer.Tokenizer(model, {"unk_token": "<unk>"}, (), "<s>", "</s>", False, {"default": CHATML})
    renderer = render.make(loses, template=template)
    notes = rules(renderer, "a zoo", "yo")
    assert notes.keys() == {"unknown_token"} and "the model sees '<unk>' there" in notes["unknown_token"]
    with pytest.raises(RowError, match="the tokens of an answer decode to"):
        rules(renderer, "yo", "a zoo")


@pytest.mark.parametrize("prompt", ["如", "a如", "\U0001f600"])
def test_characters_in_bytes_on_both_sides_of_the_cut_are_kept(prompt):
    renderer = render.make(tokenizer.load("package:stories260k"), template="plain")
    assert rules(renderer, prompt, "果\U0001f600") == {}
