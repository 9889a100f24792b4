"""Chat templates: a conversation to text, as the model's own jinja file, a built-in one, or a file of the user says.

The jinja setting is that of Hugging Face chat templates (sandbox, trim_blocks, lstrip_blocks, loop controls, raise_exception,
strftime_now, tojson), so that a tokenizer's own template renders to the same text here.
"""

from collections.abc import Sequence
import dataclasses
import datetime
import functools
import json
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox

from jaxalign.data.raw.counts import RowError
from jaxalign.paths import nearby, resolve

BUILT_IN = tuple(sorted(file.stem for file in (Path(__file__).parent / "chat").glob("*.jinja")))
DATE = "2024-07-26"  # the date that Llama 3's own template falls back to

Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template with the special tokens that it may write. Equal templates render equally."""

    name: str
    text: str
    bos_token: str
    eos_token: str
    date: str  # YYYY-MM-DD; what strftime_now tells, so that the same rows render the same on every day

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The text of a conversation, special tokens included.

        Raises:
          RowError: the template refuses the conversation (rule "template").
        """
        try:
            return _compile(self.text, self.date).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise RowError("template", f"template {self.name!r} refuses the conversation: {error}") from error


def load(name: str, *, own: str | None, bos: str | None, eos: str | None, writes_bos: bool, date: str = DATE) -> Template:
    """The template called `name`: "auto" is `own` (the tokenizer's), one of BUILT_IN, or the path of a .jinja file.

    A built-in template begins with BOS where the tokenizer itself writes one; any other template owns its special tokens.

    Raises:
      ValueError: "auto" for a tokenizer that has no template, or a name that is none of the three, or text that is no jinja.
    """
    choices = f"use one of the built-in {', '.join(BUILT_IN)}, the path of a .jinja file, or 'plain'"
    if name == "auto":
        if own is None:
            raise ValueError(f"template 'auto' is the tokenizer's chat template, but this tokenizer has none; {choices}.")
        text = own
    elif name in BUILT_IN:
        text = (Path(__file__).parent / "chat" / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")
        bos = bos if writes_bos else None
    elif name.endswith((".jinja", ".jinja2", ".j2")):
        if not resolve(name).is_file():
            raise FileNotFoundError(f"there is no template file {name!r}; {nearby(resolve(name))}")
        text = resolve(name).read_text(encoding="utf-8")
    else:
        raise ValueError(f"there is no template {name!r}; {choices}, or 'auto'.")
    try:
        _compile(text, date)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"template {name!r} is not valid jinja: line {error.lineno}: {error.message}.") from error
    return Template(name, text, bos or "", eos or "", date)


class _Generation(jinja2.ext.Extension):
    """Renders {% generation %} ... {% endgeneration %} as its body: spans are found by rendering prefixes instead."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=64)
def _compile(text: str, date: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    day = datetime.datetime.fromisoformat(date)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = day.strftime
    return environment.from_string(text)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    # jinja's own filter escapes <, > and & for HTML, which would change the text that the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message):
    raise jinja2.TemplateError(message)
