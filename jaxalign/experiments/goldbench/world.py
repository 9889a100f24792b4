"""The world of the gold bench: a policy that ends its texts, made of stories260K and its own stories, prompts, and samples to judge.

Nothing is read beside the package: stories260K writes stories, a section of a story is a sentence (the prompt) with the whole sentences
that follow it, and SFT on sections teaches the model to stop after them, which it does not do by itself.
"""

from collections.abc import Callable, Sequence
import dataclasses
from functools import partial
from pathlib import Path
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import objectives, sharding
from jaxalign.data.rows import loader, memory
from jaxalign.data.text.renderer import Renderer
from jaxalign.data.text.tokenizer import Tokenizer
from jaxalign.experiments.goldbench import golds
from jaxalign.manifest import content_hash, hash_of
from jaxalign.models import model as models
from jaxalign.sampling.law import Law
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.stopping import Stopping
from jaxalign.training import forward, optim, reference, step
from jaxalign.training.sources import Source

MODEL = "package:stories260k"
STORY_TOKENS = 256
LINE_BREAK = "<0x0A>"  # a token of the model
PROMPT_WORDS, RESPONSE_TOKENS = (6, 18), (12, 46)
MOST_PROMPT_TOKENS = 32
LONGEST = 48  # tokens of a response; with its end those of a section are one more than RESPONSE_TOKENS[1]
COUNTS = {"base": 900, "train": 500, "held_out": 520}  # stories
PROMPTS = {"train": 2000, "held_out": 1536}
PROMPTS_PER_STORY = {"train": 5, "held_out": 3}
SAMPLES = 4  # of a training prompt
SFT = {"rows": 16, "learning_rate": 2e-3, "row_tokens": 256, "epochs": 2}
PLACES, LANES = 64, 2  # prompts at a time, and samples of each

Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Answers:
    """Prompts with equally many responses each."""

    prompts: list[np.ndarray]  # int32[L]
    ids: list[list[np.ndarray]]  # [n][K]; int32[L], the end token included where a response ended
    logps: list[list[np.ndarray]]  # [n][K]; float32[L]; under the policy that drew them
    texts: list[list[str]]  # [n][K]; without the end
    ended: np.ndarray  # bool[n, K]


@dataclasses.dataclass(frozen=True)
class World:
    """A model, its tokenizer, the base policy, prompts of held-out stories, and samples of the base for prompts of other stories."""

    model: models.Model
    renderer: Renderer
    params: dict  # of the base policy
    held_out: list[np.ndarray]
    train: Answers
    prompt_texts: dict[str, list[str]]  # by "train" and "held_out"
    identity: str  # a hash of the file that keeps it

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return self.renderer.tokenizer

    def copied(self) -> dict:
        """A copy of the base's parameters, which a training run may consume."""
        return jax.tree.map(jnp.copy, self.params)


def look(model: models.Model, kind: Callable = forward.next_token) -> Callable:
    """A forward pass of the bench, (params, batch, step) -> Outputs; kind is one of `training.forward`."""
    return partial(kind, model, dtype=jnp.float32, remat="none", attention="xla")


def sampler(model: models.Model, tokenizer: Tokenizer, *, longest: int, places: int = PLACES, lanes: int = LANES) -> Sampler:
    """Draws from the whole distribution at temperature 1 until the end token, or BOS."""
    stopping = Stopping(max_new_tokens=longest, ids=(tokenizer.eos_id, tokenizer.bos_id))
    return Sampler(model, law=Law(), stopping=stopping, seed=0, places=places, lanes=lanes, dtype=jnp.float32, attention="xla")


def answers(draw: Sampler, tokenizer: Tokenizer, params: dict, prompts: Sequence[Ids], *, samples: int, seed: int) -> Answers:
    """The samples of a policy for each prompt."""
    table = [[None] * samples for _ in prompts]
    for sample in draw.draw(params, [list(map(int, prompt)) for prompt in prompts], samples=samples, seed=seed):
        table[sample.prompt][sample.number] = sample
    ids = [[sample.token_ids.astype(np.int32) for sample in own] for own in table]
    logps = [[sample.logps for sample in own] for own in table]
    ended = np.array([[sample.stop == "stop" for sample in own] for own in table])
    texts = [[tokenizer.decode_after(prompts[i], x[:-1] if ended[i, k] else x) for k, x in enumerate(own)] for i, own in enumerate(ids)]
    return Answers([np.asarray(prompt, np.int32) for prompt in prompts], ids, logps, texts, ended)


def make(folder: Path, *, say=print) -> World:
    """The world that a folder keeps; made there where it is missing, in about three CPU minutes.

    Raises:
      ValueError: the folder keeps a world of other settings.
    """
    source, file = Source(MODEL), Path(folder) / "world.npz"
    model, renderer = models.build(source.config()), source.renderer("plain")
    tokenizer = renderer.tokenizer
    if not file.exists():
        _write(file, model, tokenizer, source.load(model), say)
    with np.load(file) as stored:
        arrays = dict(stored)
    if str(arrays.get("settings")) != settings():
        raise ValueError(f"{file}: this base policy was made with other settings than today's; remove it, or name another folder.")
    leaves = iter(range(len(jax.tree.leaves(model.shapes))))
    placed = jax.tree.map(
        lambda _, place: jax.device_put(arrays[f"params_{next(leaves)}"], sharding.named(place)), model.shapes, models.shardings(model)
    )
    prompts = {name: _ragged(arrays, name) for name in PROMPTS}
    ids, logps = (np.array(_ragged(arrays, name), object).reshape(-1, SAMPLES) for name in ("ids", "logps"))
    ended = arrays["ended"]
    texts = [
        [tokenizer.decode_after(prompt, x[:-1] if ended[i, k] else x) for k, x in enumerate(ids[i])]
        for i, prompt in enumerate(prompts["train"])
    ]
    train = Answers(prompts["train"], ids.tolist(), logps.tolist(), texts, ended)
    shown = {name: [tokenizer.decode(prompt[1:]).strip() for prompt in own] for name, own in prompts.items()}
    return World(model, renderer, placed, prompts["held_out"], train, shown, hash_of([file]))


def settings() -> str:
    """A hash of what a world is made with."""
    sizes = {"story": STORY_TOKENS, "prompt": (PROMPT_WORDS, MOST_PROMPT_TOKENS), "response": (RESPONSE_TOKENS, LONGEST)}
    return content_hash({**sizes, "counts": (COUNTS, PROMPTS, PROMPTS_PER_STORY, SAMPLES), "sft": SFT, "model": MODEL})


def _write(file, model, tokenizer, params, say):
    say(f"gold: stories, {sum(COUNTS.values()):,}")
    telling = sampler(model, tokenizer, longest=STORY_TOKENS, places=4, lanes=64)
    told = {sample.number: sample.token_ids for sample in telling.draw(params, [[tokenizer.bos_id]], samples=sum(COUNTS.values()))}
    parts, start = {}, 0
    for name, count in COUNTS.items():
        parts[name] = [sections(told[i], tokenizer) for i in range(start, start + count)]
        start += count
    flat = [section for story in parts["base"] for section in story]
    known = {tuple(prompt) for prompt, _ in flat}
    say(f"gold: SFT on {len(flat):,} sections")
    base = _sft(model, params, flat)
    prompts = {name: _prompts(parts[name], name, known) for name in PROMPTS}
    say(f"gold: {SAMPLES} samples for each of {len(prompts['train']):,} prompts")
    train = answers(sampler(model, tokenizer, longest=LONGEST), tokenizer, base, prompts["train"], samples=SAMPLES, seed=1)
    arrays = {f"params_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(base))} | {
        "ended": train.ended,
        "settings": settings(),
    }
    lists = {**prompts, "ids": sum(train.ids, []), "logps": sum(train.logps, [])}
    for name, own in lists.items():
        arrays |= {name: np.concatenate(own), f"{name}_lengths": np.array([len(x) for x in own])}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_suffix(".partial.npz")
    np.savez(partial_file, **arrays)
    partial_file.rename(file)


def sections(ids: np.ndarray, tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """(prompt, response) token ids of every sentence of a story that is a prompt and has whole sentences of fitting length after it."""
    found, whole = [], _sentences(ids, tokenizer)
    for i, first in enumerate(whole[:-1]):
        count = len(golds.words(tokenizer.decode(first)))
        response: list[int] = []
        for sentence in whole[i + 1 :]:
            if len(response) + len(sentence) > RESPONSE_TOKENS[1]:
                break
            response += sentence
        fits = PROMPT_WORDS[0] <= count <= PROMPT_WORDS[1] and len(first) < MOST_PROMPT_TOKENS
        if fits and len(response) >= RESPONSE_TOKENS[0]:
            found.append(([tokenizer.bos_id, *first], [*response, tokenizer.eos_id]))
    return found


def _sentences(ids: np.ndarray, tokenizer: Tokenizer) -> list[list[int]]:
    """The whole sentences of a story as token ids, without line breaks; the last is left out where the story was cut within it."""
    ids = [int(i) for i in ids if i not in (tokenizer.bos_id, tokenizer.eos_id)]
    pieces = [tokenizer.model.id_to_token(i).replace("\u2581", " ") for i in ids]
    found, sentence = [], []
    for i, piece in enumerate(pieces):
        if piece == LINE_BREAK:
            continue
        sentence.append(ids[i])
        text = "".join(pieces[max(0, i - 3) : i + 1])
        after = "".join(pieces[i + 1 : i + 4])
        if re.search(r'[.!?]"?$', text) and re.match(rf' ["A-Z]|{LINE_BREAK}|$', after):
            found.append(sentence)
            sentence = []
    return found


def _prompts(stories, name, known):
    """Prompts that no earlier part has, some of every story."""
    found = []
    for story in stories:
        new = [tuple(prompt) for prompt, _ in story if tuple(prompt) not in known]
        for prompt in dict.fromkeys(new[:: max(1, len(new) // PROMPTS_PER_STORY[name])][: PROMPTS_PER_STORY[name]]):
            known.add(prompt)
            found.append(np.array(prompt, np.int32))
    return found[: PROMPTS[name]]


def _sft(model, params, groups):
    data = memory.prepared([(prompt, [ids]) for prompt, ids in groups], row_tokens=SFT["row_tokens"], max_groups=8, name="sections")
    data.meta["tokenizer"] = "gold"
    steps = loader.steps_per_epoch([data], rows=SFT["rows"]) * SFT["epochs"]
    shape = {"learning_rate": SFT["learning_rate"], "warmup_steps": steps // 10, "total_steps": steps, "min_lr_ratio": 0.0}
    schedule = optim.make_schedule("cosine", **shape)
    optimizer = optim.make_optimizer(optim.adamw, schedule, max_grad_norm=1.0, weight_decay=0.0, axes=model.axes)
    run = step.make_train_step(look(model), objectives.bind("sft"), reference.RULES["none"].bind(), optimizer, schedule)
    state = step.init_state(params, optimizer, rule=reference.RULES["none"], seed=0)
    for arrays in loader.iterate(loader.batches([data], rows=SFT["rows"], seed=0, steps=steps)):
        state, _ = run(state, loader.to_device(arrays))
    return state.trainable


def _ragged(arrays, name):
    return np.split(arrays[name], np.cumsum(arrays[f"{name}_lengths"])[:-1])
