"""The section mesh: sizes that make no mesh, and what does not go with tokens of a row on several devices."""

from collections.abc import Iterator
from typing import Any

AXES = ("data", "fsdp", "context", "tensor")


def check(resolved: dict[str, Any]) -> Iterator[str]:
    """What the sizes of the mesh do not go with."""
    from jaxalign import sharding

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
