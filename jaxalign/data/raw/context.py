"""What the model must see beside prompt and responses: a system text and tools. Media, which it cannot see, refuse the row.

The column names are those of public sets: `system` (orca_dpo_pairs, LLaMA-Factory), `system_prompt`, `tools` (transformers, xLAM; often
JSON text), `images`.
"""

from collections.abc import Mapping, Sequence

from jaxalign.data.raw import notation
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.messages import MEDIA, TOOLS, Message
from jaxalign.data.raw.records import EMPTY, Record

SYSTEM = ("system", "system_prompt")


def system_of(row: Record) -> str | None:
    """The system text of a row, None where it has none.

    Raises:
      RowError: it is no text, or two columns hold different ones.
    """
    texts = {name: row.get(name) for name in SYSTEM if row.get(name) not in EMPTY}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise RowError("system", f"{name} is {type(text).__name__} {str(text)[:40]!r}; it must be text, or left out with rename.")
    if len(set(texts.values())) > 1:
        raise RowError("system", f"the columns {' and '.join(texts)} differ; leave one of them out.")
    return next((text for text in texts.values() if text.strip()), None)


def with_system(prompt: str | tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """The prompt as a conversation that begins with the system text.

    Raises:
      RowError: it begins with another system text.
    """
    turns = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    if turns and turns[0]["role"] == "system":
        if turns[0]["content"].strip() != system.strip():
            raise RowError("system", "the conversation begins with another system text than the column system; leave one of them out.")
        return turns
    return ({"role": "system", "content": system}, *turns)


def tools_of(row: Record) -> tuple[dict, ...]:
    """The tools of a row as JSON schemas, () where it has none.

    Raises:
      RowError: they are no list of dicts with names.
    """
    tools: tuple[dict, ...] = ()
    for column in TOOLS:
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            try:
                value = notation.read(value)
            except RowError:
                raise
            except (ValueError, RecursionError) as error:
                raise RowError("tools", f"{column} is the text {value[:40]!r}, which is not valid JSON: {str(error)[:60]}.") from error
        if value in EMPTY or (isinstance(value, str) and not value.strip()):
            continue
        if tools:
            raise RowError("tools", f"the columns {' and '.join(TOOLS)} both hold tools; leave one of them out.")
        value = [value] if isinstance(value, Mapping) else value
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(_is_tool(tool) for tool in value):
            raise RowError("tools", f"{column} is {str(value)[:60]!r}; it must be a list of tools, each a dict with a name.")
        tools = tuple(dict(tool) for tool in value)
    return tools


def refuse_media(row: Record) -> None:
    """Raises RowError where a row has images, sound or film: the text alone would be another question."""
    for column in MEDIA:
        if row.get(column) not in EMPTY:
            raise RowError(column, f"the row has {column}, which a language model of text does not see; leave such rows out.")


def _is_tool(tool):
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)
