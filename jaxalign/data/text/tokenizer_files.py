"""Finding a tokenizer's files and turning every vocabulary format into a `tokenizers.Tokenizer`."""

import base64
from collections.abc import Sequence
import json
from pathlib import Path
import struct

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxalign.paths import nearby, resolve

# Qwen 2's split pattern and special tokens, as its tokenizer_config.json publishes them.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "encoder.json")
BYTE = 6  # sentencepiece's ModelProto.SentencePiece.Type
CONTROL = (2, 3, 4)  # unknown, control, user defined


def locate(path: str | Path, *, hub_files: Sequence[str]) -> Path:
    """The local file or folder of a tokenizer; a name of the form owner/name is fetched from (or found in the cache of) the hub."""
    local = resolve(str(path))
    if local.exists():
        return local
    name = str(path)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download  # slow to import, needed for hub names only
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, allow_patterns=list(hub_files)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise FileNotFoundError(
                f"tokenizer {name!r} is neither a local folder nor to be had from the Hugging Face hub ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}). Check the name, log in for a gated model, or give a local folder."
            ) from error
    raise FileNotFoundError(f"there is no tokenizer at {name!r}; {nearby(local)}")


def find(path: Path) -> Path:
    """The vocabulary file of a folder, the most complete format first; a file is itself."""
    if path.is_file():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    for file in sorted(path.glob("*.tiktoken")):
        return file
    raise FileNotFoundError(f"{path} holds no tokenizer file ({', '.join(FILES)} or *.tiktoken); give the folder that does.")


def read_model(file: Path) -> tuple[tokenizers.Tokenizer, dict]:
    """The tokenizer of a vocabulary file, and what the format says about "bos", "eos" and "add_bos" (json files say nothing)."""
    if file.suffix == ".tiktoken":
        return _from_tiktoken(file)
    if file.name in ("vocab.json", "encoder.json"):
        merges = next((file.with_name(name) for name in ("merges.txt", "vocab.bpe") if file.with_name(name).is_file()), None)
        if merges is None:
            raise FileNotFoundError(f"{file} needs its merges.txt or vocab.bpe beside it; copy it there.")
        return _from_gpt2(file, merges)
    if file.suffix == ".json":
        return tokenizers.Tokenizer.from_file(str(file)), {}
    return _from_sentencepiece(file)


def _byte_level(vocab, merges, split, special):
    model = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    model.pre_tokenizer = split
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    return model


def _from_gpt2(vocab_file, merges_file):
    vocab = json.loads(vocab_file.read_text(encoding="utf-8"))
    lines = merges_file.read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    end = "<|endoftext|>"
    model = _byte_level(vocab, merges, pre_tokenizers.ByteLevel(add_prefix_space=False), [end] if end in vocab else [])
    return model, {"bos": end, "eos": end, "add_bos": False} if end in vocab else {}


def _from_tiktoken(file):
    alphabet = bytes_to_unicode()
    ranks = {}
    for line in file.read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            left, right = _last_merge(ranks, token, rank)
            merges.append((rank, left, right))
    merges.sort()

    def text(token):
        return "".join(alphabet[byte] for byte in token)

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocab = {text(token): rank for token, rank in ranks.items()}
    model = _byte_level(vocab, [(text(left), text(right)) for _, left, right in merges], split, QWEN_SPECIAL)
    model.normalizer = normalizers.NFC()
    return model, {"eos": QWEN_SPECIAL[0]}


def _last_merge(ranks, token, rank):
    # Byte-pair encoding of the token by the merges older than itself leaves the two parts that its own merge joins.
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
        best, i = min(pairs)
        if best >= rank:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    if len(parts) != 2:
        raise ValueError(f"the vocabulary has the token {token!r} (rank {rank}) that none of its merges makes; the file is damaged.")
    return parts


def bytes_to_unicode() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary: itself, or 256 and up in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def _from_sentencepiece(file):
    pieces, is_bpe, dummy_prefix = _read_sentencepiece(file.read_bytes())
    if not is_bpe:
        raise ValueError(f"{file} is a unigram sentencepiece model; only BPE ones are read. Convert it to tokenizer.json first.")
    vocab = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    score = {piece: value for piece, value, kind in pieces if kind == 1}
    merges = []
    for piece in score:
        for cut in range(1, len(piece)):
            if piece[:cut] in vocab and piece[cut:] in vocab:
                merges.append((-score[piece], vocab[piece[:cut]], vocab[piece[cut:]], piece[:cut], piece[cut:]))
    merges.sort()
    unknown = next((piece for piece, _, kind in pieces if kind == 2), None)
    byte_fallback = any(kind == BYTE for _, _, kind in pieces)
    model = tokenizers.Tokenizer(
        models.BPE(vocab, [merge[3:] for merge in merges], unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
    )
    space = [normalizers.Prepend("▁")] if dummy_prefix else []
    model.normalizer = normalizers.Sequence([*space, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if dummy_prefix else []
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = [piece for piece, _, kind in pieces if kind in CONTROL]
    model.add_special_tokens([tokenizers.AddedToken(piece, special=True, normalized=False) for piece in special])
    found = {name: token for name, token in (("bos", "<s>"), ("eos", "</s>")) if token in special}
    return model, {**found, "add_bos": "<s>" in special}


def _read_sentencepiece(data):
    # ModelProto: 1 = pieces (1 text, 2 score, 3 type), 2 = trainer settings (3 model type), 3 = normalizer settings (3 dummy prefix).
    pieces, is_bpe, dummy_prefix = [], False, True
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0], piece.get(3, 1)))
        elif number == 2:
            is_bpe = dict(_fields(value)).get(3, 1) == 2
        elif number == 3:
            dummy_prefix = bool(dict(_fields(value)).get(3, 1))
    return pieces, is_bpe, dummy_prefix


def _fields(data):
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
