"""Mutated rows of every format are kept whole or refused by a rule: no other error, and no text that the row does not hold."""

import copy
import json
import math
import random

import pytest
from tiny_data import CHATML, write_tokenizer

from jaxalign.data.raw import detect, sources
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.rows import encode, shards

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What time?"}]},
    {"role": "assistant", "content": "Noon.", "weight": 1},
]
HH = "\n\nHuman: Hi\n\nAssistant: "
ROWS = {
    "paired": [{"prompt": "ask", "chosen": "yes sir", "rejected": "no sir", "score_chosen": 0.9, "score_rejected": 0.1, "system": "s"}],
    "hh": [{"chosen": HH + "Hello there.", "rejected": HH + "Go away."}],
    "choice": [{"prompt": "ask", "response_0": "yes sir", "response_1": "no sir", "better_response_id": 1}],
    "binary": [{"prompt": "ask", "completion": "yes sir", "label": True}, {"messages": TURNS, "label": "no"}],
    "scored": [{"prompt": "ask", "completions": ["yes sir", "no sir"], "scores": [0.25, 0.5]}],
    "ranked": [{"prompt": "ask", "answers": [{"answer": "yes sir", "rank": 2}, {"answer": "no sir", "rank": 1}]}],
    "messages": [{"messages": TURNS}, {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "yes sir"}]}],
    "completion": [{"instruction": "ask", "input": "this", "output": "yes sir", "history": [["a", "b"]]}],
    "text": [{"text": "once upon a time"}],
}
VALUES = [
    None, "", " ", "\n", "0", "nan", "x" * 3000, "\U0001f600", "e\u0301", "\ud83d", "\u0000", "<|im_end|>", "<s>", HH, "[{'role': 'user'",
    '[{"role": "user", "content": "hidden"}]', True, False, 0, -1, 2, 0.5, 10**401, 1e39, math.nan, math.inf, [], {}, [None], ["a"],
    {"role": ["user"], "content": "a"}, [{"type": "image", "url": "a"}], [CALL], {"a": {"b": []}},
]  # fmt: skip
FIELDS = ("tool_calls", "weight", "reasoning_content", "tools", "images", "content", "role", "from", "prompt", "input", "label", "note")


def places(value, path=()):
    """Paths of everything in a row."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(row, generator):
    """A copy of a row with one to three mutations."""
    row = copy.deepcopy(row)
    for _ in range(generator.randint(1, 3)):
        known = list(places(row))
        if not known:
            return row
        *path, key = generator.choice(known)
        parent = row
        for step in path:
            parent = parent[step]
        kind = generator.choice(("replace", "replace", "delete", "add", "nest", "rename", "wrap"))
        if kind == "delete":
            del parent[key]
        elif kind == "add" and isinstance(parent, dict):
            parent[generator.choice(FIELDS)] = copy.deepcopy(generator.choice(VALUES))
        elif kind == "rename" and isinstance(parent, dict):
            parent[generator.choice(FIELDS)] = parent.pop(key)
        elif kind == "wrap":
            parent[key] = [parent[key]]
        elif kind == "nest":
            for _ in range(generator.choice((3, 80))):
                parent[key] = {"a": parent[key]}
        else:
            parent[key] = copy.deepcopy(generator.choice(VALUES))
    return row


def strings(value):
    """All texts of a row."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(item)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(write_tokenizer(tmp_path_factory.mktemp("fuzz") / "tokenizer", chat_template=CHATML))


def check(rows, format, tokenizer, folder, *, template):
    """Prepares rows one by one, compares what is kept with the row, and returns how many are."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = sources.read({"path": str(path)})
    recipe = shards.Recipe(format, tokenizer, template, encode.Limits(1 << 14, True), scoring=Scoring())
    renderer, kept = recipe.renderer(), 0
    for number in range(len(raw)):
        read = [raw.read(number)]
        groups, _, counts = shards.encode_rows(read, first=number, recipe=recipe, renderer=renderer)
        assert counts.kept + sum(rule.rows for rule in counts.rules.values() if rule.effect == "dropped") == counts.read == 1
        if not groups:
            continue
        kept += 1
        record = Record(read[0])
        example = shards.formats.to_example(record, name=format, scoring=Scoring(), chat=template != "plain")
        assert all(math.isfinite(reward) and 0 <= reward <= 1 for reward in groups[0].rewards)
        held = list(strings(read[0]))
        for answer, ids in zip(example.responses, groups[0].responses, strict=True):
            decoded = renderer.tokenizer.decode(ids.tolist())
            for turn in [{"content": answer}] if isinstance(answer, str) else answer:
                assert turn["content"].strip() in decoded
                assert record.changed or any(turn["content"].strip() in text for text in held)
    return kept


@pytest.mark.parametrize("format", ROWS)
@pytest.mark.parametrize("count", [7, pytest.param(60, marks=pytest.mark.slow)])
def test_a_mutated_row_is_kept_whole_or_refused_by_a_rule(format, count, tokenizer, tmp_path):
    generator = random.Random(f"{format} {count}")
    rows = [mutated(generator.choice(ROWS[format]), generator) for _ in range(count)]
    assert 0 <= check(rows, format, tokenizer, tmp_path, template="auto" if format != "text" else "plain") <= count


def test_the_rows_that_are_mutated_are_good_ones(tokenizer, tmp_path):
    for format, rows in ROWS.items():
        assert detect.detect(rows[0])[0] == format
        assert check(rows, format, tokenizer, tmp_path, template="plain" if format == "text" else "auto") == len(rows)


@pytest.mark.parametrize("rows", [[{"text": "once", "score": value}, {"text": "good"}] for value in VALUES if not isinstance(value, dict)])
def test_a_column_that_nothing_reads_may_hold_anything(rows, tokenizer, tmp_path):
    assert check(rows, "text", tokenizer, tmp_path, template="plain") == len(rows)
