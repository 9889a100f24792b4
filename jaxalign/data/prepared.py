"""One source to a prepared set: tokenized, checked and packed rows on disk, under a hash of everything that they depend on."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path
import re
from typing import Any

from jaxalign import paths
from jaxalign.data import progress
from jaxalign.data.raw import detect, sources, survey
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.rows import lengths, mismatch, pack, shards, store
from jaxalign.data.rows.encode import Limits
from jaxalign.manifest import content_hash

# Raise these by hand where the same source and settings give other groups, or the same groups another plan: sets made before are then made
# again. tests/data/test_golden_rows.py holds them.
GROUPS_FORMAT = 3
PLAN_FORMAT = 1
DETECTION_ROWS = 100  # that are looked at for the format of a set
MISMATCH_SEED = 0  # of the shuffle that pairs groups with responses of other prompts: part of the data, like the order of a file


def prepare(
    source: Mapping,
    *,
    tokenizer: str,
    template: str,
    row_tokens: int,
    out_root: str | Path | None,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    prompt_truncation: str = "keep_end",
    response_truncation: str = "drop",
    add_tokens: Sequence[str] | None = None,
    train_turns: str = "last",
    reasoning: str = "keep",
    pack_rows: bool = True,
    share_prompt: bool = True,
    max_groups: int | None = None,
    on_bad_row: str = "drop",
    side: str = "all",
    eval_fraction: float = 0.0,
    mismatched: bool = False,
    processes: int | None = None,
    quiet: bool = False,
    make: bool = True,
) -> Path | None:
    """The folder of the prepared rows of one source (see `data.raw.sources`), made if it is not there; open it with `data.rows.store.read`.

    Args:
      source: may also hold "format", "responses", "feedback", "keep_columns" (see `data.raw.formats.to_example`), "score_range",
        "score_weights" and "score_transform" (see `data.raw.scores`); its "weight" is for the loader.
      tokenizer: folder, file, hub name or package:NAME.
      template: "auto", "plain", a built-in name or a .jinja file.
      add_tokens: special tokens that the tokenizer gains, the markers of a template that a base model lacks.
      reasoning: "keep", "strip" or "train": what becomes of thoughts before an answer, see `data.text.thoughts`.
      out_root: where prepared sets lie; None: $JAXALIGN_CACHE or ~/.cache/jaxalign.
      side: "train" or "eval": one side of a split that puts `eval_fraction` of the questions on the eval side.
      mismatched: every group also gets a response of another prompt, see `data.rows.mismatch`; rows have room for it.
      processes: that tokenize; None: one a core.
      make: False: None where the source is not tokenized yet.

    Raises:
      FileNotFoundError, ValueError: the source, the tokenizer or the template is wrong, or every row is.
      OSError: the disk is full.
    """
    options = {"row_tokens": row_tokens, "share_prompt": share_prompt, "max_prompt_tokens": max_prompt_tokens, "mismatched": mismatched}
    options |= {"max_response_tokens": max_response_tokens, "prompt_truncation": prompt_truncation}
    options |= {"response_truncation": response_truncation, "tokenizer": tokenizer, "template": template, "add_tokens": add_tokens}
    options |= {"train_turns": train_turns, "reasoning": reasoning, "on_bad_row": on_bad_row, "side": side, "eval_fraction": eval_fraction}
    source = sources.given(source)
    rows = sources.read(source)
    recipe, how = _recipe(source, rows, options)
    renderer = recipe.renderer()
    meta = _meta(source, rows, recipe, renderer, how)
    folder, how = _root(out_root) / _name(rows, side, meta), {"processes": processes or os.cpu_count() or 1, "quiet": quiet}
    if not make and not store.is_complete(folder):
        return None
    groups = store.write_once(folder, lambda final: _write_groups(final, rows, recipe, renderer, meta, **how))
    settings = {"pack_rows": pack_rows, "share_prompt": share_prompt, "max_groups": max_groups, "mismatched": mismatched}
    return plan(groups, row_tokens=row_tokens, **settings)


def fitting_row_tokens(several: Sequence[Mapping], options: Mapping, *, context: int | None = None) -> int:
    """Tokens per row that keep almost all rows of these sources whole and fill up, see `data.rows.lengths`.

    Args:
      options: keyword arguments of `prepare`; row_tokens is not read.
      context: positions of the model, which no prompt with a response may exceed; None: no limit.

    Raises:
      ValueError: as `prepare`; also where no row of a sample can be used.
    """
    measured = []
    for source in several:
        source = sources.given(source)
        rows = sources.read(source)
        recipe, _ = _recipe(source, rows, {**options, "row_tokens": lengths.NO_LIMIT})
        if recipe.format == "choice":
            recipe = dataclasses.replace(recipe, base=survey.base_of(rows))
        measured.append(lengths.needed(rows, recipe, context=context))
    return lengths.fitting(measured, packed=options.get("pack_rows", True)) or lengths.MULTIPLE


def plan(
    groups_folder: str | Path, *, row_tokens: int, pack_rows: bool, share_prompt: bool, max_groups: int | None, mismatched: bool = False
) -> Path:
    """The folder of the row plan of a set of groups, with mismatched responses if asked for, made if it is not there."""
    groups_folder = Path(groups_folder)
    settings = {"row_tokens": row_tokens, "pack": pack_rows, "share_prompt": share_prompt, "max_groups": max_groups if pack_rows else 1}
    settings |= {"mismatched": True, "seed": MISMATCH_SEED} if mismatched else {}

    def write(final):
        groups = store.read_groups(groups_folder)
        if mismatched:
            uncut = store.read_prompts(groups_folder)
            donors = mismatch.choose(groups, row_tokens=row_tokens, share_prompt=share_prompt, seed=MISMATCH_SEED, uncut=uncut)
            groups = dataclasses.replace(groups, donors=donors)
        sizes = pack.group_tokens(groups, share_prompt=share_prompt)
        rows = pack.plan_rows(sizes, row_tokens=row_tokens, pack=pack_rows, max_groups=max_groups)
        share = pack.fill(sizes, rows, row_tokens=row_tokens)
        unshared = int(pack.group_tokens(groups, share_prompt=False).sum())
        facts = {"rows": len(rows), "fill": share, "padding": 1 - share, "row_real_tokens": int(sizes.sum()), "unshared_tokens": unshared}
        store.write_plan(final, rows, donors=groups.donors, meta={**settings, **facts})

    return store.write_once(groups_folder / f"rows-{content_hash({**settings, 'format_version': PLAN_FORMAT})[:8]}", write)


def _recipe(source, rows, options):
    format, how = _format(source, rows)
    sections = [{field.name for field in dataclasses.fields(kind)} & options.keys() for kind in (Limits, shards.Recipe)]
    limits, rest = ({key: options[key] for key in keys} for keys in sections)
    rest["add_tokens"] = tuple(rest.get("add_tokens") or ())
    return shards.Recipe(format=format, limits=Limits(**limits), renamed=rows.renamed, **rest, **judgements(source)), how


def _meta(source, rows, recipe, renderer, how):
    depends = {
        **{key: value for key, value in dataclasses.asdict(recipe).items() if key not in ("tokenizer", "template")},
        **{key: source[key] for key in ("split", "limit", "rename") if key in source},
        "renderer": renderer.identity(),
        "source": rows.identity,
        "rows": len(rows),
        "format_version": GROUPS_FORMAT,
    }
    if recipe.format == "ranked" and recipe.keep_columns:
        depends["kept_by_rank"] = True  # once they stood in the order of the row beside answers by rank: only such sets are made again
    return {
        "name": rows.name,
        "source": source,
        "keep_columns": dict(recipe.keep_columns),
        "format": recipe.format,
        "format_because": how,
        "tokenizer": renderer.tokenizer.content,
        "tokenizer_path": _absolute(recipe.tokenizer),
        "template": recipe.template,
        "stop_token": renderer.tokenizer.model.id_to_token(renderer.stop_id),
        "depends": depends,
    }


def _name(rows, side, meta):
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(rows.name).name).strip("-") + ("" if side == "all" else f"-{side}")
    return f"{slug}-{content_hash(meta['depends'])}"


def _write_groups(final, rows, recipe, renderer, meta, *, processes, quiet):
    base = survey.check(rows, format=recipe.format, scoring=recipe.scoring, feedback=recipe.feedback)
    recipe = dataclasses.replace(recipe, base=base)
    partial = final.with_name(f".{final.name}.partial")
    with progress.bar(len(rows), f"tokenizing {final.name}", quiet=quiet) as advance:
        count = shards.write_all(rows, partial, recipe=recipe, renderer=renderer, processes=processes, progress=advance)
    counts = store.shard_counts(partial, count)
    if counts.kept == 0:
        _refuse_empty(rows, recipe, counts)
    store.merge_shards(partial, final, shards=count, meta={**meta, "counts": counts.to_dict(), "absent": rows.absent()})


def _refuse_empty(rows, recipe, counts):
    if counts.rules.keys() == {"held_out"}:
        raise ValueError(
            f"eval_fraction={recipe.eval_fraction} puts none of the {counts.read:,} rows of {rows.name} on the {recipe.side} side, which "
            "the hash of their first questions decides; set another eval_fraction, or name the rows to evaluate on in data.eval."
        )
    lines = "\n".join(counts.lines())
    raise ValueError(f"no row of {rows.name} can be used:\n{lines}\nMend the data, or the settings named above.")


def _format(source, rows):
    if source.get("format"):
        return source["format"], "as the source specifies"
    # A row that cannot be read, or lacks a column, does not decide: the first that fits a format does.
    problems = []
    for i in range(min(len(rows), DETECTION_ROWS)):
        row = rows.read(i)
        if isinstance(row, RowError):
            problems.append(str(row))  # it names the file and the line
            continue
        try:
            name, why = detect.detect(row)
            break
        except ValueError as error:
            problems.append(f"{rows.name}: {error}")
    else:
        raise ValueError(problems[0])
    if name == "completion" and source.get("score_weights"):
        return "scored", "it has score_weights"
    return name, f"detected because {why}"


def _root(out_root):
    root = paths.resolve(str(out_root)) if out_root else paths.cache() / "prepared"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        setting = "data.prepared_dir" if out_root else f"${paths.CACHE}"
        raise ValueError(f"prepared rows cannot be kept in {root}: {error}. Set {setting} to a folder that can be written.") from error
    return root


def _absolute(tokenizer):
    # The set outlives the working directory; names of the hub and of the package are valid everywhere.
    local = paths.resolve(tokenizer)
    return str(local.absolute()) if local.exists() and not tokenizer.startswith("package:") else tokenizer


def judgements(source: Mapping) -> dict[str, Any]:
    """What a source specifies of responses and their scores, as options of `formats.to_example`."""
    span = source.get("score_range")
    span = tuple(span) if isinstance(span, list) else span
    return {
        "responses": source.get("responses", "all"),
        "scoring": Scoring(span, _items(source, "score_weights"), source.get("score_transform", "linear")),
        "feedback": source.get("feedback"),
        "keep_columns": _items(source, "keep_columns"),
    }


def _items(source, key):
    # as pairs, which can be hashed
    value = source.get(key, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={value!r} of a source is not a dict of names.")
    return tuple(sorted(value.items()))
