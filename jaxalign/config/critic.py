"""The critic of a configuration: on the policy's decoder, or on one of its own that starts from model.critic_checkpoint."""

from typing import Any

from ml_collections import ConfigDict

from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.models.model import CRITIC, DECODER, REWARD_HEAD, Model
from jaxalign.training.sources import Source


def described(cfg: ConfigDict, policy: ModelConfig) -> dict[str, Any]:
    """What `models.build` needs of the critic; nothing is read but config.json.

    Raises:
      ValueError: the critic's own decoder has another number of tokens, or fewer positions, than the policy of this config.
    """
    name = cfg.model.critic_checkpoint
    if name is None:
        return {"critic": cfg.model.critic}
    source = Source(name)
    own = source.critic_decoder or source.decoder()
    if own.vocab_size != policy.vocab_size:
        raise ValueError(
            f"model.critic_checkpoint={name!r} has {own.vocab_size:,} tokens in its vocabulary and the policy {policy.vocab_size:,}: the "
            "critic reads the policy's tokens, so choose one with the same tokenizer."
        )
    needed = min(policy.max_positions, cfg.data.row_tokens or policy.max_positions)
    if own.max_positions < needed:
        raise ValueError(
            f"model.critic_checkpoint={name!r} has {own.max_positions:,} positions, and texts may have {needed:,}; lower "
            "data.row_tokens, or choose another one."
        )
    return {"critic": cfg.model.critic, "critic_config": own}


def kept(cfg: ConfigDict, source: Source) -> str | None:
    """The kind of the critic of model.checkpoint that goes on in this run; None where it has none, another one, or one is named."""
    apart = cfg.model.critic_checkpoint is not None or source.critic_decoder is not None
    return source.critic if source.critic == cfg.model.critic and not apart else None


def begun(cfg: ConfigDict, model: Model, params: dict[str, Any]) -> dict[str, Any]:
    """params with the weights of model.critic_checkpoint in the critic's own decoder; params as they are where that is None.

    A reward model with a head of the critic's kind gives it too: its scores are where values start. The separate critic of a run goes on.
    """
    if cfg.model.critic_checkpoint is None:
        return params
    source, head = Source(cfg.model.critic_checkpoint), params[CRITIC]
    if source.critic_decoder is not None:
        _, theirs, _ = source.restore()
        return {**params, CRITIC: theirs[CRITIC] if source.critic == cfg.model.critic else {**head, DECODER: theirs[CRITIC][DECODER]}}
    scores = source.reward_head if source.reward_head == cfg.model.critic else None
    theirs = source.load(models.build(source.decoder(), reward_head=scores))
    decoder = {name: theirs[name] for name in model.critic_decoder.shapes}
    heads = {name: {**head[name], **tree} for name, tree in theirs.get(REWARD_HEAD, {}).items()}
    return {**params, CRITIC: {**head, **heads, DECODER: decoder}}
