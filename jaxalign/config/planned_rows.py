"""What the rows of a run are like, for a plan: from prepared rows, from a sample of the data, or assumed."""

import dataclasses
import math
from pathlib import Path
import tempfile
import textwrap

from ml_collections import ConfigDict
import numpy as np

from jaxalign.config import functions
from jaxalign.config.prepared import training_options, training_sources
from jaxalign.data.prepared import prepare
from jaxalign.data.raw import sources
from jaxalign.data.rows import loader, store

SAMPLE = 1000  # raw rows of each source
READ = 64  # rows of a prepared set that are looked at
FILL, SCORED, GROUP_TOKENS = 0.95, 0.5, 512  # assumed where no data is here: about those of UltraFeedback with packed rows


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of the training data, on average."""

    tokens: int  # T
    fill: float  # share of T that is no padding
    scored: float  # share of T that goes through the head
    seen: float  # tokens that a token attends to, where no window cuts it
    groups: float  # groups (examples) per row
    places: int  # groups that a batch has room for per row (G)
    responses: int  # K
    count: float | None  # rows of an epoch; None: not known
    origin: str  # where this is from, in words


def rows_of(cfg: ConfigDict) -> Rows:
    """The rows of a resolved configuration, whatever is here of its data. A data.row_tokens of None becomes a number."""
    try:
        return _of_data(cfg)
    except (ValueError, OSError, ImportError) as error:  # of data that is not here, or cannot be read without a network
        return assumed(cfg, str(error).splitlines()[0])


def total_steps(cfg: ConfigDict, rows: Rows) -> int | None:
    """Steps of the run; None where its length is in epochs or examples and the number of rows is not known."""
    train, per_step = cfg.train, cfg.batch.rows * rows.groups
    if train.get("total_steps") is not None:
        return int(train.total_steps)
    if train.get("total_examples") is not None:
        return math.ceil(train.total_examples / per_step)
    return None if rows.count is None else math.ceil(train.total_epochs * rows.count / cfg.batch.rows)


def _of_data(cfg):
    every = training_sources(cfg)
    if not every:
        raise ValueError("data.train is None: the policy writes the texts")
    options = training_options(cfg)
    sets, counts, sampled = [], [], False
    with tempfile.TemporaryDirectory() as temporary:
        for source in every:
            side = {"side": "train"} if cfg.data.eval_fraction else {}
            folder, scale = prepare(source, **options, **side, make=False), 1.0
            if folder is None:
                total = len(sources.read(sources.given(source)))
                limit = min(total, SAMPLE)
                sample = {**source, "limit": limit}
                folder = prepare(sample, **{**options, "out_root": Path(temporary), "quiet": True}, **side)
                scale, sampled = total / limit, sampled or limit < total
            prepared = store.read(folder, weight=source.get("weight", 1.0))
            sets.append(prepared)
            counts.append(len(prepared) * scale)
        some = np.random.default_rng(0).permutation(sum(map(len, sets)))[:READ]  # a dataset draws its rows in a random order anyway
        rows = min(READ, min(map(len, sets)), len(some))
        arrays = loader.batches(sets, rows=rows, seed=cfg.seed, steps=1)[0]
        groups = loader.groups_per_row(sets)
    size, kept = arrays["segments"].size, arrays["segments"] > 0
    origin = f"the first {SAMPLE:,} rows of the data" if sampled else "the prepared rows"
    return Rows(
        tokens=arrays["segments"].shape[1],
        fill=float(kept.sum() / size),
        scored=float((arrays["slots"] >= 0).sum() / size),
        seen=float((arrays["positions"] + 1)[kept].mean()),
        groups=groups,
        places=len(arrays["valid"]) // rows,
        responses=arrays["valid"].shape[1],
        count=sum(counts),
        origin=origin,
    )


def assumed(cfg: ConfigDict, why: str) -> Rows:
    """Rows like those of UltraFeedback. A data.row_tokens of None becomes a number."""
    tokens = cfg.data.row_tokens or 2048
    cfg.data.row_tokens = tokens
    rollout = cfg.data.rollout
    single = functions.objective(cfg).name in ("sft", "nll", "ift")
    responses = rollout.samples if rollout else 1 if single else 2
    groups = max(1, tokens // GROUP_TOKENS) if cfg.data.pack else 1
    return Rows(
        tokens, FILL, SCORED, FILL * tokens / groups / 2, groups, groups, responses, None,
        f"assumed, as {textwrap.shorten(why, 80, placeholder=' ...')}",
    )  # fmt: skip
