"""The section model.lora: low-rank adapters that are trained in the place of the model's own weights."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from jaxalign.config.schema import Field
from jaxalign.hparams import REQUIRED

FRESH, GOES_ON = "fresh", "checkpoint"

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
    "start": Field(
        (str,),
        FRESH,
        "fresh: new adapters, on a model.checkpoint into which its own are merged; checkpoint: those of model.checkpoint, a folder of peft "
        "or a run with adapters, are trained on, and the reference starts with a copy of them",
        (FRESH, GOES_ON),
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
        alpha, way = resolved["reference"].get("alpha"), "train all weights, or use 'hard', which is exact"
        if isinstance(alpha, float) and 0 < alpha <= 1:
            way += f" and lags behind the policy as much with a reference.every_* {2 / alpha - 1:.3g} times as long"
        yield (
            "reference.rule='soft' mixes the weights of policy and reference: a mixture of their A and of their B has another product than "
            f"the mixture of the products A B, whose rank grows with every move, so it is no adapter; {way}."
        )
    if model["lora"]["start"] == GOES_ON and model["checkpoint"] is None:
        yield "model.lora.start='checkpoint' trains adapters on that are there already; name them with model.checkpoint."
    if not model["lora"]["targets"]:
        yield "model.lora.targets=() adapts no map; '*' is all of them, or leave model.lora out to train all weights."
    if not model["lora"]["alpha"] > 0:
        yield "model.lora.alpha=0.0 turns the adapters off; give a number above 0, twice the rank is usual."


def goes_on(cfg: ConfigDict) -> bool:
    """Whether the adapters that model.checkpoint has are trained on."""
    return cfg.model.lora is not None and cfg.model.lora.start == GOES_ON


def unlike(ours: ConfigDict, earlier: ConfigDict) -> Iterator[str]:
    """What is wrong with training the adapters of an earlier stage on, as the end of a sentence."""
    if earlier.model.lora is None:
        yield "which trains no adapters; give it a section model.lora too, or leave start out for new ones"
        return
    for key in ("rank", "alpha", "rank_stabilised", "targets"):
        if ours.model.lora[key] != earlier.model.lora[key]:
            yield f"whose {key} is {earlier.model.lora[key]!r} and not {ours.model.lora[key]!r}; set the same in both"
    if not same_base(ours.model.lora.base_dtype, earlier.model.lora.base_dtype):
        yield (
            f"whose base_dtype is {earlier.model.lora.base_dtype!r} and not {ours.model.lora.base_dtype!r}: adapters make up for what the "
            "codes of their base have lost; set the same in both"
        )


def same_base(one: str, other: str) -> bool:
    """Whether weights that are stored so are the same but for rounding: codes of 8 and 4 bits are not."""
    return one == other or not {one, other} & {"int8", "nf4"}
