"""Numbers that models, rules and judges give data: columns of prepared rows, scores of the responses of a file, pairs by these scores.

    python -m jaxalign.annotate --config configs/NAME.py
    python -m jaxalign.annotate --rows FILE --reward SPEC --out FILE.jsonl [--relabel | --pairs [--prompts FILE]]

With --config the columns of data.computed are kept beside the prepared rows; `train` does the same by itself. With --rows every row gets
its scores as a column. --relabel turns pairs around where the reward, or a --judge, prefers the rejected answer. --pairs writes the best
and the worst answer of every prompt, of rows with several answers or of samples of `generate`.
"""

from collections.abc import Sequence
import json
import re
import sys

from jaxalign import outputs
from jaxalign.config.command_line import from_command_line, local, run, start_devices, workdir_of

SURROGATE = re.compile("[\ud800-\udfff]")  # half a character
COLUMN = "reward"  # name of the scores where --column is not given
OF_ANSWERS = "columns left out, since they may be about the answers as they were"
OF_PROMPTS = "columns of --prompts left out, since a pair of samples has the id and the prompt alone"
FLAGS = (
    ("--workdir", {"type": local, "help": "folder of the run whose stages data.computed names (default: runs/NAME)"}),
    ("--rows", {"metavar": "FILE", "type": local, "help": "rows of any format of data, or samples of generate, instead of --config"}),
    (
        "--reward",
        {"metavar": "SPEC", "help": "length, exact_match, gsm8k, regex:PATTERN, FILE.py:NAME, model:NAME, judge:MODEL@URL, or a dict"},
    ),
    (
        "--judge",
        {"metavar": "SPEC", "help": "with --relabel, in the place of --reward: MODEL@URL of an OpenAI-compatible endpoint, or a dict"},
    ),
    ("--out", {"metavar": "FILE.jsonl", "type": local, "help": "with --rows: gets the rows"}),
    ("--column", {"metavar": "NAME", "help": f"name of the scores ({COLUMN}); of a pair NAME_chosen and NAME_rejected"}),
    ("--relabel", {"action": "store_true", "help": "write pairs whose chosen answer is the preferred one"}),
    ("--pairs", {"action": "store_true", "help": "write a pair of the best and the worst answer of every prompt"}),
    ("--margin", {"type": float, "help": "with --pairs: scores that differ by no more are a tie (0)"}),
    ("--prompts", {"metavar": "FILE", "type": local, "help": "the file that generate read, for prompts and columns of its samples"}),
    ("--format", {"help": "of --rows (default: what each row looks like)"}),
    ("--limit", {"type": int, "help": "only the first so many of --rows"}),
)
OF_ROWS = ("reward", "judge", "out", "column", "relabel", "pairs", "margin", "prompts", "format", "limit")  # what --config does not read


def main(argv: Sequence[str] | None = None) -> int:
    """Writes columns, scores or pairs and reports on them; returns the exit code."""
    return run(_annotate, argv)


def _annotate(argv):
    asked = from_command_line(argv, __doc__.splitlines()[0], FLAGS, command="annotate", instead="--rows")
    if asked.options.rows:
        _check(asked.options)
        return _rows(asked.options)
    if idle := [name for name in OF_ROWS if not any(getattr(asked.options, name) is unset for unset in (None, False))]:
        raise ValueError(f"--{idle[0]} has no effect with --config; give --rows FILE, or leave it out.")
    return _columns(asked)


def _columns(asked):
    start_devices(asked)
    import jax

    from jaxalign.config import build
    from jaxalign.config.computed import has_columns, with_columns
    from jaxalign.config.prepared import prepared_sets
    from jaxalign.config.stages import place_stages, training_stages

    if not any(map(has_columns, training_stages(asked.stages).values())):
        raise ValueError(f"{asked.options.config} computes no column; name columns in data.computed.")
    for cfg in training_stages(asked.stages).values():
        place_stages(cfg, workdir_of(asked))
        with jax.set_mesh(build.mesh(cfg)):
            for prepared in with_columns(cfg, prepared_sets(cfg)).all:
                _report(prepared)


def _report(prepared):
    for name, values in prepared.groups.columns.items():
        valid = values[prepared.groups.valid] if values.ndim == 2 else values
        print(f"{prepared.folder.parent.name}: {name}: {len(valid):,} numbers, {_spread(valid)}, {(valid > 0).mean():.1%} above 0")


def _spread(values):
    return f"mean {values.mean():.4g}" + (f", standard deviation {values.std():.4g}" if len(values) > 1 else "")


def _check(options):
    from jaxalign.data.raw.formats import FORMATS
    from jaxalign.suggest import meant

    if options.workdir:
        raise ValueError("--workdir has no effect with --rows; leave it out.")
    if options.relabel and options.pairs:
        raise ValueError("--relabel mends pairs and --pairs makes them; give one of them.")
    if options.judge and not options.relabel:
        raise ValueError("--judge compares two answers, so it goes with --relabel; give --reward.")
    if bool(options.judge) == bool(options.reward):
        raise ValueError(
            "give --reward SPEC, like length, FILE.py:NAME or model:FOLDER" + (" or --judge SPEC: one." if options.relabel else ".")
        )
    if not options.out:
        raise ValueError("--out FILE.jsonl is missing: it gets the rows.")
    outputs.check_new(options.out)
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit} must be at least 1.")
    if options.judge and options.column is not None:
        raise ValueError(f"--column {options.column} names scores, and a --judge gives none, only which answer is better; leave it out.")
    if options.margin is not None and not (options.margin >= 0 and options.pairs):
        raise ValueError(f"--margin {options.margin} must be a number from 0, and goes with --pairs.")
    if options.format and options.format not in FORMATS:
        raise ValueError(f"--format {options.format!r} is not one of {', '.join(FORMATS)}{meant(options.format, FORMATS)}.")


def _rows(options):
    with outputs.whole(options.out) as partial:
        rows, lines = _judged(options)
        if not rows:
            raise ValueError("\n".join([*lines, f"no pair is left, so {options.out} is not written."]))
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(_line(row) for row in rows)
    print("\n".join([*lines, f"{len(rows):,} rows: {options.out}"]))


def _line(row):
    """A row as a line of JSON; text that UTF-8 cannot write, which a column that nothing reads may hold, stands in it as it was read."""
    line = json.dumps(row, ensure_ascii=False)
    return (line if not SURROGATE.search(line) else json.dumps(row)) + "\n"


def _judged(options):
    """(rows that are written, what is told)."""
    import jax

    from jaxalign import sharding
    from jaxalign.scoring import annotations, judge, rewards, specs

    reward = rewards.make(specs.of_flag(options.reward)) if options.reward else None
    judges = judge.make(specs.of_flag(options.judge)) if options.judge else None
    judged = _read(options, reward)
    column = options.column or COLUMN
    made = options.relabel or options.pairs  # rows, of which those that are read give columns alone
    if not made:
        annotations.check_free(judged, column)
    annotations.check_written(judged, options.rows, carried=made)
    with jax.set_mesh(sharding.whole_mesh()):
        return _relabel(column, judged, reward, judges) if options.relabel else _score(options, column, judged, reward)


def _read(options, reward):
    """What is scored, by prompt; what was dropped is told."""
    from jaxalign.data.raw import prompts, sources
    from jaxalign.data.raw.counts import Counts
    from jaxalign.scoring import annotations

    rows = sources.read({"path": options.rows, **({} if options.limit is None else {"limit": options.limit})})
    counts, first = Counts(), next((row for row in map(rows.read, range(len(rows))) if isinstance(row, dict)), {})
    samples = prompts.is_sample(first) and not options.format
    if options.prompts and options.format and prompts.is_sample(first):
        raise ValueError(f"--format {options.format} is of rows, and {options.rows} has samples of generate; leave it out.")
    if options.prompts and not samples:
        raise ValueError(f"--prompts goes with samples of generate, and {options.rows} has none; leave it out.")
    if samples and options.pairs and not options.prompts:
        raise ValueError("--pairs of samples needs --prompts FILE, which generate read: the prompts in a sample are as the model saw them.")
    if samples and not options.prompts and reward and (reward.writes_prompt or reward.columns):
        why = "writes prompts itself, and those in a sample are written already, as the model saw them"
        if not reward.writes_prompt:
            why = f"reads {', '.join(reward.columns)} of the rows that the prompts came from"
        raise ValueError(f"reward {reward.name!r} {why}; add --prompts FILE, the file that generate read.")
    if samples:
        asked = sources.read({"path": options.prompts}) if options.prompts else None
        judged = list(annotations.read_samples(rows, asked, counts))
    else:
        judged = list(annotations.read(rows, counts, format=options.format))
    print("\n".join(counts.lines()), file=sys.stderr)
    if options.relabel and (others := [one for one in judged if not one.paired or len(one.responses) != 2]):
        raise ValueError(
            f"--relabel mends pairs, and {len(others):,} rows of {options.rows} are none; --pairs makes pairs of several answers."
        )
    if not judged:
        raise ValueError(f"{options.rows} has no answer that can be scored; the lines above tell why.")
    return judged


def _scores(judged, reward):
    import numpy as np

    from jaxalign.scoring import annotations

    scores = annotations.score(judged, reward, quiet=False)
    values = np.concatenate(scores)
    there = values[~np.isnan(values)]
    if not len(there):
        raise ValueError("no answer has a score:\n" + "\n".join(reward.lines()))
    return scores, [f"{len(there):,} scores: {_spread(there)}", *reward.lines()]


def _score(options, column, judged, reward):
    """(rows with scores or pairs by them, what is told)."""
    from jaxalign.scoring import annotations

    scores, lines = _scores(judged, reward)
    if not options.pairs:
        rows = [row for one, own in zip(judged, scores, strict=True) for row in annotations.with_column(one, own, column)]
        return rows, lines
    rows, tally = annotations.best_and_worst(judged, scores, column, margin=options.margin or 0.0)
    made = f"{tally.kept:,} pairs of {len(judged):,} prompts; {tally.ties:,} are ties, {tally.missing:,} have fewer than two scores"
    return rows, [*lines, made, *annotations.left_out(judged, OF_PROMPTS if options.prompts else OF_ANSWERS)]


def _relabel(column, judged, reward, judges):
    """(pairs with mended labels, what is told)."""
    import numpy as np

    from jaxalign.reports.intervals import wilson
    from jaxalign.reports.win_rates import verdicts
    from jaxalign.scoring import annotations

    if judges is None:
        scores, lines = _scores(judged, reward)
        verdict = verdicts(*np.stack(scores, axis=1))
    else:
        judges.check()
        scores, verdict = None, annotations.judge_pairs(judged, judges)
        lines = judges.lines()
    rows, tally = annotations.relabelled(judged, verdict, scores, column)
    there = len(judged) - tally.missing
    agrees = (tally.kept + tally.ties / 2) / there if there else float("nan")
    left_out = f"{tally.ties:,} ties and {tally.missing:,} without a verdict left out"
    return rows, [
        *lines,
        f"{tally.kept:,} pairs as they were, {tally.turned:,} turned around, {left_out}",
        *annotations.left_out(judged, OF_ANSWERS),
        f"agreement with the labels, a tie counting half: {agrees:.3f} (95 %: {wilson(agrees, there)}) of {there:,} pairs",
    ]


if __name__ == "__main__":
    sys.exit(main())
