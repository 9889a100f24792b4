"""Makes prepared sets: tokenized, checked and packed rows on disk, which training only opens.

    python -m jaxalign.prepare --config configs/NAME.py

`train` does the same by itself when the rows are not there. What is there already is never made again: folders are named by a hash of
everything that they depend on, this package's data code included.
"""

from collections.abc import Callable, Mapping
import logging
from pathlib import Path
import sys

from jaxalign.config.command_line import from_command_line, run
from jaxalign.config.schema import named_sets
from jaxalign.data.prepared import prepare
from jaxalign.data.summary import report


def needs_mismatched(cfg) -> bool:
    """Whether the objective of a resolved configuration reads a response of another prompt in every group."""
    from jaxalign import objectives  # imports jax, which preparing other data need not

    hparams = {key: value for key, value in cfg.objective.items() if key != "name"}
    return "mismatched" in objectives.reads(cfg.objective.name, **hparams)


def tokenizer_name(cfg) -> str:
    """The folder or name of a resolved configuration's tokenizer."""
    if cfg.model.tokenizer:
        return cfg.model.tokenizer
    from jaxalign.config import build  # imports jax, which a tokenizer that is named does not need

    return build.tokenizer_name(cfg)


def to_stderr(lines: list[str]) -> None:
    """Prints lines on standard error."""
    print("\n".join(lines), file=sys.stderr)


def prepare_from_config(cfg, *, tell: Callable[[list[str]], None] = to_stderr) -> dict:
    """{"train": [(folder, weight)], "eval": {name: folder}}: the prepared sets of a resolved configuration, made if they are not there.

    A single held-out set is called "". What became of the rows of each set goes to `tell`, as lines of text.

    Raises:
      ValueError: as `prepare`; also eval_fraction with a mixture.
    """
    data = cfg.data
    train = [_plain(source) for source in (data.train if isinstance(data.train, list | tuple) else [data.train])]
    if data.eval_fraction and len(train) > 1:
        raise ValueError(
            f"data.eval_fraction={data.eval_fraction} cuts one source, and data.train mixes {len(train)}; set data.eval instead."
        )
    same = ("template", "row_tokens", "max_prompt_tokens", "max_response_tokens", "prompt_truncation", "response_truncation")
    options = {key: data[key] for key in (*same, "train_turns", "reasoning", "add_tokens", "share_prompt", "on_bad_row", "processes")}
    options |= {"pack_rows": data.pack, "max_groups": data.max_groups_per_row, "out_root": data.prepared_dir}
    options["tokenizer"] = tokenizer_name(cfg)
    options["mismatched"] = needs_mismatched(cfg)
    if data.eval_fraction:
        split = {"eval_fraction": data.eval_fraction}
        folders = [prepare(train[0], **options, **split, side="train")]
        held_out = {"": prepare(train[0], **options, **split, side="eval")}
    else:
        folders = [prepare(source, **options) for source in train]
        sources = {} if data.eval is None else named_sets(_plain(data.eval))
        held_out = {name: prepare(source, **options) for name, source in sources.items()}
    for folder in [*folders, *held_out.values()]:
        tell(report(folder))
    return {"train": [(folder, source.get("weight", 1.0)) for folder, source in zip(folders, train, strict=True)], "eval": held_out}


def prepare_stages(stages: Mapping, *, tell: Callable[[list[str]], None]) -> list[tuple[Path, str]]:
    """[(folder, tokenizer that the stage names)] of all prepared sets of a configuration, made if not there; `tell` as above."""
    found: list[tuple[Path, str]] = []
    for cfg in stages.values():
        if "experiment" in cfg:
            continue
        source = cfg.model.checkpoint or ""
        while source.startswith("stage:"):  # its export carries the tokenizer of the stage that it comes from
            origin = stages[source.removeprefix("stage:")]
            cfg.model.tokenizer = cfg.model.tokenizer or origin.model.tokenizer
            cfg.data.add_tokens = (*(origin.data.add_tokens or ()), *(cfg.data.add_tokens or ()))
            if cfg.data.template == "auto":
                cfg.data.template = origin.data.template
            source = cfg.model.checkpoint = origin.model.checkpoint or ""
        folders = prepare_from_config(cfg, tell=tell)
        sets = [folder for folder, _ in folders["train"]] + list(folders["eval"].values())
        found += [(folder, tokenizer_name(cfg)) for folder in sets]
    return found


def main(argv: list[str] | None = None) -> int:
    """Prepares the data of every stage of a configuration and reports on it."""
    return run(_prepare, argv)


def _prepare(argv):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked = from_command_line(argv, __doc__.splitlines()[0], command="prepare")
    prepare_stages(asked.stages, tell=lambda lines: print("\n".join(lines)))


def _plain(source):
    from ml_collections import ConfigDict

    return source.to_dict() if isinstance(source, ConfigDict) else dict(source)


if __name__ == "__main__":
    sys.exit(main())
