"""Samples of a model for many prompts: prompts are prefilled in packed rows, and wait for a free place in the compiled loop.

Every distinct prompt is computed once, however many samples it has and however often it stands in the list. What a sample says depends on
the seed, its prompt and its number alone, not on the other prompts, their order, the number of lanes or the mesh; a prompt that stands in
the list twice gets the same samples twice.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import sharding
from jaxalign.models import model as models
from jaxalign.sampling import loop
from jaxalign.sampling.batches import Ids
from jaxalign.sampling.drawing import Drawing
from jaxalign.sampling.law import Law
from jaxalign.sampling.stopping import Stopping, Why

TextOf = Callable[[Ids, Sequence[int]], str]  # (ids of the prompt, ids of the sample) -> text of the sample


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a model said to a prompt."""

    prompt: int  # its place in the list
    number: int  # of the samples of this prompt
    token_ids: np.ndarray  # int32[L]; the stop token included
    logps: np.ndarray  # float32[L]; log-prob of every token under the model
    sampled_logps: np.ndarray  # float32[L]; log-prob of every token under the law that it was drawn from
    stop: Why | None  # what ended it: "stop" a stop token, "string" a stop string, "length" max_new_tokens; None: it goes on


@dataclasses.dataclass
class Usage:
    """What sampling has cost so far."""

    tokens: int = 0  # of distinct samples
    lane_steps: int = 0  # steps times lanes

    @property
    def busy(self) -> float:
        """The share of lane-steps that drew a token of a sample."""
        return self.tokens / max(1, self.lane_steps)


class Sampler:
    """Draws samples from one model; what it compiles serves all calls with prompts of like lengths."""

    def __init__(
        self,
        model: models.Model,
        *,
        law: Law,
        stopping: Stopping,
        seed: int,
        places: int,
        lanes: int,
        dtype: jnp.dtype,
        attention: str,
        text_of: TextOf | None = None,
    ):
        """Compiles nothing yet.

        Args:
          model: the decoder; its params come with each call.
          law: how a token is drawn.
          stopping: when a sample ends.
          seed: of the random keys.
          places: prompts that are in the loop at a time; rounded up to what the mesh in scope divides.
          lanes: samples of each of these prompts that are drawn side by side; they share the prompt's keys.
          dtype: of the matmuls and of the cache.
          attention: the implementation for the prefill.
          text_of: gives the text in which stop strings are looked for.

        Raises:
          ValueError: stop strings without text_of, a size below 1, or a mesh that splits the tokens of a row.
        """
        if stopping.strings and text_of is None:
            raise ValueError("stop strings are found in text, so they need text_of; use stop ids, or give the tokenizer's decoding.")
        if (context := sharding.mesh_shape()["context"]) > 1:
            raise ValueError(f"answers are drawn token by token, which leaves nothing to split over mesh.context={context}; set it to 1.")
        if min(places, lanes) < 1:
            raise ValueError(f"places={places} and lanes={lanes} must be at least 1.")
        self.model, self.stopping, self.text_of, self.dtype, self.law, self.seed = model, stopping, text_of, dtype, law, seed
        self.shards = int(np.prod([sharding.mesh_shape()[axis] for axis in sharding.mesh_axes("rows")]))
        self.places, self.lanes, self.usage = -(-places // self.shards) * self.shards, lanes, Usage()
        options = {"law": law, "stop_ids": stopping.ids, "min_new_tokens": stopping.min_new_tokens, "dtype": dtype}
        self.weights = jax.jit(partial(loop.gathered, model, dtype=dtype))
        self.prefill = jax.jit(partial(models.prefill, model, dtype=dtype, attention=attention))
        self.enter = jax.jit(loop.enter, donate_argnums=0)
        self.share = jax.jit(loop.share, donate_argnums=0)
        self.run = jax.jit(partial(loop.run, model, **options), donate_argnums=1)
        self.begin = jax.jit(
            partial(loop.begin, model, dtype=dtype), static_argnames=("prompts", "lanes", "samples", "prompt_tokens", "tokens")
        )
        self.random_keys = jax.jit(_random_keys, static_argnames="samples")
        self.whole = jax.jit(lambda tree: jax.tree.map(lambda x: jax.reshard(x, sharding.spec(*(None,) * x.ndim)), tree))

    def draw(
        self,
        params,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int,
        done: Collection[tuple[int, int]] = (),
        seed: int | None = None,
        room: int = 0,
        most: int | None = None,
    ) -> Iterator[Sample]:
        """Yields the samples 0 to samples - 1 of every prompt as they end, but those in `done`, (prompt, number).

        Args:
          params: float32 parameters of the model.
          prompts: token ids, which the samples continue.
          samples: of every prompt.
          done: what an earlier call has drawn.
          seed: of the random keys; None: the sampler's own.
          room: calls with the same room compile alike where no prompt has more tokens, and their number is within the same power of two.
          most: a sample ends after so many tokens, where these are fewer than max_new_tokens; it compiles nothing anew.

        Raises:
          ValueError: as `check`.
        """
        most = self.stopping.max_new_tokens if most is None else min(most, self.stopping.max_new_tokens)
        self.check(prompts, new_tokens=most)
        owners: dict[Ids, list[int]] = {}
        for i, ids in enumerate(prompts):
            owners.setdefault(tuple(ids), []).append(i)
        if not owners:
            return
        options = {"seed": self.seed if seed is None else seed, "room": room, "most": most}
        for ids, number, fields in Drawing(self, params, owners, samples, done, **options).samples():
            for prompt in owners[ids]:
                if (prompt, number) not in done:
                    yield Sample(prompt, number, *fields)

    def stream(self, params, prompt: Sequence[int], *, seed: int, steps: int) -> Iterator[Sample]:
        """Yields the sample 0 of one prompt as it grows, whole every time: after so many tokens each, and when it has ended.

        The cache has room for a power of two of tokens, so that a conversation that grows compiles seldom.

        Raises:
          ValueError: as `check`.
        """
        self.check([prompt])
        room = 1 << (len(prompt) - 1).bit_length()
        drawing = Drawing(self, params, {tuple(prompt): [0]}, 1, (), seed=seed, room=room, look=steps)
        for _, number, fields in drawing.samples():
            yield Sample(0, number, *fields)

    def check(self, prompts: Sequence[Sequence[int]], *, new_tokens: int | None = None) -> None:
        """Raises ValueError where a prompt is empty, leaves no room for its samples, or has a token beyond the vocabulary.

        new_tokens are those of a sample at most; None: max_new_tokens.
        """
        config, new = self.model.config, self.stopping.max_new_tokens if new_tokens is None else new_tokens
        for name, ids in enumerate(prompts):
            if not len(ids):
                raise ValueError(f"prompt {name} is empty; begin it with at least one token, for example BOS.")
            if not 0 <= min(ids) <= max(ids) < config.vocab_size:
                raise ValueError(f"prompt {name} has a token outside of the model's vocabulary, 0 to {config.vocab_size - 1}.")
        long = [(name, len(ids)) for name, ids in enumerate(prompts) if len(ids) + new > config.max_positions]
        if long:
            longest, room = max(size for _, size in long), config.max_positions
            others = f"; {len(long) - 1} of the other {len(prompts) - 1} prompts are too long as well" if len(long) > 1 else ""
            fits = f" to at most {room - longest}" if longest < room else ""
            raise ValueError(
                f"prompt {long[0][0]} has {long[0][1]} tokens, and with max_new_tokens={new} that is more than the model's {room} "
                f"positions{others}; shorten the prompt or lower max_new_tokens{fits}."
            )


def _random_keys(seed: jax.Array, names: jax.Array, *, samples: int) -> jax.Array:
    """Key data of every sample of the prompts with these names: uint32[P, samples, 2]."""
    with_name = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed, impl="threefry2x32"), names)
    with_number = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(with_name, jnp.arange(samples))
    return jax.random.key_data(with_number)
