"""The pairs of a comparison: the same token ids in the same order for both sides, made from a seed or read from a file."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from tests.benchmarks.compare.cases import EOS, FIRST, LENGTHS, Case

CHECKED = 3  # steps whose losses are compared before anything is timed; nothing of the first ones is a time


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt with its answers, the preferred one first: token ids, without padding; an answer ends with the end-of-text token."""

    prompt: list[int]
    answers: list[list[int]]

    @property
    def useful(self) -> int:
        """Tokens of all sequences, the prompt once for each answer: what is counted for both sides, however they compute it."""
        return len(self.prompt) * len(self.answers) + self.scored

    @property
    def scored(self) -> int:
        """Tokens of the answers."""
        return sum(map(len, self.answers))


def generated(case: Case, *, steps: int, seed: int = 0) -> list[list[Pair]]:
    """Pairs of every step, drawn by the case's lengths."""
    random, lengths, vocabulary = np.random.default_rng(seed), LENGTHS[case.lengths], case.config["vocab_size"]

    def text(count):
        return random.integers(FIRST, vocabulary, count).tolist()

    def pair():
        prompt, *answers = lengths.draw(random)
        return Pair(text(prompt), [[*text(count - 1), EOS] for count in answers[: case.answers]])

    return _in_steps([pair() for _ in range(steps * case.pairs)], case, steps)


def from_file(path: str, case: Case, *, steps: int, tokenizer: str | None, most: int) -> list[list[Pair]]:
    """Pairs of every step from a JSONL file of {"prompt", "chosen", "rejected"}: texts, or lists of ids.

    Args:
      tokenizer: folder of the tokenizer of texts; the prompt becomes the first turn of a chat where it has a template.
      most: pairs with a sequence of more tokens are left out, and counted.

    Raises:
      ValueError: the file has too few pairs.
    """
    rows = [json.loads(line) for line in open(path, encoding="utf-8")]
    encode = _encoder(tokenizer) if isinstance(rows[0]["prompt"], str) else lambda row: (row["prompt"], [row["chosen"], row["rejected"]])
    pairs, long = [], 0
    for row in rows:
        prompt, answers = encode(row)
        answers = answers[: case.answers]
        if not prompt or not all(answers) or len(prompt) + max(map(len, answers)) > most:
            long += 1
            continue
        pairs.append(Pair(prompt, answers))
        if len(pairs) == steps * case.pairs:
            break
    else:
        raise ValueError(f"{path} has {len(pairs)} pairs of at most {most} tokens, and {steps} steps of {case.pairs} are asked for.")
    print(f"{path}: {len(pairs)} pairs, {long} were empty or longer than {most} tokens and are left out")
    return _in_steps(pairs, case, steps)


def _encoder(folder):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def encode(row):
        prompt = row["prompt"]
        if tokenizer.chat_template:
            turn = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        ends = [tokenizer.eos_token_id]
        answers = [tokenizer(row[side], add_special_tokens=False)["input_ids"] + ends for side in ("chosen", "rejected")]
        return tokenizer(prompt, add_special_tokens=False)["input_ids"], answers

    return encode


def _in_steps(pairs, case, steps):
    # the lightest steps come first: those are compared one by one, and must fit the rows into which whole blocks are packed later
    cut = [pairs[i * case.pairs : (i + 1) * case.pairs] for i in range(steps)]
    if case.peer_parts > 1:  # the other side's parts pad least where they hold sequences of like lengths
        cut = [sorted(one, key=lambda pair: len(pair.prompt) + max(map(len, pair.answers))) for one in cut]
    light = sorted(range(steps), key=lambda i: sum(pair.useful for pair in cut[i]))[:CHECKED]
    return [cut[i] for i in light] + [one for i, one in enumerate(cut) if i not in light]


def write(path: Path, steps: list[list[Pair]]) -> None:
    """Writes the pairs of every step for the two sides."""
    path.write_text(json.dumps([[[pair.prompt, pair.answers] for pair in step] for step in steps]))


def read(path: str) -> list[list[Pair]]:
    """The pairs of every step."""
    return [[Pair(*pair) for pair in step] for step in json.loads(Path(path).read_text())]
