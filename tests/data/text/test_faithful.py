"""What is trained is what the row holds, or the row is refused by name: markers, texts, tools, thoughts, weights, stop tokens."""

import pytest
from tiny_data import CHATML, response_ids

from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.examples import Example
from jaxalign.data.rows import encode
from jaxalign.data.text import faithful, render, tokenizer

HI = {"role": "user", "content": "Hi"}
YO = {"role": "assistant", "content": "Yo"}
BYE = {"role": "user", "content": "Bye"}
CALL = {"type": "function", "function": {"name": "get_time", "arguments": {"city": 'Os"lo', "days": [1, "mon"]}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOOLS = ({"type": "function", "function": {"name": "get_time", "parameters": {}}},)
WITH_ALL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}CALL {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(make_tokenizer, template=CHATML, **options):
    reasoning = options.pop("reasoning", "keep")
    return render.make(tokenizer.load(make_tokenizer(chat_template=template, **options)), template="auto", reasoning=reasoning)


def trained(renderer, prompt, response, *, turns="last", tools=()):
    ids, scored = response_ids(renderer, prompt, response, train_turns=turns, tools=tools)
    return renderer.tokenizer.decode([token for token, score in zip(ids, scored, strict=True) if score])


def refused(renderer, prompt, response, *, turns="last", tools=()):
    with pytest.raises(RowError) as error:
        trained(renderer, prompt, response, turns=turns, tools=tools)
    return error.value.rule, str(error.value)


def test_a_bos_that_opens_every_turn_is_the_templates_own(make_tokenizer):
    renderer = make(make_tokenizer, bos="<|im_start|>", extra=("<|im_end|>",), writes_bos=False)
    assert trained(renderer, [HI, YO, BYE], [YO]) == "Yo<|im_end|>"


@pytest.mark.parametrize(
    ("where", "typed", "rule"),
    [
        ("prompt", "<s>", "bos"),
        ("response", "<s>", "bos"),
        ("prompt", "<|im_start|>user\nHi<|im_end|>", "special_token"),
        ("prompt", "Hi<|im_end|>", "stop_token"),
        ("response", "Yo<|im_end|>", "stop_token"),
        ("response", "Yo</s>", "stop_token"),
    ],
)
def test_a_marker_that_is_typed_in_a_text_refuses_the_row(make_tokenizer, where, typed, rule):
    texts = {"prompt": "Hi", "response": "Yo", where: typed}
    found, message = refused(make(make_tokenizer), texts["prompt"], texts["response"])
    assert found == rule and "<" in message and "take" in message


def test_an_ordinary_text_with_angle_brackets_is_kept(make_tokenizer):
    assert trained(make(make_tokenizer), "a </s> b <p>", "<b>Yo</b>") == "<b>Yo</b><|im_end|>"


LAST_ENDS_OTHERWISE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.role == 'assistant' and loop.last %}</s>{% else %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_each_turn_is_trained_with_the_token_that_ends_it(make_tokenizer):
    renderer = make(make_tokenizer, LAST_ENDS_OTHERWISE)
    assert trained(renderer, [HI], [YO, BYE, YO], turns="all") == "Yo<|im_end|>Yo</s>"
    assert renderer.tokenizer.model.id_to_token(renderer.stop_id) == "</s>"


def test_a_template_that_leaves_out_part_of_an_answer_refuses_the_row(make_tokenizer):
    cuts = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    rule, message = refused(make(make_tokenizer, cuts), [HI], [{**YO, "content": "<think>a long thought</think>Yo"}])
    assert rule == "template_text" and "a long thought" in message and "data.reasoning" in message
    rule, _ = refused(make(make_tokenizer, CHATML.replace("message['content']", "message['content'][:3]"), name="b"), "Hi", "a long answer")
    assert rule == "template_text"


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_a_template_that_leaves_out_a_text_of_the_prompt_refuses_the_row(make_tokenizer, role):
    silent = CHATML.replace("{{ '<|im_start|>'", "{% if message['content'] != 'secret' %}{{ '<|im_start|>'").replace(
        "'<|im_end|>\n' }}", "'<|im_end|>\n' }}{% endif %}"
    )
    prompt = [{"role": role, "content": "secret"}, HI] if role == "system" else [HI, YO, {"role": role, "content": "secret"}]
    rule, message = refused(make(make_tokenizer, silent), prompt, [YO])
    assert rule == "template_text" and f"the {role} text 'secret'" in message


def test_tools_and_tool_calls_are_rendered_and_trained(make_tokenizer):
    renderer = make(make_tokenizer, WITH_ALL)
    text = trained(renderer, [HI], [CALLING], tools=TOOLS)
    assert text == 'CALL get_time {"city": "Os\\"lo", "days": [1, "mon"]}<|im_end|>'
    assert "get_time" in renderer.prompt([HI], TOOLS).text
    answered = [HI, CALLING, {"role": "tool", "content": "noon"}]
    assert "CALL get_time" in renderer.prompt(answered, TOOLS).text and trained(renderer, answered, [YO]) == "Yo<|im_end|>"


@pytest.mark.parametrize(
    ("prompt", "response", "tools", "rule"),
    [
        ([HI], [YO], TOOLS, "tools"),
        ([HI, CALLING, {"role": "tool", "content": "noon"}], [YO], (), "tool_calls"),
        ([HI], [CALLING], (), "tool_calls"),
        ([HI], [{**CALLING, "content": "I look."}], (), "tool_calls"),
        ([HI], [{**YO, "reasoning_content": "a thought"}], (), "reasoning"),
    ],
)
def test_a_field_that_the_template_ignores_refuses_the_row(make_tokenizer, prompt, response, tools, rule):
    assert refused(make(make_tokenizer), prompt, response, tools=tools)[0] == rule


def test_reasoning_that_the_template_writes_is_trained(make_tokenizer):
    assert trained(make(make_tokenizer, WITH_ALL), [HI], [{**YO, "reasoning_content": "hm"}]) == "<think>hm</think>Yo<|im_end|>"


def test_turns_of_weight_0_are_context(make_tokenizer):
    renderer = make(make_tokenizer)
    bad = {**YO, "content": "bad", "weight": 0}
    assert trained(renderer, [HI], [bad, BYE, {**YO, "weight": 1}], turns="all") == "Yo<|im_end|>"
    assert trained(renderer, [HI], [YO, BYE, bad]) == "Yo<|im_end|>"
    assert refused(renderer, [HI], [bad])[0] == "weight"


@pytest.mark.parametrize("turns", ["last", "all"])
def test_an_empty_answer_is_trained_nowhere(make_tokenizer, turns):
    renderer, empty = make(make_tokenizer), {**YO, "content": " \n"}
    assert refused(renderer, [HI], [empty], turns=turns)[0] == "empty_response"
    if turns == "all":
        assert refused(renderer, [HI], [empty, BYE, YO], turns=turns)[0] == "empty_response"
    assert trained(renderer, [HI], [{**empty, "weight": 0}, BYE, YO], turns=turns) == "Yo<|im_end|>"


def test_ids_that_do_not_decode_to_their_text_are_refused(make_tokenizer):
    loaded = tokenizer.load(make_tokenizer())
    faithful.check_tokens(loaded, [], loaded.encode("a été"), "a été")
    with pytest.raises(RowError, match="decode to .*, but its text is") as error:
        faithful.check_tokens(loaded, [], loaded.encode("a ete"), "a été")
    assert error.value.rule == "lossy_tokens"


R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}"
    "<|im_end|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|><think>\n{% endif %}"
)
THOUGHT = {**YO, "content": "<think>two and two</think>Yo"}


@pytest.mark.parametrize("answer", [YO, THOUGHT, {**YO, "reasoning_content": "two and two"}])
def test_answers_for_a_template_that_opens_a_thought_are_trained_with_or_without_it(make_tokenizer, answer):
    assert refused(make(make_tokenizer, R1, name="keep"), [HI], [answer])[0] == "template_prefix"
    strip, train = (make(make_tokenizer, R1, name=name, reasoning=name) for name in ("strip", "train"))
    assert strip.prompt([HI]).text.endswith("<|im_end|><think>\n\n</think>\n\n") and trained(strip, [HI], [answer]) == "Yo</s>"
    thought = "" if answer is YO else "two and two"
    assert train.prompt([HI]).text.endswith("<|im_end|><think>\n")
    assert trained(train, [HI], [answer]) == f"{thought}\n</think>\n\nYo</s>"


SHORT_PAST = CHATML.replace("+ message['content'] +", "+ (message['content'] if loop.last or message['role'] != 'assistant' else '...') +")
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_turns_of_a_template_that_drops_thoughts_of_the_past_can_all_be_trained(make_tokenizer):
    turns = [{**YO, "content": "A"}, BYE, {**YO, "content": "B"}]
    assert refused(make(make_tokenizer, QWEN3, name="keep"), [HI], turns, turns="all")[0] == "template_prefix"
    strip = make(make_tokenizer, QWEN3, name="strip", reasoning="strip")
    assert trained(strip, [HI], turns, turns="all") == "A<|im_end|>B<|im_end|>"
    train = make(make_tokenizer, QWEN3, name="train", reasoning="train")
    turns[-1]["reasoning_content"] = "hm"
    assert trained(train, [HI], turns) == "<think>\nhm\n</think>\n\nB<|im_end|>"


WEIGHTED = [{**THOUGHT, "weight": 1}, BYE, {**YO, "weight": 0}]


@pytest.mark.parametrize("turns", ["last", "all"])
def test_the_last_trained_answer_keeps_its_thought_where_further_turns_follow(make_tokenizer, turns):
    qwen, r1 = (make(make_tokenizer, template, name=name, reasoning="train") for name, template in (("q", QWEN3), ("r", R1)))
    assert trained(qwen, [HI], WEIGHTED, turns=turns) == "<think>\ntwo and two\n</think>\n\nYo<|im_end|>"
    assert trained(r1, [HI], WEIGHTED, turns=turns) == "two and two\n</think>\n\nYo</s>"
    calling = make(make_tokenizer, WITH_ALL, name="calls", reasoning="train")
    answers = [{**CALLING, "reasoning_content": "mull"}, {"role": "tool", "content": "12:00"}, {**YO, "weight": 0}]
    assert trained(calling, [HI], answers, turns=turns, tools=TOOLS).startswith("<think>\nmull\n</think>\n\nCALL get_time")


def test_a_thought_after_other_answers_stands_where_the_template_opens_it(make_tokenizer):
    train = make(make_tokenizer, R1, reasoning="train")
    prompt = train.prompt([HI])
    ids = train.response(prompt, [YO, BYE, THOUGHT], train_turns="last").ids
    past, asked = "\n</think>\n\nYo</s>", "<|im_start|>Bye<|im_end|><think>\n"
    assert prompt.text.endswith("<think>\n")
    assert train.tokenizer.decode(ids) == f"{past}{asked}two and two\n</think>\n\nYo</s>"


def test_two_thoughts_of_which_a_template_writes_one_are_refused_with_settings_that_help(make_tokenizer):
    train = make(make_tokenizer, QWEN3, reasoning="train")
    rule, message = refused(train, [HI], [{**YO, "reasoning_content": "mull"}, BYE, THOUGHT], turns="all")
    assert rule == "reasoning" and message.endswith("set train_turns='last' or data.reasoning='strip'.")


def test_an_answer_of_weight_1_that_is_not_trained_is_counted(make_tokenizer):
    renderer, turns = make(make_tokenizer), [{**YO, "weight": 1}, BYE, YO]
    prompt = renderer.prompt([HI])
    assert [rule for rule, _ in renderer.response(prompt, turns, train_turns="last").notes] == ["weight_1_not_trained"]
    assert renderer.response(prompt, turns, train_turns="all").notes == ()
    assert renderer.response(prompt, [YO, BYE, {**YO, "weight": 1}], train_turns="last").notes == ()


def test_thoughts_that_are_left_out_are_counted(make_tokenizer):
    strip = make(make_tokenizer, R1, reasoning="strip")
    prompt = strip.prompt([HI])
    assert strip.response(prompt, [THOUGHT], train_turns="last").notes == (
        ("reasoning_stripped", "1 thoughts are left out (data.reasoning='strip')"),
    )
    assert strip.response(prompt, [YO], train_turns="last").notes == ()
    train = make(make_tokenizer, R1, name="train", reasoning="train")
    assert [rule for rule, _ in train.response(train.prompt([HI]), [YO], train_turns="last").notes] == ["empty_thought"]
    assert train.response(train.prompt([HI]), [THOUGHT], train_turns="last").notes == ()


@pytest.mark.parametrize("reasoning", ["strip", "train"])
@pytest.mark.parametrize(
    "fields",
    [
        {"content": "two</think>Yo"},
        {"content": "<think>two"},
        {"content": "<think>two</think>"},
        {"content": "Well <think>two</think> Yo"},
        {"content": "<think>one</think><think>two</think>Yo"},
        {"content": "<think>two</think>Yo", "reasoning_content": "three"},
        {"content": "Yo</think>", "reasoning_content": "three"},
    ],
)
def test_a_thought_that_cannot_be_told_from_its_answer_refuses_the_row(make_tokenizer, reasoning, fields):
    rule, message = refused(make(make_tokenizer, R1, reasoning=reasoning), [HI], [{**YO, **fields}])
    assert rule == "reasoning" and ("think>" in message or "two different thoughts" in message)
    same = {**YO, "content": "<think>two</think>Yo", "reasoning_content": "two"}
    assert trained(make(make_tokenizer, R1, name="b", reasoning=reasoning), [HI], [same]).endswith("Yo</s>")


def test_plain_answers_lose_their_thoughts_too(make_tokenizer):
    loaded = tokenizer.load(make_tokenizer())
    plain = render.make(loaded, template="plain", reasoning="strip")
    assert trained(plain, "Hi", "<think>two</think>Yo") == "Yo</s>"
    assert refused(plain, "Hi", "two</think>Yo")[0] == "reasoning"
    assert trained(render.make(loaded, template="plain"), "Hi", "two</think>Yo") == "two</think>Yo</s>"
    with pytest.raises(ValueError, match="use a chat template"):
        render.make(loaded, template="plain", reasoning="train")


def test_fields_and_past_answers_that_a_template_leaves_out_are_counted(make_tokenizer):
    renderer = make(make_tokenizer)
    asked = [{**HI, "name": "Berta"}, {**YO, "reasoning_content": "mull"}, BYE]
    notes = dict(renderer.prompt(asked).notes)
    assert notes.keys() == {"unwritten_name", "unwritten_reasoning_content"}
    assert "does not write the name 'Berta' of the user turn" in notes["unwritten_name"]
    answers = [YO, {"role": "tool", "content": "21", "tool_call_id": "c-7"}, YO]
    assert [rule for rule, _ in renderer.response(renderer.prompt([HI]), answers, train_turns="last").notes] == ["unwritten_tool_call_id"]
    short = make(make_tokenizer, SHORT_PAST, name="short")
    assert [rule for rule, _ in short.prompt([HI, {**YO, "content": "a long answer"}, BYE]).notes] == ["unwritten_content"]


def test_a_row_counts_once_per_rule(make_tokenizer):
    changes = []
    asked = [{**HI, "name": "Berta"}, YO, {**BYE, "name": "Carl"}]
    answers = [[YO, {**HI, "name": name}, {**YO, "content": name[0]}] for name in ("Dora", "Emil")]
    example = Example(asked, tuple(answers), rewards=(1.0, 0.0), paired=True)
    limits = encode.Limits(row_tokens=500, share_prompt=True)
    renderer = make(make_tokenizer)
    encode.encode(example, renderer=renderer, limits=limits, row=0, train_turns="last", changed=lambda *note: changes.append(note))
    assert [rule for rule, _ in changes] == ["unwritten_name"] and "Berta" in changes[0][1]


def test_a_base_model_gains_the_markers_of_a_template(make_tokenizer):
    bare = tokenizer.load(make_tokenizer(bos=None, eos=None, writes_bos=False, extra=()))
    with pytest.raises(ValueError, match="data.add_tokens"):
        render.make(bare, template="auto")
    with pytest.raises(ValueError, match="data.add_tokens"):
        render.make(bare, template="chatml")
    renderer = render.make(bare.with_added(("<|im_start|>", "<|im_end|>")), template="chatml")
    assert renderer.prompt_ids("Hi")[0] == bare.vocab_size and renderer.stop_id == bare.vocab_size + 1
    assert trained(renderer, "Hi", "Yo") == "Yo<|im_end|>"
    assert bare.content != renderer.tokenizer.content and bare.with_added(()) is bare
