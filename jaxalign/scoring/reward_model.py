"""A reward model as a function of text: renders prompt and completion with its own tokenizer and template, packs them, scores in batches.

A run of ours is read where it was trained: at the token that ends the answer. A folder of a sequence classifier is read as transformers
reads it, at the last token of the whole conversation as its chat template renders it, or at EOS after plain text.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxalign import sharding
from jaxalign.data.raw.counts import RowError
from jaxalign.data.rows import loader, pack
from jaxalign.data.text.renderer import Renderer, messages_from
from jaxalign.models import model as models
from jaxalign.scoring import scorer
from jaxalign.scoring.faults import Fault
from jaxalign.training.sources import Source

LEAST_TOKENS = 256  # of a row, whose length is this times a power of two, so that few programs are compiled
TOKENS_PER_GROUP = 16  # places for as many texts as that, so that the arrays of a batch have one shape


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A named reward model. Its weights are read when it first scores; that needs a mesh in scope."""

    name: str
    source: Source
    renderer: Renderer
    rows: int  # of a batch
    dtype: str  # of the matmuls, see `models.dtype_of`
    attention: str

    @functools.cached_property
    def scorer(self) -> scorer.Scorer:
        """The model with its weights."""
        return scorer.of_reward_model(self.name, dtype=models.dtype_of(self.dtype), attention=self.attention)

    def __call__(self, prompts: Sequence, completions: Sequence[str], metadata: Sequence[Mapping]) -> list[float | Fault]:
        """The reward of every completion; a `Fault` where it cannot be rendered or is longer than the model. The metadata is not read.

        With several processes all score the same texts together, and each gets all rewards.
        """
        texts = [self._fault_or_ids(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        good = [number for number, ids in enumerate(texts) if not isinstance(ids, Fault)]
        scores = self.score_ids([texts[number] for number in good])
        found = dict(zip(good, scores.tolist(), strict=True))
        return [found.get(number, text) for number, text in enumerate(texts)]

    def ids(self, prompt: str | Sequence[Mapping], completion: str) -> list[int]:
        """The token ids whose last one is scored.

        Raises:
          RowError: the template refuses the text, or the text holds a special token that the template writes.
        """
        renderer = self.renderer
        if self.source.is_run or renderer.template is None:
            asked = renderer.prompt(prompt)
            return [*asked.ids, *renderer.response(asked, completion, train_turns="last").ids]
        messages = [*messages_from(prompt, "user"), {"role": "assistant", "content": completion}]
        return renderer.tokenizer.encode(renderer.template.render(messages, add_generation_prompt=False))

    def score_ids(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """The reward at the last token of every text, float32[n]; a text has at least two tokens.

        Raises:
          ValueError: a token id that the model has not.
        """
        out = np.zeros(len(texts), np.float32)
        if not len(texts):
            return out
        largest, known = max(map(max, texts)), self.source.decoder().vocab_size
        if largest >= known:
            raise ValueError(
                f"reward model {self.name} has {known:,} tokens and its tokenizer writes token id {largest}; they are not of one model: "
                "bring the tokenizer that it was trained with."
            )
        groups = _groups(texts)
        row_tokens = LEAST_TOKENS
        while row_tokens < max(map(len, texts)):
            row_tokens *= 2
        sizes = pack.group_tokens(groups, share_prompt=False)
        plan = pack.plan_rows(sizes, row_tokens=row_tokens, pack=True, max_groups=row_tokens // TOKENS_PER_GROUP)
        rows = self._rows()
        for start in range(0, len(plan), rows):
            members = np.full((rows, plan.shape[1]), -1, np.int32)
            members[: len(plan) - start] = plan[start : start + rows]
            values, placed = self._look(groups, members, row_tokens), members.reshape(-1)
            out[placed[placed >= 0]] = values.reshape(-1)[placed >= 0]
        return out

    def _rows(self) -> int:
        unit = jax.process_count() * int(np.prod([sharding.mesh_shape().get(axis, 1) for axis in ("data", "fsdp")]))
        return -(-self.rows // unit) * unit

    def _look(self, groups, members, row_tokens):
        here = len(members) // jax.process_count()
        own = members[jax.process_index() * here :][:here]
        batch = loader.to_device(pack.assemble(groups, own, row_tokens=row_tokens, share_prompt=False))
        values = self.scorer.look(self.scorer.params, batch)
        return np.asarray(values if jax.process_count() == 1 else multihost_utils.process_allgather(values, tiled=True))

    def _fault_or_ids(self, prompt, completion) -> list[int] | Fault:
        try:
            ids = self.ids(prompt, completion)
        except RowError as error:
            return Fault(error.rule, str(error))
        config = self.source.decoder()
        if len(ids) > config.max_positions:
            return Fault("too_long", f"it has {len(ids):,} tokens, and {self.name} reads {config.max_positions:,}; use shorter texts.")
        if len(ids) < 2:
            return Fault("empty", f"prompt and completion have {len(ids)} tokens; a score needs a text.")
        return ids


def load_model(
    name: str, *, template: str | None = None, rows: int = 8, dtype: str = "auto", attention: str = "xla"
) -> RewardModel:
    """The reward model of a run with a reward head, or of the folder or hub name of a sequence classifier with one label.

    Args:
      template: as in `Source.renderer`.
      rows: packed rows of a batch.

    Raises:
      FileNotFoundError, ValueError: as `scorer.reward_source`, or there is no such template.
    """
    source = scorer.reward_source(name)
    return RewardModel(name, source, source.renderer(template), rows, dtype, attention)


def _groups(texts: Sequence[Sequence[int]]) -> pack.Groups:
    """Texts as groups of one response, of which the last token is scored: the first token counts as the prompt."""
    lengths = np.array([[1, len(text) - 1] for text in texts])
    offsets = np.concatenate([[0], lengths.reshape(-1).cumsum()])
    scored = np.zeros(offsets[-1], np.uint8)
    scored[offsets[2::2] - 1] = 1
    ones = np.ones((len(texts), 1))
    return pack.Groups(
        np.concatenate([np.asarray(text, np.int32) for text in texts]),
        scored,
        offsets,
        ones.astype(np.float32),
        np.zeros(len(texts), bool),
        ones.astype(bool),
    )
