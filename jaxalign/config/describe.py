"""What a reader of a run wants to know beside its metrics: the settings that matter, the data, the machine, a few texts."""

from collections.abc import Sequence
import datetime
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxalign.config import build, judges
from jaxalign.config.durations import Durations
from jaxalign.config.prepared import Sets
from jaxalign.data.rows.store import Prepared
from jaxalign.models import quantized
from jaxalign.models.attention import rule
from jaxalign.models.model import Model
from jaxalign.reports import facts as known
from jaxalign.reports import wording
from jaxalign.reports.samples import Samples

OF_THE_MODEL = ("trainable", "dtype", "value_head", "reward_head", "critic", "critic_checkpoint")
OF_THE_TEXT = (
    "template", "row_tokens", "max_prompt_tokens", "max_response_tokens", "prompt_truncation", "response_truncation", "train_turns", "pack",
)  # fmt: skip


def beginning(cfg: ConfigDict, model: Model, sets: Sequence[Prepared], lengths: Durations, workdir: Path, *, step: int) -> str:
    """The line with which a run begins at this step, on the mesh in scope."""
    parameters = quantized.count(model.shapes)
    rows, (attention, why) = sum(len(prepared) for prepared in sets), rule.choose(cfg.model.attention, model.config.head_dim)
    begun = f"continues at step {step}" if step else "starts"
    return (
        f"{cfg.objective.name} {begun} in {workdir}: {model.config.family} with {parameters / 1e6:,.2f}M parameters, {rows:,} rows of "
        f"{cfg.data.row_tokens} tokens, {lengths.total} steps of {cfg.batch.rows} rows, {jax.device_count()} {jax.devices()[0].platform} "
        f"device(s), attention {attention} ({why}), remat {cfg.model.remat}, reference {cfg.reference.rule}"
    )


def settings(cfg: ConfigDict, model: Model, lengths: Durations) -> dict[str, Any]:
    """What -> its value in a resolved configuration, in words and without what is None; "answers" is a mapping, as `answers` makes it."""
    values = cfg.to_dict()
    parameters = quantized.count(model.shapes)
    weights = Path(values["model"]["checkpoint"] or "random weights")
    # an export is a folder of the stage that it comes from
    start = f"{weights.parent.name}/export" if weights.name == "export" else str(weights)
    return {
        "objective": _listed(values["objective"], first="name"),
        "model": f"{start}; {model.config.family}, {parameters:,} parameters, {_listed(values['model'], only=OF_THE_MODEL)}",
        **({"adapters": _listed(values["model"]["lora"])} if values["model"]["lora"] else {}),
        "reference": _listed(values["reference"], first="rule"),
        "optimizer": _listed(values["optimizer"], first="name"),
        "batch": _listed(values["batch"]),
        "steps": f"{lengths.total:,}",
        "text": _listed(values["data"], only=OF_THE_TEXT),
        "seed": str(values["seed"]),
        **({"rollouts": wording.text(_plain(values["data"]["rollout"]))} if values["data"]["rollout"] else {}),
        **answers(cfg),
        **questions(cfg),
    }


def answers(cfg: ConfigDict) -> dict[str, dict[str, Any]]:
    """{"answers": how what the model says is drawn and judged, the section eval.generate for JSON}; nothing where it says nothing.

    A judge stands among the rewards under the name that its scores have.
    """
    spec = cfg.to_dict()["eval"]["generate"]
    if spec is None:
        return {}
    rewards, decides = judges.named(spec)
    return {"answers": _plain({**spec, "rewards": rewards, "judge": decides})}


def evaluation(cfg: ConfigDict, command: str) -> dict[str, Any]:
    """What an evaluation writes beside its numbers: the command that was typed, when it ended (UTC, ISO 8601), how answers were drawn."""
    return {"command": command, "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "settings": answers(cfg)}


def questions(cfg: ConfigDict) -> dict[str, str]:
    """{"multiple choice": where the questions come from}; nothing where none are asked."""
    spec = cfg.to_dict()["eval"]["multiple_choice"]
    return {} if spec is None else {"multiple choice": wording.text(_plain(spec))}


def facts(
    cfg: ConfigDict,
    sets: Sets,
    samples: Sequence[Samples],
    *,
    start_step: int,
    command: str,
    seconds: float,
) -> dict[str, Any]:
    """"data", "samples" and "run" of a summary, for JSON.

    Args:
      sets: the rows that were trained on and that were held out.
      samples: prompts of the first held-out set that were followed.
      start_step: where this start of the run began; 0: at its beginning.
      command: what was typed.
      seconds: that this start took, compiling included.
    """
    data = {f"training {number}" if len(sets.train) > 1 else "training": one for number, one in enumerate(sets.train, 1)}
    data |= {f"held out, {name}" if name else "held out": one for name, one in sets.held_out.items()}
    first = next(iter(sets.held_out.values()), None)
    texts = [text for one in samples for text in one.texts(first, build.renderer(cfg).tokenizer)]
    run = {"start_step": start_step, "starts": 1, "seconds": seconds, "command": command, "date": f"{datetime.date.today():%Y-%m-%d}"}
    return {"data": {role: known.of_set(one) for role, one in data.items()}, "samples": texts, "run": run | known.of_machine()}


def _plain(section):
    """A section as JSON gives it back, without what is empty."""
    return json.loads(json.dumps(_filled(section), default=str))


def _filled(section):
    values = {key: _filled(value) if isinstance(value, dict) else value for key, value in section.items()}
    return {key: value for key, value in values.items() if value not in (None, (), {})}


def _listed(section, *, first="", only=None):
    named = {key: section[key] for key in only or section if key in section and section[key] is not None}
    head = [str(named.pop(first))] if first in named else []
    return ", ".join([*head, *(f"{key} {value}" for key, value in named.items())])
