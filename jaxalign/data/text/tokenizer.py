"""A tokenizer: text to ids and back, its special tokens, its chat templates; and the folder that transformers reads it from."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
import re

import tokenizers

from jaxalign.data.text import tokenizer_files

SENTINELS = ("\n", "0", "|")
CONTEXT_TOKENS = 8  # of the text before, which a continuation is encoded after; merges do not reach further back


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Ids never hold a special token that the text did not name: whoever builds a sequence adds BOS and EOS."""

    model: tokenizers.Tokenizer
    special: Mapping[str, str]  # name in a chat template ("bos_token") -> text of the token
    extra: tuple[str, ...]  # special tokens that have no name
    bos: str | None  # the token's text
    eos: str | None
    writes_bos: bool  # whether the tokenizer by itself puts BOS first: what its model was trained with
    templates: Mapping[str, str]  # name -> chat template: "default", and "tool_use" where tools have one of their own

    @functools.cached_property
    def content(self) -> str:
        """Hash of everything above: tokenizers that encode or render differently have different ones."""
        settings = [sorted(self.special.items()), self.extra, self.bos, self.eos, self.writes_bos, sorted(self.templates.items())]
        return hashlib.sha256((self.model.to_str() + json.dumps(settings)).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def chat_template(self) -> str | None:
        """The chat template for conversations without tools; None where there is none."""
        return self.templates.get("default")

    @functools.cached_property
    def bos_id(self) -> int | None:
        """Id of the BOS token."""
        return None if self.bos is None else self.model.token_to_id(self.bos)

    @functools.cached_property
    def eos_id(self) -> int | None:
        """Id of the EOS token."""
        return None if self.eos is None else self.model.token_to_id(self.eos)

    @functools.cached_property
    def unknown_id(self) -> int | None:
        """Id of the token that stands for whatever the vocabulary lacks."""
        return self.model.token_to_id(self.special["unk_token"]) if "unk_token" in self.special else None

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.model.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the added tokens, which no ordinary text is split into."""
        return frozenset(self.model.get_added_tokens_decoder()) | ({self.bos_id, self.eos_id} - {None})

    @functools.cached_property
    def special_pattern(self) -> re.Pattern:
        """Matches the text of any added token, the longest first."""
        return any_of(token.content for token in self.model.get_added_tokens_decoder().values())

    @functools.cached_property
    def control_pattern(self) -> re.Pattern:
        """Matches the text of any added token that is no part of a text: one that a decoder may skip."""
        return any_of(token.content for token in self.model.get_added_tokens_decoder().values() if token.special)

    @functools.cached_property
    def adds_space(self) -> bool:
        """Whether it puts a space before a text (sentencepiece), which a continuation must not have."""
        for sentinel in SENTINELS:
            before, whole = self.encode(sentinel), self.encode(sentinel + "a")
            if whole[: len(before)] == before:
                return whole[len(before) :] != self.encode("a")
        return False

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

    def encode_after(self, before: str, ids: Sequence[int], text: str) -> list[int]:
        """Ids of a text in its left context, the text `before` with its `ids`.

        They are what the tokenizer gives for the two texts together, cut where `before` ends. Where a token would span that place
        there is no such cut: the text is then encoded by itself, so that `ids` stay what a model is given at generation.
        """
        for context, known in self._contexts(before, ids):
            whole = self.encode(context + text)
            if whole[: len(known)] == known:
                return whole[len(known) :]
        return self.encode_next(text)

    def _contexts(self, before, ids):
        # The end of `before` as text and as ids, shortest first: from its last special token on, its last few tokens, all of it.
        tail = list(ids[-CONTEXT_TOKENS:])
        last = next((i for i in range(len(tail) - 1, -1, -1) if tail[i] in self.special_ids), None)
        if last is not None:
            start = before.rfind(self.model.id_to_token(tail[last]))
            if start >= 0:
                yield before[start:], tail[last:]
        elif len(ids) > CONTEXT_TOKENS:
            text = self.decode(tail)
            if before.endswith(text):
                head = SENTINELS[0] if self.adds_space else ""
                yield head + text, (self.encode(head) if head else []) + tail
        yield before, list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        return self.model.decode(list(ids), skip_special_tokens=False)

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text of ids that go on where the ids `before` end: as `decode`, with the space that sentencepiece leaves out in front."""
        sizes = (2, 3, 4, 5)  # a character that is written byte by byte has up to four tokens: it is not cut in two
        heads = [list(before[-size:]) for size in sizes]
        head = next((head for head in heads if not self.decode(head).startswith("\ufffd")), heads[0])
        start, whole = self.decode(head), self.decode([*head, *ids])
        return whole[len(start) :] if whole.startswith(start) else self.decode(ids)

    def with_added(self, tokens: Sequence[str]) -> "Tokenizer":
        """This tokenizer with further special tokens, whose ids follow the vocabulary's; added tokens that it has already stay as they are.

        A token that lies in the vocabulary unused, which no text is split into, keeps its id.

        Raises:
          ValueError: one is a token of ordinary text, which would then be split otherwise everywhere.
        """
        known = {token.content for token in self.model.get_added_tokens_decoder().values()}
        new = [token for token in dict.fromkeys(tokens) if token not in known]
        for token in new:
            place = self.model.token_to_id(token)
            if place is not None and place in (*self.encode(token), *self.encode_next(token)):
                raise ValueError(
                    f"data.add_tokens={tuple(tokens)!r}: {token!r} is an ordinary token of the vocabulary (id {place}); as a special one "
                    "it would change the tokens of every text that holds it. Name tokens that no text holds, like '<|im_start|>'."
                )
        if not new:
            return self
        model = tokenizers.Tokenizer.from_str(self.model.to_str())
        model.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in new])
        return dataclasses.replace(self, model=model, extra=(*self.extra, *(token for token in new if token not in self.extra)))


def load(path: str | Path) -> Tokenizer:
    """The tokenizer in a folder (a checkpoint will do), in one tokenizer file, or under a name on the Hugging Face hub.

    Every format that transformers' AutoTokenizer reads is read, except those without a fast form; ids, special tokens and templates
    are the library's. Where the settings name no BOS or EOS, config.json's ids do. A special token that the vocabulary lacks is added to
    it, as transformers does; a warning names a BOS or EOS of which that is true.

    Raises:
      FileNotFoundError: there is no such folder and no such hub name, or no tokenizer file in it.
      ValueError: a file is damaged, or a special token in it is no text; the message names it.
    """
    path = tokenizer_files.locate(path)
    files = tokenizer_files.read(path)
    model = files.model
    model.no_truncation()
    model.no_padding()
    config = tokenizer_files.read_json((path if path.is_dir() else path.parent) / "config.json")
    bos, eos = (files.special.get(f"{name}_token") or _configured(config, name, model) for name in ("bos", "eos"))
    writes_bos = files.add_bos
    if writes_bos is None:
        writes_bos = bos is not None and model.encode("a").ids[:1] == [model.token_to_id(bos)]
    return Tokenizer(model, files.special, files.extra, bos, eos, bool(writes_bos and bos), files.templates)


def save(tokenizer: Tokenizer, folder: str | Path, *, templates: Mapping[str, str] | None = None, eos: str | None = None) -> None:
    """Writes the tokenizer into a folder, so that transformers' AutoTokenizer encodes and renders as this one does.

    Args:
      templates: name -> chat template to write instead of the tokenizer's; "default" is the usual one.
      eos: the token that ends a turn as it was trained, to be named as eos_token; None: the tokenizer's own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder / "tokenizer.json"))
    named = {**{f"{name}_token": token for name, token in (("bos", tokenizer.bos), ("eos", eos or tokenizer.eos)) if token}}
    settings = {**tokenizer.special, **named, "tokenizer_class": tokenizer_files.GENERIC[0], "clean_up_tokenization_spaces": False}
    settings |= {"extra_special_tokens": list(tokenizer.extra)} if tokenizer.extra else {}
    settings["add_bos_token"] = tokenizer.writes_bos
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_templates(folder, tokenizer.templates if templates is None else templates)


def save_templates(folder: Path, templates: Mapping[str, str]) -> None:
    """Writes chat templates, name -> text, as the files that transformers reads."""
    for name, text in templates.items():
        file = folder / ("chat_template.jinja" if name == "default" else f"{tokenizer_files.TEMPLATE_FOLDER}/{name}.jinja")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


def any_of(texts: Iterable[str]) -> re.Pattern:
    """Matches any of these texts, the longest first; nothing where there are none."""
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def _configured(config, name, model):
    number = config.get(f"{name}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return model.id_to_token(number) if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**32 else None
