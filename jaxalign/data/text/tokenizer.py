"""A tokenizer loaded from its files alone: text to ids and back, its special tokens, its chat template.

Neither transformers nor torch is imported: `tokenizers` runs the model, the settings are read from the Hugging Face json files.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import tokenizers

from jaxalign.data.text import tokenizer_files

LOG = logging.getLogger(__name__)
HUB_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab.json", "merges.txt", "*.tiktoken", "config.json")
SENTINELS = ("\n", "0", "|")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Ids never hold a special token that the text did not name: whoever builds a sequence adds BOS and EOS."""

    model: tokenizers.Tokenizer
    bos: str | None  # the token's text
    eos: str | None
    writes_bos: bool  # whether the tokenizer, left to itself, puts BOS first: what its model was trained with
    chat_template: str | None
    content: str  # hash of everything above
    adds_space: bool  # whether it puts a space before a text (sentencepiece), which a continuation must not have

    @property
    def bos_id(self) -> int | None:
        return None if self.bos is None else self.model.token_to_id(self.bos)

    @property
    def eos_id(self) -> int | None:
        return None if self.eos is None else self.model.token_to_id(self.eos)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.model.get_vocab_size(with_added_tokens=True)

    def special_ids(self) -> frozenset[int]:
        """Ids of the added tokens, which no ordinary text is split into."""
        return frozenset(self.model.get_added_tokens_decoder()) | ({self.bos_id, self.eos_id} - {None})

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence; no BOS, no EOS."""
        return self.model.encode(text, add_special_tokens=False).ids

    def encode_next(self, text: str) -> list[int]:
        """Ids of a text that goes on where another ended: as `encode`, without the space that sentencepiece puts in front."""
        if not self.adds_space or not text:
            return self.encode(text)
        for sentinel in SENTINELS:
            before, whole = self.encode(sentinel), self.encode(sentinel + text)
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        return self.model.decode(list(ids), skip_special_tokens=False)


def load(path: str | Path) -> Tokenizer:
    """The tokenizer in a folder (a checkpoint will do), in one tokenizer file, or under a name on the Hugging Face hub.

    Reads tokenizer.json, a sentencepiece BPE tokenizer.model, a GPT-2 vocabulary with merges, or a .tiktoken vocabulary.

    Raises:
      FileNotFoundError: there is no such folder and no such hub name, or no tokenizer file in it.
    """
    path = tokenizer_files.locate(path, hub_files=HUB_FILES)
    file = tokenizer_files.find(path)
    model, defaults = tokenizer_files.read_model(file)
    model.no_truncation()
    model.no_padding()
    settings = {**defaults, **_settings(file.parent, model)}
    bos, eos = settings.get("bos"), settings.get("eos")
    for token in (bos, eos):
        if token is not None and model.token_to_id(token) is None:
            raise ValueError(f"{file.parent} names the special token {token!r}, which is not in the vocabulary of {file.name}.")
    writes_bos = settings.get("add_bos")
    if writes_bos is None:
        writes_bos = bos is not None and model.encode("a").ids[:1] == [model.token_to_id(bos)]
    template = settings.get("chat_template")
    digest = hashlib.sha256(file.read_bytes())
    digest.update(json.dumps([bos, eos, bool(writes_bos), template]).encode())
    return Tokenizer(model, bos, eos, bool(writes_bos and bos), template, digest.hexdigest()[:16], _adds_space(model))


def _settings(folder, model):
    # Later files win: config.json is the model's, tokenizer_config.json the tokenizer's own.
    found = {}
    config = _json(folder / "config.json")
    for name in ("bos", "eos"):
        number = config.get(f"{name}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and model.id_to_token(number) is not None:
            found[name] = model.id_to_token(number)
    for values in (_json(folder / "special_tokens_map.json"), _json(folder / "tokenizer_config.json")):
        for name in ("bos", "eos"):
            if f"{name}_token" in values:
                token = values[f"{name}_token"]
                found[name] = token["content"] if isinstance(token, dict) else token
        if values.get("add_bos_token") is not None:
            found["add_bos"] = values["add_bos_token"]
        if values.get("chat_template"):
            found["chat_template"] = _default_template(values["chat_template"])
    for name in ("chat_template.jinja", "chat_template.json"):
        file = folder / name
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            found["chat_template"] = text if name.endswith(".jinja") else _default_template(json.loads(text)["chat_template"])
    return found


def _default_template(template):
    if isinstance(template, str):
        return template
    named = {entry["name"]: entry["template"] for entry in template}
    return named.get("default")


def _json(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _adds_space(model):
    def ids(text):
        return model.encode(text, add_special_tokens=False).ids

    for sentinel in SENTINELS:
        before, whole = ids(sentinel), ids(sentinel + "a")
        if whole[: len(before)] == before:
            return whole[len(before) :] != ids("a")
    return False
