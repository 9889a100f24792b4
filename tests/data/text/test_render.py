"""Special tokens by one rule: a template owns its own, plain text gets BOS and EOS; each exactly once, where it belongs."""

import pytest
from tiny_data import CHATML, response_ids

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import render, tokenizer

BOS, EOS, START, END = 256, 257, 258, 259
PROMPT = [{"role": "user", "content": "Hi"}]
ANSWER = [{"role": "assistant", "content": "Yo"}]


def make(make_tokenizer, template, **options):
    return render.make(tokenizer.load(make_tokenizer(**options)), template=template)


def test_plain_text_gets_one_bos_and_one_eos(make_tokenizer):
    renderer = make(make_tokenizer, "plain")
    assert renderer.prompt_ids("Hi") == [BOS, *b"Hi"]
    assert response_ids(renderer, "Hi", " Yo", train_turns="last") == ([*b" Yo", EOS], [1, 1, 1, 1])


def test_plain_text_gets_no_bos_from_a_tokenizer_that_writes_none(make_tokenizer):
    renderer = make(make_tokenizer, "plain", bos="</s>", writes_bos=False)
    assert renderer.prompt_ids("Hi") == [*b"Hi"]


def test_a_template_owns_its_special_tokens_and_only_its_stop_token_is_scored(make_tokenizer):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    assert renderer.prompt_ids(PROMPT) == [START, *b"user\nHi", END, *b"\n", START, *b"assistant\n"]
    # The template goes on with a line break after the stop token; nothing follows it, so it is left out.
    assert response_ids(renderer, PROMPT, ANSWER, train_turns="last") == ([*b"Yo", END], [1, 1, 1])


def test_text_prompts_and_responses_are_one_user_and_one_assistant_turn_for_a_template(make_tokenizer):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    assert renderer.prompt_ids("Hi") == renderer.prompt_ids(PROMPT)
    assert response_ids(renderer, "Hi", "Yo", train_turns="last") == response_ids(renderer, PROMPT, ANSWER, train_turns="last")


def test_the_boundary_of_hh_text_is_where_the_assistant_begins(make_tokenizer):
    renderer = make(make_tokenizer, "hh")
    assert renderer.prompt_ids(PROMPT) == [BOS, *b"\n\nHuman: Hi\n\nAssistant:"]
    assert response_ids(renderer, PROMPT, ANSWER, train_turns="last") == ([*b" Yo", EOS], [1] * 4)


def test_no_token_spans_the_boundary(shared):
    renderer = render.make(tokenizer.load(shared / "weights" / "stories260K" / "hf"), template="hh")
    prompt = renderer.prompt_ids(PROMPT)
    ids, scored = response_ids(renderer, PROMPT, [{"role": "assistant", "content": "the cat"}], train_turns="last")
    assert renderer.tokenizer.decode(prompt) == "<s>\n\nHuman: Hi\n\nAssistant:".replace("<s>", "<s> ")
    assert renderer.tokenizer.decode(prompt + ids).endswith("Assistant: the cat</s>")
    assert ids[-1] == renderer.stop_id and all(scored)


LATER = [
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "B"},
]
MIDDLE = [START, *b"user\nQ", END, *b"\n", START, *b"assistant\n"]


def test_all_assistant_turns_are_trained_or_the_last_alone(make_tokenizer):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    ids = [*b"A", END, *b"\n", *MIDDLE, *b"B", END]
    between = [0] * (1 + len(MIDDLE))
    assert response_ids(renderer, PROMPT, LATER, train_turns="all") == (ids, [1, 1, *between, 1, 1])
    assert response_ids(renderer, PROMPT, LATER, train_turns="last") == (ids, [0, 0, *between, 1, 1])


def test_a_template_that_rewrites_its_history_is_refused_by_the_row(make_tokenizer):
    cuts_thinking = (
        "{% for m in messages %}<|im_start|>{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    renderer = make(make_tokenizer, "auto", chat_template=cuts_thinking)
    turns = [{"role": "assistant", "content": "<think>x</think>A"}, *LATER[1:]]
    with pytest.raises(RowError, match="renders the answer '<think>x</think>A' as 'A' when more turns follow.*'last'") as error:
        response_ids(renderer, PROMPT, turns, train_turns="all")
    assert error.value.rule == "template_prefix"
    assert response_ids(renderer, PROMPT, turns, train_turns="last")[0][-2:] == [*b"B", END]


def test_turns_of_a_template_that_stops_only_at_the_very_end_cannot_all_be_trained(make_tokenizer):
    renderer = make(make_tokenizer, "hh")
    with pytest.raises(RowError, match="lacks the stop token '</s>'; use train_turns='last'"):
        response_ids(renderer, PROMPT, LATER, train_turns="all")
    assert sum(response_ids(renderer, PROMPT, LATER, train_turns="last")[1]) == len(" B") + 1


SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|end|>", "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|end_of_text|>"),
)


@pytest.mark.parametrize(
    ("file", "stop"),
    [
        ("llama_cpp/Qwen-Qwen2.5-7B-Instruct", "<|im_end|>"),
        ("llama_cpp/meta-llama-Llama-3.1-8B-Instruct", "<|eot_id|>"),
        ("llama_cpp/meta-llama-Llama-3.2-3B-Instruct", "<|eot_id|>"),
        ("llama_cpp/google-gemma-2-2b-it", "<end_of_turn>"),
        ("llama_cpp/mistralai-Mistral-Nemo-Instruct-2407", "</s>"),
        ("llama_cpp/microsoft-Phi-3.5-mini-instruct", "<|end|>"),
        ("llama_cpp/NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "<|im_end|>"),
        ("llama_cpp/CohereForAI-c4ai-command-r7b-12-2024-tool_use", "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
        ("llama_cpp/meetkai-functionary-medium-v3.1", "<|eot_id|>"),
        ("chujiezheng/granite-3.0-instruct", "<|end_of_text|>"),
        ("chujiezheng/qwen2.5-instruct", "<|im_end|>"),
    ],
)
def test_templates_of_the_wild_train_the_answers_with_their_stop_tokens_and_nothing_else(shared, make_tokenizer, file, stop):
    eos = "<|END_OF_TURN_TOKEN|>" if "Cohere" in file else "</s>"
    renderer = make(make_tokenizer, str(shared / "chat_templates" / f"{file}.jinja"), eos=eos, extra=SPECIAL)
    ids, scored = response_ids(renderer, PROMPT, LATER, train_turns="all")
    trained = renderer.tokenizer.decode([token for token, score in zip(ids, scored, strict=True) if score])
    assert trained.replace("<|START_RESPONSE|>", "") == f"A{stop}B{stop}"
    prompt = renderer.prompt_ids(PROMPT)
    whole = renderer.template.render([*PROMPT, *LATER], add_generation_prompt=False)
    assert whole.startswith(renderer.tokenizer.decode(prompt + ids))
    assert prompt.count(BOS) == int(renderer.writes_bos) == prompt[:1].count(BOS)


def test_a_template_that_asks_for_more_than_it_renders_is_refused_by_the_row(make_tokenizer):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML.replace("assistant\n'", "assistant\n<think>'"))
    with pytest.raises(
        RowError, match="asks for turn 1 with '<think>', but the conversation has 'Yo.*data.reasoning='train' or 'strip'"
    ) as error:
        response_ids(renderer, PROMPT, ANSWER, train_turns="last")
    assert error.value.rule == "template_prefix"


@pytest.mark.parametrize("text", ["Yo</s>", "Yo<|im_end|> more"])
def test_a_stop_token_inside_a_text_is_refused(make_tokenizer, text):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    with pytest.raises(RowError, match="holds the stop token '<.*take it out") as error:
        response_ids(renderer, PROMPT, [{"role": "assistant", "content": text}], train_turns="last")
    assert error.value.rule == "stop_token"


@pytest.mark.parametrize(
    ("template", "options", "words"),
    [
        ("auto", {}, "this tokenizer has none; use one of the built-in chatml"),
        ("plain", {"eos": None}, "no EOS token.*eos_token in tokenizer_config.json"),
        ("hh", {"eos": None}, "'hh' ends an assistant turn with ''.*no EOS token"),
        ("llama3", {}, r"'llama3' ends an assistant turn with '<\|eot_id\|>'.*no special token of this tokenizer"),
        ("auto", {"chat_template": "{{ bos_token }}" + "{{ bos_token }}" + CHATML}, "writes the BOS token '<s>' twice"),
        (
            "auto",
            {"chat_template": "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}{{ eos_token }}"},
            "ends an assistant turn with '</s></s>': the stop token twice; remove one",
        ),
        ("auto", {"chat_template": "{% for m in messages %}{{ m['role'] }}{% endfor %}"}, "does not write the assistant's text"),
    ],
)
def test_a_tokenizer_or_template_that_cannot_work_is_refused_before_any_row(make_tokenizer, template, options, words):
    with pytest.raises(ValueError, match=words):
        make(make_tokenizer, template, **options)


def test_plain_text_refuses_messages(make_tokenizer):
    with pytest.raises(RowError, match="use a chat template"):
        make(make_tokenizer, "plain").prompt_ids(PROMPT)


def test_a_turn_that_calls_a_tool_may_end_in_a_token_of_its_own(make_tokenizer):
    calls = "{% if m.tool_calls %}CALL {{ m.tool_calls[0].function | tojson }}<|eom|>{% else %}{{ m.content }}<|im_end|>{% endif %}"
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n" + calls + "{% endfor %}"
    renderer = make(make_tokenizer, "auto", chat_template=template, extra=("<|im_start|>", "<|im_end|>", "<|eom|>"))
    assert (renderer.stops.last, renderer.stops.middle, renderer.stops.call) == (END, END, END + 1)


def test_a_token_of_a_later_turn_ends_no_answer_in_the_middle(make_tokenizer):
    # Answers in the middle end with no token: the next turn's marker follows, and that turn's own end comes after its text.
    user = "{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_end|>{% else %}"
    template = "{% for m in messages %}" + user + "{{ m.content }}{% if loop.last %}</s>{% endif %}{% endif %}{% endfor %}"
    renderer = make(make_tokenizer, "auto", chat_template=template)
    assert (renderer.stops.last, renderer.stops.middle) == (EOS, None)
