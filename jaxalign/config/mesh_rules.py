"""The section mesh: sizes that make no mesh, what does not go with tokens of a row on several devices, and what rests on the host."""

from collections.abc import Iterator
from typing import Any

from jaxalign.suggest import meant

AXES = ("data", "fsdp", "context", "tensor")


def check(resolved: dict[str, Any]) -> Iterator[str]:
    """What the sizes of the mesh do not go with, and parts that cannot rest on the host."""
    from jaxalign import sharding

    yield from _offload(resolved)
    sizes = {axis: resolved["mesh"][axis] for axis in AXES}
    if list(sizes.values()).count(-1) > 1:
        yield f"mesh={sizes}: only one axis may be -1 (what is left); give the others numbers of devices."
    if 0 in sizes.values():
        yield f"mesh={sizes}: an axis has at least 1 device, or -1 for what is left."
    if sizes["context"] in (0, 1):
        return
    for key, section in (("data.rollout", resolved["data"]["rollout"]), ("eval.generate", resolved["eval"]["generate"])):
        if section is not None:
            yield (
                f"{key}: answers are drawn token by token, which leaves nothing to split over mesh.context={sizes['context']}; set "
                "mesh.context=1 (use data, fsdp or tensor), or leave the section out."
            )
    if resolved["data"]["row_tokens"] is not None and sizes["context"] > 0:
        try:
            sharding.check_tokens(resolved["data"]["row_tokens"], context=sizes["context"])
        except ValueError as error:
            yield str(error)


def _offload(resolved):
    from jaxalign.offload import FIELDS
    from jaxalign.training.reference import RULES

    parts, rule = resolved["mesh"]["offload"], resolved["reference"]["rule"]
    if wrong := [part for part in parts if part not in FIELDS]:
        yield f"mesh.offload={parts!r}: {wrong[0]!r} cannot rest on the host{meant(wrong[0], FIELDS)}; name {' or '.join(FIELDS)}, or both."
    for key in [key for key in ("on_nan", "on_spike") if parts and resolved["train"][key] == "skip"]:
        yield (
            f"train.{key}='skip' keeps the state from before the step beside the one after it, and mesh.offload={parts!r} leaves no room "
            "for both; use 'stop' or 'roll_back'."
        )
    if "optimizer" in parts and resolved["optimizer"]["name"] == "adafactor":
        yield f"mesh.offload={parts!r}: the factored moments of 'adafactor' are small and stay on the devices; leave 'optimizer' out."
    if "reference" not in parts:
        return
    if resolved["model"]["lora"] is not None:
        yield f"mesh.offload={parts!r}: with model.lora the reference is the model without its adapters; leave 'reference' out."
    elif RULES[rule].holds != "weights":
        yield f"mesh.offload={parts!r}: reference.rule={rule!r} holds no weights; leave 'reference' out."
