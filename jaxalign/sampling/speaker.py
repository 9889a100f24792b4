"""What stands around a model that speaks: prompts as token ids, the tokens at which it stops, and its tokens as text."""

import collections
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import sys

from jaxalign.data.raw import prompts, sources
from jaxalign.data.raw.counts import Counts
from jaxalign.data.raw.prompts import Asked
from jaxalign.data.text.renderer import Renderer
from jaxalign.data.text.tokenizer_files import locate
from jaxalign.hf import trained
from jaxalign.sampling.sampler import Sample
from jaxalign.sampling.stopping import Stopping
from jaxalign.training.sources import Source


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A tokenizer with its template, and the tokens after which its model stops."""

    renderer: Renderer
    stop_ids: tuple[int, ...]

    def ids(self, asked: Asked) -> tuple[int, ...]:
        """The token ids of a prompt, up to where the answer begins.

        Raises:
          ValueError: the template cannot write the prompt; the message names its row.
        """
        try:
            return tuple(self.renderer.prompt_ids(asked.prompt, asked.tools))
        except ValueError as error:
            raise ValueError(f"prompt {asked.id}: {error}") from error

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


def asked_file(path: Path, *, limit: int | None) -> list[Asked]:
    """The prompts of a file in order; rows without one, and an id that several have, are told on standard error.

    Raises:
      FileNotFoundError, ValueError: there is no such file, or no prompt in it.
    """
    counts = Counts()
    asked = list(prompts.read(sources.read({"path": str(path), **({} if limit is None else {"limit": limit})}), counts))
    lines = "\n".join(counts.lines())
    if not asked:
        raise ValueError(f"{path} has no prompt:\n{lines}")
    if counts.rules:
        print(lines, file=sys.stderr)
    shared, count = collections.Counter(one.id for one in asked).most_common(1)[0]
    if count > 1:
        print(f"{path}: {count:,} prompts have the id {shared!r}; their samples can be told apart by the prompt alone.", file=sys.stderr)
    return asked
