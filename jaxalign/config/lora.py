"""The section model.lora: low-rank adapters that are trained in the place of the model's own weights."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from jaxalign.config.schema import Field
from jaxalign.hparams import REQUIRED

LORA = {
    "rank": Field((int,), REQUIRED, "inner size of every adapter: it changes a map by a matrix of at most this rank", least=1),
    "alpha": Field((float,), REQUIRED, "an adapter is scaled by alpha / rank; twice the rank is usual", least=0),
    "targets": Field((tuple,), ("*",), "patterns of the linear maps that are adapted: q, attention.*, mlp.down; * is all", items=(str,)),
    "rank_stabilised": Field((bool,), False, "scale by alpha / sqrt(rank) instead (rsLoRA)"),
    "base_dtype": Field(
        (str,),
        "auto",
        "what the weights that rest are stored in; auto: bfloat16, float32 on CPU; int8, nf4: the layers' maps in 8 or 4 bits (QLoRA)",
        ("auto", "float32", "bfloat16", "int8", "nf4"),
    ),
}


def check(resolved: dict[str, Any]) -> Iterator[str]:
    """What adapters do not go with."""
    model = resolved["model"]
    if model["lora"] is None:
        return
    if model["trainable"] != "all":
        yield f"model.trainable={model['trainable']!r} trains a head alone, and model.lora adapters beside the heads; keep one of them."
    if resolved["data"]["add_tokens"]:
        tokens = resolved["data"]["add_tokens"]
        yield f"data.add_tokens={tokens!r}: model.lora trains no table, so these tokens would never be learned; leave one of the two out."
    if resolved["reference"]["rule"] == "soft":
        yield "reference.rule='soft' mixes weights, and a mixture of adapters is no adapter of their rank; with model.lora use 'hard'."
    if not model["lora"]["alpha"] > 0:
        yield "model.lora.alpha=0.0 turns the adapters off; give a number above 0, twice the rank is usual."


def stored(cfg: ConfigDict) -> dict[str, Any]:
    """What `models.build` takes of the section: the adapters, and what the weights that rest are stored in."""
    from jaxalign.models import model as models
    from jaxalign.training import runs

    section = cfg.model.lora
    if section is None:
        return {}
    dtype = models.dtype_of("auto").name if section.base_dtype == "auto" else section.base_dtype
    return {"lora": runs.lora_of(section.to_dict()), "base_dtype": dtype}
