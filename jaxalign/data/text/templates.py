"""Chat templates: render a conversation to text with the model's own template, a built-in one, or a user's .jinja file.

The variables, filters and functions are those of Hugging Face chat templates, so that a tokenizer's own template renders to the same
text here. One thing differs on purpose: the date is fixed, because rows must not depend on the day on which they are made.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jinja2

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import sandbox
from jaxalign.paths import nearby, resolve

BUILT_IN = tuple(sorted(file.stem for file in (Path(__file__).parent / "chat").glob("*.jinja")))
DATE = "2024-07-26"  # the date that Llama 3's own template falls back to
UNRENDERED = ("weight",)  # keys of a message that are for training, not for the template

Message = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template with the special tokens that it may write. Equal templates render equally."""

    name: str
    text: str
    tool_text: str | None  # the template for conversations with tools, where they have one of their own
    tokens: tuple[tuple[str, str], ...]  # (variable, text of the token): ("bos_token", "<s>"), ...
    date: str  # YYYY-MM-DD, which strftime_now gives

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, tools: Sequence[Mapping] = (), thinking: bool | None = None
    ) -> str:
        """The text of a conversation, special tokens included.

        Args:
          tools: schemas of the functions that the model may call.
          thinking: the `enable_thinking` and `thinking` switches of reasoning models; None: not passed.

        Raises:
          RowError: the template refuses the conversation, fails, or does not end (rule "template").
        """
        text = self.tool_text if tools and self.tool_text is not None else self.text
        variables = {**dict(self.tokens), "messages": [_rendered(message) for message in messages]}
        variables |= {"add_generation_prompt": add_generation_prompt}
        variables |= {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        try:
            try:
                return sandbox.render(_compile(text, self.date), tools=list(tools) or None, documents=None, **variables)
            except TypeError:
                if tools:
                    raise
                # A template for tools alone goes through them unasked. Left undefined they are empty to it.
                return sandbox.render(_compile(text, self.date), **variables)
        except Exception as error:  # a template is a program that may raise anything
            reason = str(error) or type(error).__name__
            raise RowError("template", f"template {self.name!r} refuses the conversation: {reason}") from error


def load(name: str, *, own: Mapping[str, str], special: Mapping[str, str], writes_bos: bool, date: str = DATE) -> Template:
    """The template called `name`: "auto" is the tokenizer's, one of BUILT_IN, or the path of a .jinja file.

    A built-in template begins with BOS where the tokenizer itself writes one; any other template owns its special tokens.

    Args:
      own: name -> chat template of the tokenizer: "default", and "tool_use" where conversations with tools have one of their own.
      special: variable -> text of every special token of the tokenizer that has a name.

    Raises:
      ValueError: "auto" for a tokenizer that has no template, or a name that is none of the three, or text that is no jinja.
    """
    choices = f"use one of the built-in {', '.join(BUILT_IN)}, the path of a .jinja file, or 'plain'"
    tool_text = None
    if name == "auto":
        if "default" not in own:
            what = f"names its templates {', '.join(sorted(own))}, none of them default" if own else "has none"
            raise ValueError(
                f"template 'auto' is the tokenizer's chat template, but this tokenizer {what}; {choices}. For a base model, "
                "template='chatml' with data.add_tokens=('<|im_start|>', '<|im_end|>') adds the markers that it writes."
            )
        text, tool_text = own["default"], own.get("tool_use")
    elif name in BUILT_IN:
        text = (Path(__file__).parent / "chat" / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")
        special = special if writes_bos else {key: token for key, token in special.items() if key != "bos_token"}
    elif name.endswith((".jinja", ".jinja2", ".j2")):
        if not resolve(name).is_file():
            raise FileNotFoundError(f"there is no template file {name!r}; {nearby(resolve(name))}")
        try:
            text = resolve(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"template file {name!r} is not UTF-8 text ({error}); save it as UTF-8.") from error
    else:
        raise ValueError(f"there is no template {name!r}; {choices}, or 'auto'.")
    for source in (text, tool_text):
        try:
            _compile(source or "", date)
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            where = f"line {error.lineno}: {error.message}" if isinstance(error, jinja2.TemplateSyntaxError) else "it is nested too deep"
            raise ValueError(f"template {name!r} is not valid jinja: {where}.") from error
    return Template(name, text, tool_text, tuple(sorted(special.items())), date)


_compile = functools.lru_cache(maxsize=64)(sandbox.compiled)


def _rendered(message):
    # As transformers: no key whose value is None, and a thought under both names that templates read.
    shown = {key: value for key, value in message.items() if value is not None and key not in UNRENDERED}
    thought = shown.get("reasoning_content")
    return shown if thought is None else {"thinking": thought, **shown}
