"""Raw rows of every kind of feedback to one record, `Example`, by the name of a format. `FORMATS` is the list; `detect` finds the name."""

from collections.abc import Callable, Mapping
import dataclasses

from jaxalign.data.raw import asked, choices, examples, scores, verdicts
from jaxalign.data.raw.answers import ANSWERS, answers_of, of_one_kind
from jaxalign.data.raw.context import refuse_media, system_of, tools_of, with_system
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.examples import Example
from jaxalign.data.raw.labels import LABELS, label_of
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.raw.turns import CONVERSATIONS, common_prompt, conversation, messages_of, side, side_of, text_of
from jaxalign.data.raw.typed import hh_answer, hh_prompt, hh_turns, is_hh

PAIRS = ("paired", "hh", "choice")
TARGETS = ("messages", "completion", "text")  # what is learnt as it is
# What a source's `feedback` may be, and of which formats.
FEEDBACK = {"pair": (*PAIRS, "scored", "ranked"), "label": (*PAIRS, "binary"), "score": (*PAIRS, "scored")}


def paired(row: Record, *, scoring: Scoring) -> Example:
    """From a prompt, `chosen` and `rejected`, as text or messages; without a prompt it is what the two conversations share.

    Two dialogues written as text are read as `hh` reads them.
    The rewards are 1 and 0, or `score_chosen` and `score_rejected` where the source specifies how to read scores; so also of hh and choice.
    """
    pair = tuple(side_of(row, name) for name in ("chosen", "rejected"))
    if all(map(is_hh, pair)):
        return hh(row, scoring=scoring)
    prompt = asked.prompt_of(row)
    if prompt is not None and all(isinstance(answer, str) for answer in pair):
        return Example(prompt, pair, (1.0, 0.0), True)
    if all(isinstance(answer, str) for answer in pair):
        asked.refuse_empty(row)
    pair = tuple(conversation(answer) for answer in pair)
    if prompt is None or (isinstance(prompt, str) and any(answer[0]["role"] != "assistant" for answer in pair)):
        shared, pair = common_prompt(*pair)
        _check_within(prompt, shared, row)
        return Example(shared, pair, (1.0, 0.0), True)
    question = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    pair = tuple(answer[len(question) :] if answer[: len(question)] == question else answer for answer in pair)
    return Example(question, pair, (1.0, 0.0), True)


def hh(row: Record, *, scoring: Scoring) -> Example:
    r"""From the text of Anthropic-HH: whole dialogues `chosen` and `rejected` with turns "\n\nHuman: ...\n\nAssistant: ...".

    Dialogues that part before the last assistant turn are dropped (rule "part_early"): their last turns answer different
    prompts, so neither is a judgement of the other. They are 0.25 % of the test split of harmless-base.
    """
    dialogues = [messages_of(hh_turns(text_of(row, name), name), name, row) for name in ("chosen", "rejected")]
    prompt, responses = common_prompt(*dialogues)
    text = row.get("prompt") if isinstance(row.peek("prompt"), str) else ""
    if text.strip() and not row["chosen"].strip().startswith(text.strip()):
        _check_within(text, prompt, row)
    return Example(prompt, responses, (1.0, 0.0), True)


def choice(row: Record, *, scoring: Scoring, base: int | None = None) -> Example:
    """From two answers side by side and a column that chooses, see `choices`. `base` is the number of the first answer, 0 or 1."""
    choices.to_pair(row, base=base)
    return paired(row, scoring=scoring)


def binary(row: Record, *, scoring: Scoring) -> Example:
    """From a prompt and an answer (or a conversation whose last turn is judged) and `label`, a bool, 0 / 1, -1 / 1, or "yes" / "no"."""
    prompt, response = _prompt_and_completion(row)
    return Example(prompt, (response,), (float(label_of(row.get(row.first(LABELS) or LABELS[0]))),), False)


def scored(row: Record, *, scoring: Scoring) -> Example:
    """From a prompt and an answer with `score`, or answers with `scores`, read as `scores.Scoring` specifies."""
    prompt, responses = _several(row)
    return Example(prompt, responses, scoring.rewards(row, count=len(responses), sides=False), False)


def ranked(row: Record, *, scoring: Scoring) -> Example:
    """From a prompt and several answers, best first or with `ranks` (the lowest is the best); the rewards fall evenly from 1 to 0."""
    prompt, responses = _several(row)
    if len(responses) < 2:
        raise RowError("too_few", f"a ranking of {len(responses)} response; it needs at least 2.")
    if row.first(("ranks", "rank")) is None:
        verdicts.refuse_other_judges(row)
        row.derive("ranks", list(range(1, len(responses) + 1)), origin=scores.ORDER)
    ranks = scores.numbers(row, row.first(("ranks", "rank")), count=len(responses), sides=False)
    places = sorted(set(ranks))
    rewards = [1 - places.index(rank) / max(len(places) - 1, 1) for rank in ranks]
    order = sorted(range(len(ranks)), key=lambda k: ranks[k])
    return Example(prompt, responses, tuple(rewards), True).only(order, paired=True)


def messages(row: Record, *, scoring: Scoring) -> Example:
    """A conversation `messages` or `conversations` for supervised fine-tuning: the response begins at its first assistant turn."""
    name = row.first(CONVERSATIONS) or CONVERSATIONS[0]
    turns = side(row.get(name), name, row)
    if isinstance(turns, str):
        raise RowError("wrong_type", f"{name} is {turns[:40]!r}; it must be a list of messages.")
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    end = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1) + 1
    if first == 0:
        raise RowError("roles", f"{name} begins with an assistant turn, so there is no user turn followed by it; put its question first.")
    if not end:
        raise RowError("roles", "the conversation has no user turn followed by an assistant turn.")
    if end < len(turns):
        row.changed["last_turn_unanswered"] = f"{len(turns) - end} turn(s) after the last answer train nothing and were left out"
    return Example(turns[:first], (turns[first:end],), (1.0,), False)


def completion(row: Record, *, scoring: Scoring) -> Example:
    """A prompt and an answer for supervised fine-tuning, as `prompt` and `completion` or Alpaca's `instruction`, `input` and `output`."""
    prompt, response = _prompt_and_completion(row)
    return Example(prompt, (response,), (1.0,), False)


def text(row: Record, *, scoring: Scoring) -> Example:
    """`text` for plain language modelling: every token is trained."""
    return Example(None, (text_of(row, "text"),), (1.0,), False)


FORMATS: dict[str, Callable[..., Example]] = {
    function.__name__: function for function in (paired, hh, choice, binary, scored, ranked, messages, completion, text)
}


def to_example(
    row: Mapping,
    *,
    name: str,
    scoring: Scoring | None = None,
    responses: str = "all",
    feedback: str | None = None,
    keep_columns: Mapping[str, str] | None = None,
    base: int | None = None,
    chat: bool = True,
) -> Example:
    """The example of a raw row, checked. What of a `Record` was not read or not taken as it stands is noted in it.

    Args:
      scoring: how scores become rewards; None: they lie in [0, 1] already, and pairs do without.
      responses: "chosen" keeps only the best one, to fine-tune on.
      feedback: "pair": of scored or ranked responses the best and the worst; equal scores break the rule "tie", and the order of the list
        does not matter. "label": the two of a pair judged one by one, 1 and 0. "score": likewise, by their scores. None: as the format is.
      keep_columns: our name -> column of the row (of a pair, COLUMN_chosen and COLUMN_rejected): numbers kept in `columns`.
      base: of format "choice": the number of the first answer, 0 or 1; None: as in their names, else 0.
      chat: a template writes the turns, so text that holds turns already is read as turns, or refused.

    Raises:
      RowError: the row breaks a rule of its format.
    """
    scoring = scoring or Scoring()
    row = row if isinstance(row, Record) else Record(row)
    refuse_media(row)
    example = FORMATS[name](row, scoring=scoring, **({"base": base} if name == "choice" else {}))
    example = _in_context(_in_turns(example, row) if chat else example, row, chat=chat)
    example = _with_numbers(example, row, name, scoring, feedback, keep_columns or {})
    examples.check(example)
    examples.note_odd(example, row)
    if chat:
        examples.refuse_rendered_text(example)
    return _as_feedback(example, name, feedback, responses)


def _with_numbers(example, row, name, scoring, feedback, keep_columns):
    pair, count = name in PAIRS, len(example.responses)
    judge = row.first({"scored": ("scores", "score"), "ranked": ("ranks", "rank")}.get(name, ()))
    if judge is not None and count > 1 and not scoring.weights:
        scores.lists_against_order(row, scoring, by=judge, count=count, leave=keep_columns.values())
    if pair and feedback != "score":
        scores.against_order(row, scoring, leave=keep_columns.values())
        verdicts.refuse_tie(row)
        if name != "choice":
            verdicts.against_pair(row, scoring, leave=keep_columns.values())
    if name in TARGETS:
        verdicts.refuse_bad_answer(row)
    if pair and (scoring.declared or feedback == "score"):
        rewards = scoring.rewards(row, count=2, sides=True)
        if feedback != "score" and rewards[0] < rewards[1]:
            raise RowError("scores_against_order", f"the rewards of chosen and rejected are {rewards[0]:.3g} and {rewards[1]:.3g}.")
        example = dataclasses.replace(example, rewards=rewards)
    kept = {ours: scores.numbers(row, theirs, count=count, sides=pair, kept=True) for ours, theirs in keep_columns.items()}
    if example.places is not None:  # numbers stand in the row as its answers do
        kept = {ours: tuple(values[place] for place in example.places) for ours, values in kept.items()}
    return dataclasses.replace(example, columns=kept)


def _as_feedback(example, name, feedback, responses):
    if feedback == "pair" and name not in PAIRS:
        example = examples.best_and_worst(example)
        examples.check(example)
    elif feedback == "label" and name in PAIRS:
        example = dataclasses.replace(example, rewards=(1.0, 0.0), paired=False)
    elif feedback == "score":
        example = dataclasses.replace(example, paired=False)
    elif example.paired and name == "ranked" and responses == "all" and len(set(example.rewards)) < len(example.rewards):
        raise RowError("tie", "two answers have the same rank; leave the row out, or use feedback='pair' for the best and the worst.")
    if responses == "chosen":
        best = max(range(len(example.rewards)), key=lambda k: example.rewards[k])
        if name == "binary" and not example.rewards[best]:
            raise RowError("not_chosen", "the row's only response is labelled false, and responses='chosen'.")
        return example.only((best,), paired=False)
    return example


def _in_turns(example, row):
    # a prompt that is a dialogue "\n\nHuman: ...\n\nAssistant:" in writing
    turns = hh_prompt(example.prompt) if isinstance(example.prompt, str) else None
    if turns is None:
        return example
    row.changed["hh_prompt"] = f"the prompt is a dialogue written as text, {example.prompt[:30]!r}; it was read as turns"
    stripped = (hh_answer(answer) if isinstance(answer, str) else answer for answer in example.responses)
    return dataclasses.replace(
        example, prompt=messages_of(turns, "prompt", row), responses=tuple(conversation(answer) for answer in stripped)
    )


def _in_context(example, row, *, chat):
    system, tools = system_of(row), tools_of(row)
    if not chat and (system is not None or tools):
        what = "tools" if tools else "a system text"
        raise RowError("system" if not tools else "tools", f"the row has {what}, which template 'plain' cannot write; use a chat template.")
    if system is None or example.prompt is None:
        return dataclasses.replace(example, tools=tools)
    responses = tuple(conversation(response) for response in example.responses)
    return dataclasses.replace(example, prompt=with_system(example.prompt, system), responses=responses, tools=tools)


def _check_within(prompt, shared, row):
    # a prompt beside whole conversations must be what they share: it is not read otherwise
    texts = [turn["content"].strip() for turn in shared]
    if prompt is None or prompt.strip() in texts:
        return
    if not any(prompt.strip() in text or text in prompt for text in texts):
        raise RowError("prompt_differs", f"the prompt {prompt[:40]!r} does not stand in chosen and rejected; leave one of them out.")
    asked_instead = f"chosen and rejected ask {texts[-1][:40]!r}, which is trained; the prompt {prompt[:40]!r} is like a part of that"
    row.changed["prompt_beside_conversation"] = f"{asked_instead}, and is not read"


def _prompt_and_completion(row):
    name = row.first(CONVERSATIONS)
    if name is not None and row.first(ANSWERS) is None:
        turns = side_of(row, name)
        if isinstance(turns, str):
            raise RowError("wrong_type", f"{name} is {turns[:40]!r}; it must be a list of messages.")
        return turns[:-1], turns[-1:]
    prompt, responses = _several(row)
    if len(responses) != 1:
        raise RowError("wrong_type", f"the row has {len(responses)} completions; this format takes one.")
    return prompt, responses[0]


def _several(row):
    answers = answers_of(row)
    prompt = asked.prompt_of(row, asked.BESIDE_ANSWERS)
    if prompt is None:
        asked.refuse_empty(row, asked.BESIDE_ANSWERS)
        raise RowError("missing_column", "the row has no prompt; set rename={'prompt': ...} to the column that holds it.")
    return of_one_kind(prompt, answers.sides)
