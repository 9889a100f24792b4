"""Raw rows to encoded groups, shard by shard, in worker processes; a run that was killed goes on with the missing shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import dataclasses
import gc
import hashlib
import multiprocessing
import os
from pathlib import Path

from jaxalign.data.raw import examples, formats
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.raw.sources import Rows
from jaxalign.data.raw.typed import HH_TURN
from jaxalign.data.rows import encode, store
from jaxalign.data.text import render, templates, tokenizer
from jaxalign.data.text.renderer import Renderer

SHARD_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that turns a raw row into tokens. Plain values only: it is sent to workers, and hashed."""

    format: str
    tokenizer: str  # folder, file or hub name
    template: str
    limits: encode.Limits
    add_tokens: tuple[str, ...] = ()  # special tokens that the tokenizer gains
    train_turns: str = "last"
    reasoning: str = "keep"  # see `data.text.thoughts`
    responses: str = "all"  # "chosen": keep the best response of a row only
    scoring: Scoring = Scoring()
    feedback: str | None = None  # what becomes of it, see `formats.to_example`
    keep_columns: tuple[tuple[str, str], ...] = ()  # (our name, the data set's) of numbers that are kept
    renamed: tuple[str, ...] = ()  # columns of the data set that the source gives other names, or leaves out
    base: int | None = None  # of format "choice", see `formats.to_example`
    on_bad_row: str = "drop"
    side: str = "all"  # "train" or "eval": one side of a split by prompt; see `is_held_out`
    eval_fraction: float = 0.0
    date: str = templates.DATE

    def __post_init__(self):
        takes = formats.FEEDBACK[self.feedback] if self.feedback else formats.FORMATS
        if self.format not in takes:
            what = f"feedback={self.feedback!r} takes format {', '.join(takes)}, not {self.format}"
            raise ValueError(f"{what}; leave it out to take the rows as they are.")
        if self.scoring.weights and self.format not in formats.FEEDBACK["score"]:
            raise ValueError(f"score_weights goes with format {', '.join(formats.FEEDBACK['score'])}, not with {self.format!r}.")

    def renderer(self) -> Renderer:
        """The renderer of the recipe's tokenizer and template."""
        loaded = tokenizer.load(self.tokenizer).with_added(self.add_tokens)
        return render.make(loaded, template=self.template, date=self.date, reasoning=self.reasoning)


def is_held_out(example: formats.Example, fraction: float) -> bool:
    """Whether an example is on the held-out side, by the hash of its first question: all rows of a conversation lie on one side.

    The first question is the first user turn, also of text whose turns begin with "Human:"; other text is one question as a whole.
    """
    digest = hashlib.sha256(_first_question(example).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _first_question(example):
    prompt = example.responses[0] if example.prompt is None else example.prompt
    if not isinstance(prompt, str):
        return next((turn["content"] for turn in prompt if turn["role"] == "user"), prompt[0]["content"])
    if not HH_TURN.match(prompt):
        return prompt
    roles, texts = (HH_TURN.split(prompt)[start::2] for start in (1, 2))
    return next((text.strip() for role, text in zip(roles, texts, strict=True) if role == "Human"), prompt)


def encode_rows(
    rows: Sequence[Mapping | RowError], *, first: int, recipe: Recipe, renderer: Renderer
) -> tuple[list[encode.Encoded], list[int], Counts]:
    """The groups of the raw rows that are kept, a number of the uncut prompt of each, and the counts of all rows.

    `first` is the number of the first row. A row that could not be read is the RowError that says why.

    Raises:
      ValueError: a bad row, where recipe.on_bad_row is "error"; the message has its number.
    """
    groups, prompts, counts = [], [], Counts()
    options = {key: getattr(recipe, key) for key in ("scoring", "responses", "feedback", "base")}
    options |= {"keep_columns": dict(recipe.keep_columns), "chat": renderer.template is not None}
    for number, raw in enumerate(rows, first):
        counts.read += 1
        try:
            if isinstance(raw, RowError):
                raise raw
            record = Record(raw, recipe.renamed)
            example = formats.to_example(record, name=recipe.format, **options)
            if recipe.side != "all" and is_held_out(example, recipe.eval_fraction) != (recipe.side == "eval"):
                counts.add("held_out", "dropped", number, f"it belongs to the other side (eval_fraction={recipe.eval_fraction})")
                continue
            groups.append(
                encode.encode(
                    example,
                    row=number,
                    renderer=renderer,
                    limits=recipe.limits,
                    train_turns=recipe.train_turns,
                    changed=lambda rule, message, number=number: counts.add(rule, "changed", number, message),
                )
            )
            prompts.append(prompt_number(example))
            counts.kept += 1
            counts.unread.update(record.unread())
            for rule, message in record.changed.items():
                counts.add(rule, "changed", number, message)
        except RowError as error:
            if recipe.on_bad_row == "error":
                raise ValueError(f"row {number}: {error} (rule {error.rule}; on_bad_row='drop' leaves such rows out)") from error
            counts.add(error.rule, "dropped", number, str(error))
    return groups, prompts, counts


def prompt_number(example: formats.Example) -> int:
    """A number of 64 bits that examples share only if they ask the same: prompt and tools are equal, cut or not."""
    asked = dataclasses.replace(example, responses=(), rewards=())
    return int.from_bytes(hashlib.sha256(examples.written(asked)).digest()[:8], "little")


def write_all(rows: Rows, folder: Path, *, recipe: Recipe, renderer: Renderer, processes: int, progress: Callable[[int], None]) -> int:
    """Writes the shards that are not in `folder` yet; returns the number of all shards. `progress` gets rows done.

    The rows are read here and encoded in `processes` processes, started fresh ("spawn") so that no thread or device state of the
    caller is copied; one process means this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-len(rows) // SHARD_ROWS)
    missing = [number for number in range(shards) if not store.shard_path(folder, number).is_file()]
    progress(sum(len(_span(rows, number)) for number in range(shards) if number not in set(missing)))
    work = ((number, _span(rows, number).start, [rows.read(i) for i in _span(rows, number)]) for number in missing)
    processes = min(processes, len(missing))
    if processes <= 1:
        for number, first, raw in work:
            _write(folder, number, first, raw, recipe, renderer)
            progress(len(raw))
        return shards
    for done in _in_processes(work, folder, (recipe, renderer), processes):
        progress(len(_span(rows, done)))
    return shards


def _span(rows, number):
    return range(number * SHARD_ROWS, min(len(rows), (number + 1) * SHARD_ROWS))


def _write(folder, number, first, raw, recipe, renderer):
    collects = gc.isenabled()
    gc.disable()  # rows make no cycles, and each collection would walk all groups of the shard: an eighth of the time
    try:
        groups, prompts, counts = encode_rows(raw, first=first, recipe=recipe, renderer=renderer)
    finally:
        if collects:
            gc.enable()
    store.write_shard(folder, number, groups, prompts, counts, [name for name, _ in recipe.keep_columns])


def _start(recipe, renderer):
    # Runs once in a worker, which gets the renderer as it is: it need not import transformers for formats that only that reads.
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = (recipe, renderer)


def _work(folder, number, first, raw):
    _write(folder, number, first, raw, *_worker)
    return number


def _in_processes(work: Iterator, folder: Path, how: tuple[Recipe, Renderer], processes: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    start = {"initializer": _start, "initargs": how}
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context, **start) as pool:
        running = set()
        try:
            for item in work:
                running.add(pool.submit(_work, folder, *item))
                if len(running) >= 2 * processes:  # keeps the workers busy and the raw rows out of memory
                    done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            for future in concurrent.futures.as_completed(running):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
