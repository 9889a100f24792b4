"""What stands around a model that speaks: prompts as token ids, the tokens at which it stops, and its tokens as text."""

import collections
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
from pathlib import Path

from jaxalign.data.raw import prompts, sources
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.prompts import Asked
from jaxalign.data.text.renderer import Renderer
from jaxalign.data.text.tokenizer_files import locate
from jaxalign.hf import trained
from jaxalign.sampling.batches import Ids
from jaxalign.sampling.sampler import Sample
from jaxalign.sampling.stopping import Stopping
from jaxalign.training.sources import Source


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A tokenizer with its template, and the tokens after which its model stops."""

    renderer: Renderer
    stop_ids: tuple[int, ...]

    def ids(self, asked: Asked) -> Ids:
        """The token ids of a prompt that the template can write, up to where the answer begins."""
        return tuple(self.renderer.prompt_ids(asked.prompt, asked.tools))

    def text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text of ids that follow a prompt, special tokens included."""
        return self.renderer.tokenizer.decode_after(prompt, ids)

    def shown(self, prompt: Sequence[int]) -> str:
        """The text of a prompt as the model sees it, special tokens included."""
        return self.renderer.tokenizer.decode(prompt)

    def spoken(self, prompt: Sequence[int], sample: Sample, stopping: Stopping) -> str:
        """The text of a sample without what ended it."""
        ids = sample.token_ids.tolist()
        text = self.text(prompt, ids[:-1] if sample.stop == "stop" else ids)
        return text[: stopping.first_string(text)] if sample.stop == "string" else text


def of_source(source: Source, *, template: str | None) -> Speaker:
    """The speaker of a named model; template as in `Source.renderer`.

    Raises:
      FileNotFoundError, ValueError: it has no tokenizer, or the template does not fit it.
    """
    renderer = source.renderer(template)
    return Speaker(renderer, trained.stop_ids(renderer, locate(source.tokenizer())))


def asked_text(text: str) -> list[Asked]:
    """One prompt from the command line."""
    return [prompts.of_row({"prompt": text}, 0)]


def asked_file(path: Path, counts: Counts, *, limit: int | None) -> Iterable[Asked]:
    """The prompts of a file in order; a row without one is counted as dropped.

    Raises:
      FileNotFoundError, ValueError: there is no such file, or it cannot be read.
    """
    return prompts.read(sources.read({"path": str(path), **({} if limit is None else {"limit": limit})}), counts)


def prompt_ids(renderer: Renderer, asked: Asked, *, most_tokens: int, vocab_size: int | None = None) -> Ids:
    """The token ids of a prompt, up to where the answer begins.

    Args:
      most_tokens: that leave room for an answer.
      vocab_size: of the model; None: it has all tokens of the tokenizer.

    Raises:
      RowError: the template cannot write the prompt, or the model cannot answer it.
    """
    ids = tuple(renderer.prompt_ids(asked.prompt, asked.tools))
    if len(ids) > most_tokens:
        room = f"there is room for {most_tokens:,} beside max_new_tokens; shorten the prompt or lower max_new_tokens"
        raise RowError("prompt_too_long", f"the prompt has {len(ids):,} tokens, and {room}.")
    if not ids:
        raise RowError("empty_prompt", "the prompt has no token; begin it with at least one.")
    if vocab_size is not None and max(ids) >= vocab_size:
        raise RowError("unknown_token", f"the prompt has token {max(ids):,}, and the model's tokens are 0 to {vocab_size - 1:,}.")
    return ids


def askable(
    asked: Iterable[Asked], renderer: Renderer, counts: Counts, *, most_tokens: int, vocab_size: int | None = None
) -> Iterator[tuple[Asked, Ids]]:
    """Yields the prompts that a model can answer, in order, with their token ids; the others are counted as dropped, see `prompt_ids`."""
    for one in asked:
        try:
            ids = prompt_ids(renderer, one, most_tokens=most_tokens, vocab_size=vocab_size)
        except RowError as error:
            name = "" if one.id == one.number else f"{one.id}: "
            counts.kept -= 1
            counts.add(error.rule, "dropped", one.number, f"{name}{error}")
        else:
            yield one, ids


def shared_id(asked: Sequence[Asked]) -> list[str]:
    """A line that names the id that most prompts share; none where each has its own."""
    shared, count = collections.Counter(one.id for one in asked).most_common(1)[0]
    told = f"{count:,} prompts have the id {shared!r}; their samples can be told apart by the prompt alone"
    return [f"{told}, and annotate --prompts leaves them out."] if count > 1 else []
