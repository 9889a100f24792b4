"""The tokenizer as a run trained with it: vocabulary, added tokens, chat template, and the tokens at which generation stops."""

import json
import os
from pathlib import Path
import shutil

from jaxalign.data.raw.notation import read_file
from jaxalign.data.text import render
from jaxalign.data.text import tokenizer as tokenizers
from jaxalign.data.text.renderer import Renderer
from jaxalign.data.text.tokenizer_files import read_json
from jaxalign.hf import classifiers
from jaxalign.hf.save import carry

GENERATION = "generation_config.json"
# The line break after the first tag is one that jinja takes away.
BARE = "{{% set whole %}}\n{text}{{% endset %}}{{{{ whole if add_generation_prompt else whole.rstrip() }}}}"
TEMPLATES = ("chat_template.jinja", "chat_template.json", "chat_templates", "additional_chat_templates")


def write(folder: Path, renderer: Renderer, *, source: str | Path, all_turns: bool) -> None:
    """Writes the folder anew, whole or not at all, so that transformers encodes, renders and stops as in training.

    Args:
      source: folder or file that the renderer's tokenizer comes from, whose other generation settings are kept.
      all_turns: turns in the middle of a conversation were trained too, and with them the token that ends one.
    """
    source = Path(source) if Path(source).is_dir() else Path(source).parent
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    templates = _templates(renderer)
    if (source / "tokenizer.json").is_file() and renderer.tokenizer.model.to_str() == tokenizers.load(source).model.to_str():
        carry(partial, source)
        if templates is not None:
            _replace_templates(partial, templates)
    else:
        tokenizers.save(renderer.tokenizer, partial, templates=templates)
    (partial / GENERATION).write_text(json.dumps(_generation(renderer, source, all_turns), indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _templates(renderer: Renderer) -> dict[str, str] | None:
    """Name -> template as it was trained; None where the tokenizer's own was used, or none."""
    chat = renderer.template
    if chat is None or chat.name == "auto":
        return None
    # The library gives a template every special token; one that was trained without BOS must go on without it.
    without_bos = "bos_token" in renderer.tokenizer.special and "bos_token" not in dict(chat.tokens)
    head = "{%- set bos_token = '' -%}\n" if without_bos and "bos_token" in chat.text else ""
    return {"default": head + chat.text} | ({} if chat.tool_text is None else {"tool_use": head + chat.tool_text})


def _replace_templates(folder: Path, templates: dict[str, str]) -> None:
    for name in TEMPLATES:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    settings = folder / "tokenizer_config.json"
    values = read_file(settings) if settings.is_file() else {}
    values.pop("chat_template", None)
    settings.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tokenizers.save_templates(folder, templates)


def for_classifier(folder: Path) -> None:
    """Makes the files of a classifier's folder such that transformers reads the score of a text where it was trained: at its stop token.

    Texts are filled up with a token that ends none of them, and the chat template leaves out the blanks that it writes after the last stop
    token of a conversation.
    """
    tokenizer, config = tokenizers.load(folder), folder / "config.json"
    named = [values.get("eos_token_id") for values in _settings(folder)]
    ends = {tokenizer.eos_id, *(number for one in named for number in (one if isinstance(one, list) else [one]))}
    ids = {text: tokenizer.model.token_to_id(text) for text in tokenizer.special.values()}
    pad = classifiers.pad_token(tokenizer.special, ids, ends)
    values = {key: value for key, value in read_file(config).items() if key != "pad_token_id"}
    if pad is not None:
        values["pad_token_id"] = ids[pad]
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (file := folder / name).is_file():
                file.write_text(json.dumps({**read_file(file), "pad_token": pad}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if tokenizer.chat_template is not None:
        whole = render.make(tokenizer, template="auto").template.render(render.PROBE[1:], add_generation_prompt=False)
        if whole != whole.rstrip():
            _replace_templates(folder, {name: BARE.format(text=text) for name, text in tokenizer.templates.items()})


def stop_ids(renderer: Renderer, folder: str | Path) -> tuple[int, ...]:
    """The tokens after which a model stops: those that its template ends a last turn with, and those that its folder names."""
    return tuple(_ends(renderer, _settings(Path(folder)), all_turns=False))


def _settings(folder):
    return [read_json(folder / name) for name in (GENERATION, "config.json")]


def _ends(renderer, settings, all_turns):
    stops = renderer.stops
    ends = [stops.last, stops.call, stops.middle if all_turns else None, renderer.tokenizer.eos_id]
    for values in settings:
        named = values.get("eos_token_id")
        ends += named if isinstance(named, list) else [named]
    return list(dict.fromkeys(number for number in ends if isinstance(number, int)))


def _generation(renderer: Renderer, source: Path, all_turns: bool) -> dict:
    """The generation settings of the source with the trained tokens first among those that end a text."""
    known = _settings(source)
    tokenizer, ids = renderer.tokenizer, _ends(renderer, known, all_turns)
    settings = {key: value for key, value in known[0].items() if key != "_from_model_config"}
    settings |= {"eos_token_id": ids if len(ids) > 1 else ids[0]}
    for name, token in (("bos_token_id", tokenizer.bos), ("pad_token_id", tokenizer.special.get("pad_token"))):
        number = next((values[name] for values in known if values.get(name) is not None), None)
        if number is None and token is not None:
            number = tokenizer.model.token_to_id(token)
        if number is not None:
            settings[name] = number
    return settings
