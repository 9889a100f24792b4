"""A tokenizer's files to a `tokenizers.Tokenizer` and its settings, with the ids that transformers' AutoTokenizer gives.

A tokenizer.json whose class adds nothing of its own is read here, without transformers: it takes a twentieth of a second instead of
one, or ten where torch is installed. Every other format, and every class that rebuilds the tokenizer from its vocabulary, is read by
AutoTokenizer itself.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
from pathlib import Path
import tempfile

import tokenizers

from jaxalign import hub
from jaxalign.data.raw import notation
from jaxalign.paths import nearby

AGAIN = "Correct it, or copy it again from the checkpoint."
LOG = logging.getLogger(__name__)

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that take tokenizer.json as it is
# Model types whose own class AutoTokenizer takes although tokenizer_config.json names a generic one.
OWN_CLASS_ALWAYS = ("qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "hyperclovax_vision_v2", "siglip2")
# Model types without a class of their own: a tokenizer.json of theirs that names no class is generic.
NO_OWN_CLASS = ("llama", "mistral", "mixtral", "olmo2", "olmo3", "phi3", "granite", "stablelm", "smollm3", "gpt_oss", "falcon")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json", "chat_template.jinja")
SUFFIXES = (".json", ".model", ".tiktoken", ".txt", ".bpe")  # of the single files that hold a vocabulary
REASON = 300  # characters of what transformers gives as the reason
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "encoder.json", "tekken.json", "spiece.model", "tiktoken.model")
TRAINED = ("bos_token", "eos_token")  # special tokens that a run trains
NAMED = (*TRAINED, "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # those that transformers gives a name
TEMPLATE_FOLDER = "additional_chat_templates"  # of those that have another name than default
COMPANIONS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
LIBRARY_NAMES = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}  # GPT-2's own names -> those that transformers reads
HUB_FILES = ("tokenizer*", "*.model", "chat_template*", f"{TEMPLATE_FOLDER}/*", "vocab.*", "merges.txt", *SETTINGS, *VOCABULARIES)


@dataclasses.dataclass(frozen=True)
class Files:
    """What the files of a tokenizer hold."""

    model: tokenizers.Tokenizer
    special: dict[str, str]  # name as in a chat template, "bos_token", -> the token's text
    extra: tuple[str, ...]  # further special tokens, which have no name
    templates: dict[str, str]  # name -> chat template; "default" is the one for conversations without tools
    add_bos: bool | None  # what the settings specify; None: nothing


def locate(path: str | Path) -> Path:
    """The local file or folder of a tokenizer; a name of the form owner/name is fetched from (or found in the cache of) the hub.

    Raises:
      FileNotFoundError: there is neither.
    """
    local = hub.local(str(path), HUB_FILES)
    if not local.exists():
        raise FileNotFoundError(f"there is no tokenizer at {str(path)!r}; {nearby(local)}")
    return local


def read(path: Path) -> Files:
    """The tokenizer in a folder, or the one of a single vocabulary file with the settings that lie beside it.

    Raises:
      FileNotFoundError: the folder holds no vocabulary.
      ValueError: a file is damaged, or transformers cannot read it; the message names the file.
    """
    file = _vocabulary(path)
    folder = file.parent
    settings, config = read_json(folder / "tokenizer_config.json"), read_json(folder / "config.json")
    if file.suffix == ".json" and file.name not in COMPANIONS and file.name != "tekken.json" and _is_generic(settings, config):
        return _from_tokenizer_json(file, settings)
    return _from_library(file, settings, config)


def read_json(file: Path) -> dict:
    """The object in a json file; {} where there is no file.

    Raises:
      ValueError: the file is no json, or holds no object; the message names it.
    """
    if not file.is_file():
        return {}
    values = notation.read_file(file)
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds a {type(values).__name__}, not a JSON object; copy it again from the checkpoint.")
    return values


def _vocabulary(path):
    if path.is_file():
        if path.suffix not in SUFFIXES and not path.name.startswith("tokenizer.model"):
            raise ValueError(f"{path} is no tokenizer file; give a folder that holds one of {', '.join(VOCABULARIES)}, or one of them.")
        return path
    for name in VOCABULARIES:
        if (path / name).is_file():
            return path / name
    for pattern in ("*.tiktoken", "tokenizer.model.*"):
        for file in sorted(path.glob(pattern)):
            return file
    raise FileNotFoundError(f"{path} holds no tokenizer file ({', '.join(VOCABULARIES)}); give the folder that does.")


def _is_generic(settings, config):
    name, kind = settings.get("tokenizer_class") or config.get("tokenizer_class"), config.get("model_type")
    if settings.get("fix_mistral_regex"):
        return False
    return name in GENERIC and kind not in OWN_CLASS_ALWAYS or name is None and (kind is None or kind in NO_OWN_CLASS)


def _from_tokenizer_json(file, settings):
    try:
        model = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{file} is not a tokenizer.json that can be read: {error}. Copy it again from the checkpoint.") from error
    try:
        settings, listed = _listed_tokens(file.parent, settings)
        special, extra = _special_tokens(settings)
        known = {repr(token) for token in model.get_added_tokens_decoder().values()}
        tokens = [token for _, token in sorted(listed.items()) if repr(token) not in known]
        names = {token.content for token in model.get_added_tokens_decoder().values()} | {token.content for token in tokens}
        new = [(name, special[name].content) for name in TRAINED if name in special and special[name].content not in names]
        _warn_of_new(file, tuple(new))
        by_text = {token.content: token for token in listed.values()}
        for token in [*special.values(), *extra]:
            if token.content not in names:
                names.add(token.content)
                tokens.append(by_text.get(token.content, token))
        model.add_tokens(tokens)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"the special tokens in {file.parent / 'tokenizer_config.json'} cannot be read: {error}. {AGAIN}") from error
    named = {name: token.content for name, token in special.items()}
    return Files(model, named, tuple(token.content for token in extra), _templates(file.parent, settings), settings.get("add_bos_token"))


def _listed_tokens(folder, settings):
    # tokenizer_config.json lists the added tokens itself, or (older files) two files beside it do, which then win.
    if "added_tokens_decoder" in settings:
        return settings, {int(number): _token(token) for number, token in settings["added_tokens_decoder"].items()}
    settings = {**settings, **read_json(folder / "special_tokens_map.json")}
    special = {token.content for tokens in (_special_tokens(settings)[0].values(), _special_tokens(settings)[1]) for token in tokens}
    numbers = read_json(folder / "added_tokens.json")
    return settings, {
        number: tokenizers.AddedToken(text, special=text in special, normalized=text not in special) for text, number in numbers.items()
    }


def _special_tokens(settings):
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    named = {key: value for key, value in settings.items() if key.endswith("_token") and isinstance(value, (str, dict))}
    if wrong := [key for key in NAMED if not isinstance(settings.get(key), (str, dict, type(None)))]:
        raise ValueError(f"{wrong[0]}={settings[wrong[0]]!r} is no text of a token")
    if isinstance(extra, Mapping):
        named, extra = {**named, **extra}, ()
    if not isinstance(extra, (list, tuple)):
        raise ValueError(f"extra_special_tokens={extra!r} is no list of tokens")
    return {name: _token(token) for name, token in named.items()}, [_token(token) for token in extra]


@functools.cache  # the first time only, though a run loads its tokenizer several times
def _warn_of_new(file, tokens):
    if multiprocessing.parent_process() is None:
        for name, text in tokens:
            LOG.warning(
                "%s: %s=%r is not in the vocabulary; it is added as a new token, as transformers does, and no model has seen it. "
                "Correct the name in tokenizer_config.json, unless the model is to learn it.", file, name, text,
            )  # fmt: skip


def _token(token):
    if isinstance(token, str):
        return tokenizers.AddedToken(token, special=True)
    if not isinstance(token.get("content"), str):
        raise ValueError(f"{token!r} is no token: it has no content")
    values = {key: value for key, value in token.items() if key != "__type"}
    return tokenizers.AddedToken(**{"special": True, **values})


def _templates(folder, settings):
    # Files of their own replace what the settings hold; chat_template.json belongs to a processor and comes last.
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    own = {name: _text(file) for name, file in files.items() if file.is_file()}
    return (
        own
        or _named(settings.get("chat_template"), folder)
        or _named(read_json(folder / "chat_template.json").get("chat_template"), folder)
    )


def _text(file):
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}. {AGAIN}") from error


def _named(template, folder):
    if not template:
        return {}
    if isinstance(template, str):
        return {"default": template}
    try:
        named = dict(template) if isinstance(template, Mapping) else {entry["name"]: entry["template"] for entry in template}
    except (TypeError, KeyError):
        named = {"": None}
    if not all(isinstance(text, str) for text in (*named, *named.values())):
        raise ValueError(f"chat_template in {folder / 'tokenizer_config.json'} is neither a text nor a list of named templates. {AGAIN}")
    return named


def _from_library(file, settings, config):
    if file.suffix == ".tiktoken":
        raise ValueError(f"{file} is a vocabulary without its split pattern and special tokens; convert it to tokenizer.json first.")
    with tempfile.TemporaryDirectory() as folder:
        loaded = _auto_tokenizer(file, _linked(file, Path(folder), settings, config))
    model = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    if not model.encode("Hello", add_special_tokens=False).ids:
        raise ValueError(
            f"{file} gives no tokens as {type(loaded).__name__}; correct tokenizer_class in its config, or save it as tokenizer.json."
        )
    own = _named(loaded.chat_template, file.parent) or _templates(file.parent, {})
    extra = tuple(str(token) for token in loaded.extra_special_tokens or ())
    return Files(model, dict(loaded.special_tokens_map), extra, own, settings.get("add_bos_token"))


def _linked(file, folder, settings, config):
    # A folder with the one vocabulary under the name that transformers looks for, and the settings beside it.
    beside = [*SETTINGS, *([COMPANIONS[file.name]] if file.name in COMPANIONS else [])]
    for source in [file, *(file.with_name(name) for name in beside)]:
        if source.is_file():
            os.symlink(source.resolve(), folder / LIBRARY_NAMES.get(source.name, source.name))
        elif source.name in COMPANIONS.values():
            raise FileNotFoundError(f"{file} needs its {source.name} beside it; copy it there.")
    if (file.parent / TEMPLATE_FOLDER).is_dir():
        os.symlink((file.parent / TEMPLATE_FOLDER).resolve(), folder / TEMPLATE_FOLDER)
    named = settings.get("tokenizer_class") or config.get("tokenizer_class") or config.get("model_type")
    if file.name in COMPANIONS and not named:
        if file.name == "vocab.json":
            raise ValueError(f"{file} does not specify how text is split; name the tokenizer_class in a tokenizer_config.json beside it.")
        (folder / "tokenizer_config.json").unlink(missing_ok=True)
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "GPT2Tokenizer"}), encoding="utf-8")
    return folder


def _auto_tokenizer(file, folder):
    quiet = os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install torch, which is not needed
    import transformers  # slow to import, needed for these formats only

    if quiet == "1":
        os.environ.pop("TRANSFORMERS_NO_ADVISORY_WARNINGS", None)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # whatever a class of transformers raises on files that it cannot read
        reason = " ".join(str(error).split())[:REASON] or type(error).__name__
        raise ValueError(
            f"transformers cannot read the tokenizer {file}: {reason.rstrip('.')}. Correct its files, or save it as tokenizer.json."
        ) from error
    finally:
        transformers.logging.set_verbosity(level)
    if not loaded.is_fast:
        raise ValueError(
            f"{file} is read by {type(loaded).__name__}, which has no fast form; convert it to tokenizer.json with transformers first."
        )
    return loaded
