"""Raw rows of every kind of feedback to one record, `Example`: by the name of a format, or by what the first row looks like.

`FORMATS` is the list; one canonical record for all kinds of feedback after HALOs (arXiv 2402.01306).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import re

from jaxalign.data.raw import scores
from jaxalign.data.raw.context import refuse_media, system_of, tools_of, with_system
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import Message
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.raw.turns import common_prompt, messages_of, side_of, text_of

Messages = tuple[Message, ...]
PAIRS = ("paired", "hh")
# What a source's `feedback` may be, and of which formats.
FEEDBACK = {"pair": (*PAIRS, "scored", "ranked"), "label": (*PAIRS, "binary"), "score": (*PAIRS, "scored")}
HH_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt with its judged responses."""

    prompt: str | Messages | None  # None: plain text without a prompt
    responses: tuple[str | Messages, ...]  # the same kind, text or messages, for all
    rewards: tuple[float, ...]  # 1 or 0, or a score in [0, 1]; by rank where only an order is known
    paired: bool  # response 0 is preferred to response 1
    columns: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)  # name -> a number of every response
    tools: tuple[dict, ...] = ()  # JSON schemas of what may be called


def paired(row: Record, *, scoring: Scoring) -> Example:
    """From `prompt`, `chosen`, `rejected`, as text or messages; without `prompt` it is what the two conversations share.

    The rewards are 1 and 0, or, where the source says how to read scores, `score_chosen` and `score_rejected`; so also of hh.
    """
    chosen, rejected = (side_of(row, name, row.fields) for name in ("chosen", "rejected"))
    prompt = row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str) and prompt is not None:
        prompt = prompt if isinstance(prompt, str) else messages_of(prompt, "prompt", row.fields)
    else:
        chosen, rejected = (_conversation(side) for side in (chosen, rejected))
        given = None if prompt is None or isinstance(prompt, str) else messages_of(prompt, "prompt", row.fields)
        if given is None and isinstance(prompt, str) and chosen[0]["role"] == "assistant":
            given = ({"role": "user", "content": prompt},)
        if given is None:
            prompt, (chosen, rejected) = common_prompt(chosen, rejected)
        else:
            prompt = given
            chosen, rejected = (side[len(given) :] if side[: len(given)] == given else side for side in (chosen, rejected))
    return Example(prompt, (chosen, rejected), (1.0, 0.0), True)


def hh(row: Record, *, scoring: Scoring) -> Example:
    r"""From the text of Anthropic-HH: whole dialogues `chosen` and `rejected` with turns "\n\nHuman: ...\n\nAssistant: ...".

    Dialogues that part before the last assistant turn are dropped (rule "part_early"): their last turns answer different
    prompts, so neither is a judgement of the other. They are 0.25 % of the test split of harmless-base.
    """
    dialogues = [_hh_turns(text_of(row, name), name) for name in ("chosen", "rejected")]
    prompt, responses = common_prompt(*dialogues)
    return Example(prompt, responses, (1.0, 0.0), True)


def binary(row: Record, *, scoring: Scoring) -> Example:
    """From `prompt`, `completion` (or `messages` whose last turn is judged) and `label`, a bool, 0 / 1, or "yes" / "no"."""
    prompt, response = _prompt_and_completion(row)
    label = row.get("label")
    words = {"true": True, "yes": True, "good": True, "false": False, "no": False, "bad": False}
    label = words.get(label.lower(), label) if isinstance(label, str) else label
    if label not in (True, False):
        raise RowError("wrong_type", f"label is {label!r}; it must be true or false.")
    return Example(prompt, (response,), (float(label),), False)


def scored(row: Record, *, scoring: Scoring) -> Example:
    """From `prompt` and `completion`, `score`, or `completions`, `scores`, read as `scores.Scoring` says."""
    prompt, responses = _several(row)
    return Example(prompt, responses, scoring.rewards(row, count=len(responses), sides=False), False)


def ranked(row: Record, *, scoring: Scoring) -> Example:
    """From `prompt` and `responses`, best first; the rewards fall evenly from 1 to 0."""
    prompt, responses = _several(row)
    if len(responses) < 2:
        raise RowError("too_few", f"a ranking of {len(responses)} response; it needs at least 2.")
    return Example(prompt, responses, tuple(1 - k / (len(responses) - 1) for k in range(len(responses))), True)


def messages(row: Record, *, scoring: Scoring) -> Example:
    """A conversation `messages` for supervised fine-tuning: the response begins at its first assistant turn."""
    turns = messages_of(row.get("messages"), "messages", row.fields)
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    while turns and turns[-1]["role"] != "assistant":
        turns = turns[:-1]  # a question without an answer at the end has nothing to train
    if first == 0 or not turns:
        raise RowError("roles", "the conversation has no user turn followed by an assistant turn.")
    return Example(turns[:first], (turns[first:],), (1.0,), False)


def completion(row: Record, *, scoring: Scoring) -> Example:
    """`prompt` and `completion` for supervised fine-tuning."""
    prompt, response = _prompt_and_completion(row)
    return Example(prompt, (response,), (1.0,), False)


def text(row: Record, *, scoring: Scoring) -> Example:
    """`text` for plain language modelling: every token is trained."""
    return Example(None, (text_of(row, "text"),), (1.0,), False)


FORMATS: dict[str, Callable[..., Example]] = {
    function.__name__: function for function in (paired, hh, binary, scored, ranked, messages, completion, text)
}


def detect(row: Mapping) -> tuple[str, str]:
    """The name of the format that a row looks like, and why, as a sentence.

    Raises:
      ValueError: it looks like none; the message lists its columns and the formats.
    """
    has = {name for name, value in row.items() if value is not None}
    answers = has & {"completion", "completions", "response", "responses"}
    if {"chosen", "rejected"} <= has:
        is_hh = "prompt" not in has and isinstance(row["chosen"], str) and HH_TURN.match(row["chosen"])
        return ("hh", "chosen and rejected begin with \\n\\nHuman:") if is_hh else ("paired", "it has chosen and rejected")
    if "label" in has and ("messages" in has or ("prompt" in has and answers)):
        return "binary", "it has label"
    if has & {"score", "scores"} and "prompt" in has and answers:
        return "scored", "it has score or scores"
    if {"prompt", "responses"} <= has:
        return "ranked", "it has responses, taken as best first"
    if "messages" in has:
        return "messages", "it has messages"
    if "prompt" in has and answers:
        return "completion", "it has prompt and completion"
    if "text" in has and isinstance(row["text"], str):
        return "text", "it has text"
    raise ValueError(
        f"the columns {', '.join(sorted(row))} fit none of the formats {', '.join(FORMATS)}"
        + (" (a pair needs chosen and rejected)" if "chosen" in row else "")
        + "; set format, and rename={ours: theirs}."
    )


def to_example(
    row: Mapping,
    *,
    name: str,
    scoring: Scoring | None = None,
    responses: str = "all",
    feedback: str | None = None,
    keep_columns: Mapping[str, str] | None = None,
) -> Example:
    """The example of a raw row, checked.

    Args:
      scoring: how scores become rewards; None: they lie in [0, 1] already, and pairs do without.
      responses: "chosen" keeps only the best one, to fine-tune on.
      feedback: "pair": of scored or ranked responses the best and the worst; equal scores break the rule "tie", and the order of the list
        does not matter. "label": the two of a pair judged one by one, 1 and 0. "score": likewise, by their scores. None: as the format is.
      keep_columns: our name -> column of the row (of a pair, COLUMN_chosen and COLUMN_rejected): numbers kept in `columns`.

    Raises:
      RowError: the row breaks a rule of its format.
    """
    scoring = scoring or Scoring()
    row = row if isinstance(row, Record) else Record(row)
    refuse_media(row)
    example = _in_context(FORMATS[name](row, scoring=scoring), row)
    pair, count = name in PAIRS, len(example.responses)
    if pair and (scoring.declared or feedback == "score"):
        example = dataclasses.replace(example, rewards=scoring.rewards(row, count=2, sides=True))
    if keep_columns:
        kept = {ours: scores.numbers(row, theirs, count=count, sides=pair, kept=True) for ours, theirs in keep_columns.items()}
        example = dataclasses.replace(example, columns=kept)
    _check(example)
    if feedback == "pair" and not pair:
        example = _best_and_worst(example)
        _check(example)
    elif feedback == "label" and pair:
        example = dataclasses.replace(example, rewards=(1.0, 0.0), paired=False)
    elif feedback == "score":
        example = dataclasses.replace(example, paired=False)
    if responses == "chosen":
        best = max(range(len(example.rewards)), key=lambda k: example.rewards[k])
        if name == "binary" and not example.rewards[best]:
            raise RowError("not_chosen", "the row's only response is labelled false, and responses='chosen'.")
        return _only(example, (best,), paired=False)
    return example


def _best_and_worst(example):
    count = len(example.responses)
    if count < 2:
        raise RowError("too_few", f"feedback='pair' of {count} response; it needs at least 2.")
    # The text decides between equals, so that the order of the list does not.
    worst, *_, best = sorted(range(count), key=lambda k: (example.rewards[k], repr(example.responses[k])))
    if example.rewards[best] == example.rewards[worst]:
        raise RowError("tie", f"all {count} responses have the same score, so none is preferred; leave the row out, or use the scores.")
    return _only(example, (best, worst), paired=True)


def _only(example, which, *, paired):
    columns = {name: tuple(values[k] for k in which) for name, values in example.columns.items()}
    responses, rewards = (tuple(values[k] for k in which) for values in (example.responses, example.rewards))
    return dataclasses.replace(example, responses=responses, rewards=rewards, paired=paired, columns=columns)


def _in_context(example, row):
    system, tools = system_of(row), tools_of(row)
    if system is None or example.prompt is None:
        return dataclasses.replace(example, tools=tools)
    responses = tuple(_conversation(response) for response in example.responses)
    return dataclasses.replace(example, prompt=with_system(example.prompt, system), responses=responses, tools=tools)


def _check(example):
    for k, response in enumerate(example.responses):
        if _is_empty(response):
            raise RowError("empty_response", f"response {k} is empty; give it a text, or leave the row out.")
        if not isinstance(response, str) and (response[0]["role"], response[-1]["role"]) != ("assistant", "assistant"):
            raise RowError("roles", f"response {k} begins with {response[0]['role']} and ends with {response[-1]['role']}, not assistant.")
    if isinstance(example.prompt, tuple) and (not example.prompt or example.prompt[-1]["role"] not in ("user", "tool")):
        raise RowError("roles", "the prompt does not end with a user turn.")
    if isinstance(example.prompt, str) and not example.prompt.strip():
        raise RowError("empty_prompt", "the prompt is empty; give every row a prompt, or use format 'text'.")
    if example.paired and example.responses[0] == example.responses[1]:
        raise RowError("same_response", "chosen and rejected are equal, so there is nothing to prefer; leave the row out.")


def _is_empty(response):
    if isinstance(response, str):
        return not response.strip()
    return not response or not (response[-1]["content"].strip() or response[-1].get("tool_calls"))


def _conversation(side):
    return ({"role": "assistant", "content": side},) if isinstance(side, str) else side


def _hh_turns(dialogue, name):
    parts = HH_TURN.split(dialogue)
    if parts[0].strip() or len(parts) < 3:
        raise RowError("roles", f"{name} does not begin with '\\n\\nHuman:' but with {dialogue[:30]!r}; is the format hh?")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [{"role": roles[role], "content": content.strip()} for role, content in zip(parts[1::2], parts[2::2], strict=True)]
    return messages_of(turns, name, set())


def _prompt_and_completion(row):
    if row.get("messages") is not None:
        turns = messages_of(row["messages"], "messages", row.fields)
        return turns[:-1], turns[-1:]
    prompt, responses = _several(row)
    if len(responses) != 1:
        raise RowError("wrong_type", f"the row has {len(responses)} completions; this format takes one.")
    return prompt, responses[0]


def _several(row):
    name = next((n for n in ("completions", "responses", "completion", "response") if row.get(n) is not None), None)
    if name is None:
        raise RowError("missing_column", "the row has no completion; set rename={'completion': ...} to the column that holds it.")
    value = row[name]
    several = name.endswith("s") and isinstance(value, Sequence) and not isinstance(value, str)
    responses = tuple(side_of({name: one}, name, row.fields) for one in (value if several else [value]))
    if row.get("prompt") is None:
        raise RowError("missing_column", "the row has no prompt; set rename={'prompt': ...} to the column that holds it.")
    prompt = side_of(row, "prompt", row.fields)
    if isinstance(prompt, str) and all(isinstance(response, str) for response in responses):
        return prompt, responses
    prompt = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return prompt, tuple(_conversation(response) for response in responses)
