"""Reward models as Hugging Face sequence classifiers with one label: their classes, their config.json, and what their tokenizer needs.

Such a classifier is the family's base model and `score`, a linear map without a bias, read at the last token that is not padding. It has
no table of output tokens: its ModelConfig counts as tied, and nothing reads the embedding as that table.
"""

from collections.abc import Collection, Mapping
from typing import Any

SUFFIX = "ForSequenceClassification"
KIND, TENSOR = "linear", "score.weight"  # of `config.REWARD_HEADS`; the name of its weight in every family
LABEL = "LABEL_0"
_NAMES = {"gpt_neox": "GPTNeoX", "gpt2": "GPT2", "gemma3_text": "Gemma3Text"}  # of model types that are not simply capitalised


def class_of(model_type: str) -> str:
    """The class of transformers that loads a classifier of this model_type."""
    return _NAMES.get(model_type, model_type.title()) + SUFFIX


def reward_head(values: Mapping[str, Any]) -> str | None:
    """The kind of reward head that a parsed config.json describes; None for a language model.

    Raises:
      ValueError: a classifier with another number of labels than one.
    """
    names = values.get("architectures")
    if not isinstance(names, list) or not any(isinstance(name, str) and name.endswith(SUFFIX) for name in names):
        return None
    labels, count = values.get("id2label"), values.get("num_labels")
    where = f"id2label names {len(labels)}" if isinstance(labels, dict) else f"num_labels is {count!r}"
    if not isinstance(labels, dict) and count is None:
        where = "it has neither id2label nor num_labels, which means 2"  # the default of transformers
    if isinstance(count, bool) or (len(labels) if isinstance(labels, dict) else count) != 1:
        name = next(name for name in names if isinstance(name, str) and name.endswith(SUFFIX))
        raise ValueError(
            f"config.json describes a {name} that sorts texts by labels ({where}), and a reward model has one label, whose logit is the "
            "score. Choose a model with one label; or write num_labels: 1 without id2label where score.weight has one row."
        )
    return KIND


def config_keys(model_type: str) -> dict[str, Any]:
    """What a classifier's config.json has in place of that of its language model."""
    return {"architectures": [class_of(model_type)], "id2label": {"0": LABEL}, "label2id": {LABEL: 0}}


def pad_token(special: Mapping[str, str], ids: Mapping[str, int], ends: Collection[int]) -> str | None:
    """The token to fill up texts with: the tokenizer's own unless texts end in it, for then transformers reads the score before it.

    Else UNK or BOS, if it ends no text; None where there is none.

    Args:
      special: "pad_token" and other names of special tokens, and their texts.
      ids: the ids of these texts.
      ends: ids that a text ends in.
    """
    texts = [special[name] for name in ("pad_token", "unk_token", "bos_token") if special.get(name) in ids]
    return next((text for text in texts if ids[text] not in ends), None)
