"""Columns that a model gives the data: reference log-probs, margins, advantages; written once beside the prepared rows.

    python -m jaxalign.annotate --config configs/NAME.py

`train` does the same by itself when a column of data.computed is not there. A column's name on disk is a hash of the weights, the rows and
the code that made it; when it is opened, a few rows are computed again and compared. Several processes compute one set together.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from functools import partial
import hashlib
from pathlib import Path
import sys

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from jaxalign import prepare, types
from jaxalign.config import build
from jaxalign.config.command_line import from_command_line, run, start_devices, workdir_of
from jaxalign.config.sets import check_fits
from jaxalign.config.stages import place_stages
from jaxalign.data import progress
from jaxalign.data.rows import columns, loader, pack, store
from jaxalign.hf import load as hf_load
from jaxalign.lm_head import chunks, logps
from jaxalign.models import model as models
from jaxalign.training import forward, reference
from jaxalign.training.sources import Source

FLAGS = (("--workdir", {"help": "folder of the run whose stages data.computed names (default: runs/NAME)"}),)


def with_columns(
    cfg, sets: list[store.Prepared], held_out: dict[str, store.Prepared], *, quiet: bool = False
) -> tuple[list[store.Prepared], dict[str, store.Prepared]]:
    """Both with the columns of cfg.data.computed, computed where they are not on disk. Needs a mesh in scope.

    Rule "precomputed" adds "reference_logps" of the model that the run starts from; "hard_table", which has a table for the training rows,
    adds it to the held-out ones.

    Raises:
      ValueError: a model is not there, or what is on disk does not agree with it.
    """
    start = {"kind": "logps", "model": None}
    specs = sorted(cfg.data.computed.items(), key=lambda item: item[1]["kind"] == "advantage")  # which may sum other columns
    if cfg.reference.rule == "precomputed":
        specs.append((reference.COLUMN, start))
    every = [*sets, *held_out.values()]
    for name, spec in specs:
        every = list(_with_column(cfg, every, name, dict(spec), quiet=quiet))
    sets, rest = every[: len(sets)], every[len(sets) :]
    if cfg.reference.rule == "hard_table":
        rest = list(_with_column(cfg, rest, reference.COLUMN, start, quiet=quiet)) if rest else []
    return sets, dict(zip(held_out, rest, strict=True))


def main(argv: list[str] | None = None) -> int:
    """Writes the columns of every stage of a configuration and says where."""
    return run(_annotate, argv)


def _annotate(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="annotate")
    start_devices(asked)
    for cfg in asked.stages.values():
        if "experiment" in cfg:
            continue
        place_stages(cfg, workdir_of(asked))
        with jax.set_mesh(build.mesh(cfg)):
            found = prepare.prepare_from_config(cfg)
            sets = [store.read(folder) for folder, _ in found["train"]]
            sets, held_out = with_columns(cfg, sets, {name: store.read(folder) for name, folder in found["eval"].items()})
            for prepared in (*sets, *held_out.values()):
                _report(prepared)


@dataclasses.dataclass(frozen=True)
class _Scorer:
    """One model, ready to look at rows."""

    name: str
    model: models.Model
    params: object
    look: object  # (params, batch) -> (logps [R, T], prompt values [N, K] or None), jitted
    tolerance: float  # by which numbers may differ on average when they are computed again in bfloat16


def _with_column(cfg, sets, name, spec, *, quiet):
    sources = [spec["model"]] + ([spec["reference"]] if spec.get("reference") else [])
    scorers = [_scorer(cfg, source, spec) for source in sources]
    depends = {key: value for key, value in spec.items() if key not in ("model", "reference")}
    depends |= {"weights": [_identity(cfg, source) for source in sources], "dtype": str(build.dtype(cfg)), "code": _code()}
    for prepared in sets:
        for scorer in scorers:
            way = "the rows are not of its tokenizer: name a model that shares it."
            check_fits(scorer.model.config, prepared, f"the model {scorer.name} of column {name!r}", way)
        path = columns.path(prepared, name, {**depends, **_summed(prepared, spec)})
        if _everywhere(columns.is_complete(path)):
            probe = dataclasses.replace(prepared, plan=prepared.plan[: cfg.batch.rows])
            kept = columns.read(path)
            computed = _compute(cfg, probe, name, spec, scorers, quiet=True)
            columns.check(path, kept, computed, tolerance=1e-3 if build.dtype(cfg) == np.float32 else scorers[0].tolerance)
        else:
            computed = _compute(cfg, prepared, name, spec, scorers, quiet=quiet)
            kept = {key: np.nan_to_num(values).astype(np.float32) for key, values in computed.items()}
            store.write_once(path, partial(columns.write, values=kept, meta={"column": name, **depends}))
        meta = {**prepared.meta, "columns": [*prepared.meta.get("columns", []), path.name]}
        yield dataclasses.replace(prepared.with_columns(kept), meta=meta)


def _summed(prepared, spec):
    """What an advantage depends on beside its own model: the computed columns among its rewards."""
    made = [folder for folder in prepared.meta.get("columns", ()) if folder.rpartition("-")[0] in spec.get("rewards", ())]
    return {"summed": made} if spec["kind"] == "advantage" and made else {}


def _everywhere(complete: bool) -> bool:
    """Whether it is so on all processes: where each has a disk of its own, one that has the column must still compute along."""
    return complete if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(complete)).all())


def _compute(cfg, prepared, name, spec, scorers, *, quiet) -> dict[str, np.ndarray]:
    """The arrays of a column by name, float64; NaN where the rows of `prepared` hold no such token or response."""
    groups = prepared.groups
    if spec["kind"] == "advantage":
        known = {"reward": groups.reward, **groups.columns}
        missing = [name for name in spec["rewards"] if name not in known]
        if missing:
            raise ValueError(
                f"data.computed.{name}: rewards={missing} are no columns of {prepared.folder.parent.name}; there are {tuple(known)}."
            )
        values = _responses(cfg, prepared, scorers[0], quiet=quiet)
        return {name: sum(known[name].astype(np.float64) for name in spec["rewards"]) - values}
    by_token = [_tokens(cfg, prepared, scorer, quiet=quiet) for scorer in scorers]
    if spec["kind"] == "logps":
        own, donated = np.split(by_token[0], [len(groups.tokens)])
        return {name: own} if groups.donors is None else {name: own, f"{name}@{pack.MISMATCHED}": donated}
    own = [values[: len(groups.tokens)] for values in by_token]
    # r(x, y) = beta (log pi(y | x) - log pi_ref(y | x))
    return {name: spec["beta"] * _sum_responses(own[0] - own[1], groups)}


def _tokens(cfg, prepared, scorer, *, quiet):
    """Log-prob of every token in the order of the set's own arrays, donors' tokens at the end: float64; NaN where none was computed."""
    groups = prepared.groups
    donated = 0 if groups.donors is None else int(groups.donors[:, 2].sum())
    numbers = columns.numbered(len(groups.tokens) + donated, split=len(groups.tokens), donors=groups.donors is not None)
    out = np.full(len(groups.tokens) + donated, np.nan)
    for at, (values, _) in _looks(cfg, prepared, numbers, scorer, quiet=quiet):
        out[at[at >= 0]] = _finite(values[at >= 0], scorer)
    return out


def _responses(cfg, prepared, scorer, *, quiet):
    """The value head's output for every response: float64[n, K]; NaN where none was computed."""
    shape = prepared.groups.reward.shape
    out = np.full(shape, np.nan).reshape(-1)
    for at, (_, values) in _looks(cfg, prepared, columns.numbered_responses(shape), scorer, quiet=quiet):
        out[at[at >= 0]] = _finite(values[at >= 0], scorer)
    return out.reshape(shape)


def _finite(values, scorer):
    if not np.isfinite(values).all():
        raise ValueError(f"the model {scorer.name} says numbers that are not finite; its weights are damaged or diverged: name another.")
    return values


def _looks(cfg, prepared, numbers: Mapping[str, np.ndarray], scorer, *, quiet) -> Iterable:
    """(place of every token or response in the set, what the model says of it) batch by batch."""
    plain = dataclasses.replace(prepared, groups=dataclasses.replace(prepared.groups, columns=numbers))
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    whole = loader.eval_batches(plain, rows=cfg.batch.rows)
    with progress.bar(len(whole), f"annotating {prepared.folder.parent.name}", quiet=quiet) as advance:
        for arrays, here in zip(whole, loader.eval_batches(plain, rows=cfg.batch.rows, **hosts), strict=True):
            batch = loader.to_device({**here, "columns": {}})
            result = scorer.look(scorer.params, batch)
            if jax.process_count() > 1:
                result = multihost_utils.process_allgather(result, tiled=True)
            yield columns.places(arrays["columns"]), jax.device_get(result)
            advance(1)


def _sum_responses(values, groups):
    """Sums over the pieces of responses: float64[total] -> [n, K]. Log-probs are 0 where a token is not scored."""
    totals = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    pieces = totals[groups.offsets[1:]] - totals[groups.offsets[:-1]]
    missing = np.concatenate([[0], np.cumsum(np.isnan(values) & (groups.scored > 0))])
    gone = (missing[groups.offsets[1:]] - missing[groups.offsets[:-1]]) > 0
    return np.where(gone, np.nan, pieces).reshape(len(groups), -1)[:, 1:]


def _scorer(cfg, source, spec) -> _Scorer:
    tolerance = 0.1
    if spec["kind"] == "advantage":
        model, params, run = Source(source).restore()
        if models.VALUE_HEAD not in params:
            raise ValueError(f"data.computed: model={source!r} is a run without a value head; name one of objective 'value'.")
        tolerance = 0.02 * run["value_head"]  # values lie between 0 and this
        learned = tuple(run["config"]["objective"].get("rewards", spec["rewards"]))
        if set(learned) != set(spec["rewards"]):
            raise ValueError(
                f"data.computed: rewards={spec['rewards']} of an advantage, and the value head of {source} learned {learned}; "
                "an advantage is a reward less what that very reward is on average: sum the same on both sides."
            )
    elif source is None:
        model = build.model(cfg)
        params = build.params(cfg, model)
    else:
        model = models.build(Source(source).config())
        params = Source(source).load(model)
    options = {"dtype": build.dtype(cfg), "remat": "none", "attention": cfg.model.attention}

    def look(params, batch: types.Batch):
        outputs = forward.next_token(model, params, batch, jnp.int32(0), **options)
        return outputs.logps, outputs.prompt_values

    return _Scorer(str(source or cfg.model.checkpoint), model, params, jax.jit(look), tolerance)


def _identity(cfg, source):
    """A hash of a model's weights; of random weights, what they are drawn from."""
    if source is None and cfg.model.checkpoint is None:
        return store.content_hash({"config": str(build.model(cfg).config), "seed": cfg.seed})
    named = Source(source or cfg.model.checkpoint)
    return store.content_hash({"weights": named.identity(), "config": str(named.config())})


def _hash_files(files):
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _code():
    modules = chunks, columns, forward, hf_load, logps, pack
    own = [Path(__file__), *(Path(module.__file__) for module in modules), *sorted(Path(models.__file__).parent.rglob("*.py"))]
    return _hash_files(own)


def _report(prepared):
    for name, values in prepared.groups.columns.items():
        valid = values[prepared.groups.valid] if values.ndim == 2 else values
        spread = f"mean {valid.mean():.4g}, standard deviation {valid.std():.4g}, {(valid > 0).mean():.1%} above 0"
        print(f"{prepared.folder.parent.name}: {name}: {len(valid):,} numbers, {spread}")


if __name__ == "__main__":
    sys.exit(main())
