"""Makes a renderer: looks once, with a conversation whose texts are known, at what a template writes around them."""

import dataclasses
import os.path

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import templates, thoughts
from jaxalign.data.text.pieces import Stops
from jaxalign.data.text.renderer import Renderer
from jaxalign.data.text.tokenizer import Tokenizer

ANSWER = "zq"  # a text that no template writes by itself
QUESTION = {"role": "user", "content": "a"}
PROBE = ({"role": "system", "content": "s"}, QUESTION, {"role": "assistant", "content": ANSWER})
CALL = {"type": "function", "function": {"name": "find", "arguments": {"word": ANSWER}}}
TOOL = {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {}}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def make(tokenizer: Tokenizer, *, template: str, date: str = templates.DATE, reasoning: str = "keep") -> Renderer:
    """The renderer of a tokenizer with a template: "auto", "plain", a built-in name or the path of a .jinja file.

    Raises:
      ValueError: no chat template, no EOS where one is needed, a template that writes BOS or EOS twice, or none that ends a turn.
    """
    if reasoning not in thoughts.REASONING:
        raise ValueError(f"reasoning={reasoning!r} is not one of {', '.join(thoughts.REASONING)}.")
    if template == "plain":
        if tokenizer.eos_id is None:
            raise ValueError(
                "the tokenizer has no EOS token, and plain text must end in one; name it as eos_token in tokenizer_config.json, "
                "or use a chat template whose turns end in a token of their own."
            )
        if reasoning == "train":
            raise ValueError("reasoning='train' writes thoughts into a conversation, which template='plain' has not; use a chat template.")
        return Renderer(tokenizer, None, tokenizer.writes_bos, Stops(tokenizer.eos_id, None), reasoning=reasoning)
    chat = templates.load(
        template, own=tokenizer.templates, special=_special(tokenizer, template), writes_bos=tokenizer.writes_bos, date=date
    )
    text = chat.render(PROBE[1:], add_generation_prompt=False)
    ids = tokenizer.encode(text)
    writes_bos = tokenizer.bos_id is not None and ids[:1] == [tokenizer.bos_id]
    if writes_bos and ids[1:2] == ids[:1]:
        raise ValueError(f"template {chat.name!r} writes the BOS token {tokenizer.bos!r} twice at the beginning; remove one.")
    if ANSWER not in text:
        raise ValueError(f"template {chat.name!r} does not write the assistant's text; it renders an answer as {text!r}.")
    if text.count(ANSWER) > 1:
        raise ValueError(f"template {chat.name!r} writes the assistant's text {text.count(ANSWER)} times, as {text!r}; mend the template.")
    stops = _stops(tokenizer, chat, text.rpartition(ANSWER)[2])
    return Renderer(tokenizer, chat, writes_bos, stops, _markers(tokenizer, chat), reasoning)


def _special(tokenizer, template):
    # A template of the model's own knows the tokens that its tokenizer names; a built-in one, those that config.json alone names too.
    known = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos} if template in templates.BUILT_IN else {}
    return {**{name: token for name, token in known.items() if token is not None}, **tokenizer.special}


def _stops(tokenizer, chat, tail):
    # `tail` is what the template writes after the last answer. What it also writes after an answer in the middle ends a turn: EOS
    # if it is in there (Command R: <|END_RESPONSE|><|END_OF_TURN_TOKEN|>), else the first token (Phi 3: <|end|>\n<|endoftext|>).
    ends = _special_in(tokenizer, tail)
    if not ends:
        why = "the tokenizer has no EOS token" if tokenizer.eos_id is None else f"the tokenizer's EOS is {tokenizer.eos!r}"
        raise ValueError(
            f"template {chat.name!r} ends an assistant turn with {tail!r}, in which there is no special token of this tokenizer "
            f"({why}); use a template of this model's family, or 'hh' or 'plain' where there is an EOS token, or name the markers that "
            "the template writes in data.add_tokens."
        )
    if len(ends) > 1 and ends[0] == ends[1] and not tail.replace(tokenizer.model.id_to_token(ends[0]), "").strip():
        raise ValueError(f"template {chat.name!r} ends an assistant turn with {tail!r}: the stop token twice; remove one.")
    call = _call_stop(tokenizer, chat)
    middle = _tail(chat, [*PROBE[1:], QUESTION], before=QUESTION["content"])
    if middle is None:
        return _with_call(Stops(ends[0], None), call)
    common = _special_in(tokenizer, os.path.commonprefix([tail, middle]))
    if common:
        stop = tokenizer.eos_id if tokenizer.eos_id in common else common[0]
        return _with_call(Stops(stop, stop), call)
    # The last turn ends otherwise (gpt-oss: <|return|>, not <|end|>). In the middle, the first of several tokens ends the turn; a
    # single one may be the marker of the next turn.
    others = _special_in(tokenizer, middle)
    last = tokenizer.eos_id if tokenizer.eos_id in ends else ends[0]
    return _with_call(Stops(last, others[0] if len(others) > 1 or others == [tokenizer.eos_id] else None), call)


def _with_call(stops, call):
    return stops if call in (None, stops.last, stops.middle) else dataclasses.replace(stops, call=call)


def _call_stop(tokenizer, chat):
    # What ends a turn that calls a tool: EOS if the template writes it after the call, else the last special token there.
    tail = _tail(chat, [QUESTION, CALLING], tools=[TOOL])
    ends = [] if tail is None else [token for token in _special_in(tokenizer, tail) if _is_control(tokenizer, token)]
    return tokenizer.eos_id if tokenizer.eos_id in ends else ends[-1] if ends else None


def _tail(chat, messages, *, before="", tools=()):
    # What the template writes after the last ANSWER, up to a text of the next turn; None: it refuses or leaves the answer out.
    try:
        text = chat.render(messages, add_generation_prompt=False, tools=tools)
    except RowError:
        return None
    tail = text.rpartition(ANSWER)[2] if ANSWER in text else None
    return tail if tail is None or not before else tail.rpartition(before)[0]


def _markers(tokenizer, chat):
    # The special tokens that the template writes, with a system turn, without one, and around a tool call.
    found = set()
    for messages, tools in ((PROBE, ()), (PROBE[1:], ()), ((*PROBE[1:], QUESTION), ()), ((QUESTION, CALLING), (TOOL,))):
        for prompted in (False, True):
            try:
                text = chat.render(messages, add_generation_prompt=prompted, tools=tools)
            except RowError:
                continue
            found |= {token for token in tokenizer.encode(text) if _is_control(tokenizer, token)}
    return frozenset(tokenizer.model.id_to_token(token) for token in found)


def _special_in(tokenizer, text):
    return [token for token in tokenizer.encode_next(text) if token in tokenizer.special_ids]


def _is_control(tokenizer, token):
    added = tokenizer.model.get_added_tokens_decoder().get(token)
    return added is not None and added.special
