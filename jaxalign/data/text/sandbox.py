"""The jinja environment of chat templates: the setting of Hugging Face templates, in which no template runs or grows without bound.

A template is a program that somebody else wrote. Loops and calls are counted, and texts are measured wherever a template joins or
repeats them, so that the same template is refused on every machine, whatever its speed.
"""

import datetime
import functools
import json
import re
import types

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.visitor

MOST_STEPS = 2_000_000  # loop steps and calls of one rendering; a conversation of 1,000 turns takes about 20,000
MOST_CHARACTERS = 50_000_000  # of one text that a template makes
MOST_ITEMS = 300_000  # of lists within lists that become a text or are compared, each as often as it stands there
STEP_SIZE = 1_000  # characters or items of what a call or a filter makes that count as a step
WIDTH = re.compile(r"\d{6,}")  # in a format such as %9999999d
WIDENING = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "to_bytes")  # take a width
PASSING = ("attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "random", "reject", "rejectattr")
PASSING += ("reverse", "select", "selectattr", "slice")  # filters that pass items on, or count them, and look into none


class Unbounded(jinja2.TemplateError):
    """A template that does not end, or whose text does not."""


def compiled(text: str, date: str) -> jinja2.Template:
    """The template of a text. `strftime_now` gives `date` (YYYY-MM-DD) on every day, so that rows do not depend on the day.

    Raises:
      jinja2.TemplateSyntaxError: the text is no jinja.
    """
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation], finalize=_counted)
    environment.filters["tojson"] = _to_json
    environment.filters.update({name: environment.bounded(name, function) for name, function in environment.filters.items()})
    compared = {name: function for name, function in environment.tests.items() if function.__module__ == "_operator" or name == "in"}
    environment.tests.update({name: lambda *sides, function=function: function(*_counted(sides)) for name, function in compared.items()})
    del environment.globals["lipsum"]
    environment.filters["_steps"] = environment.steps
    environment.filters["_joined"] = lambda parts: environment.concat(str(part) for part in _counted(parts))
    environment.filters["_counted"] = _counted
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = datetime.datetime.fromisoformat(date).strftime
    return environment.from_string(text)


def render(template: jinja2.Template, **variables) -> str:
    """The text of a compiled template.

    Raises:
      Exception: whatever the template raises, an `Unbounded` where it exceeds a limit above.
    """
    template.environment.taken = 0
    return template.render(**variables)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    taken = 0  # steps of this rendering so far

    def step(self, count=1):
        self.taken += count
        if self.taken > MOST_STEPS:
            raise Unbounded(f"it takes more than {MOST_STEPS:,} steps")

    def steps(self, items):
        for item in items:
            self.step()
            yield item

    def _parse(self, source, name, filename):
        return _Bounded().visit(super()._parse(source, name, filename))

    def call(self, context, function, /, *args, **kwargs):
        self.step()
        method = getattr(function, "__wrapped__", function)  # jinja wraps str.format
        owner = getattr(method, "__self__", None)
        if method is _raise or isinstance(owner, (str, list, tuple, dict)):
            _counted([args, kwargs, owner if isinstance(owner, (list, tuple)) else None])
        _check_arguments(getattr(method, "__name__", ""), [owner, *args, *kwargs.values()])
        return self.measured(super().call(context, function, *args, **kwargs))

    def getitem(self, obj, argument):
        return super().getitem(obj, _counted(argument))

    def bounded(self, name, function):
        """The filter with its arguments looked at first, and counted as a call."""

        @functools.wraps(function)  # also what jinja has to give it: the context, the environment
        def filter(*args, **kwargs):
            self.step()
            args = [list(x) if name == "join" and isinstance(x, types.GeneratorType) else x for x in args]
            if name not in PASSING:
                _counted([args, kwargs])
            _check_arguments(name, [*args, *kwargs.values()])
            return self.measured(function(*args, **kwargs))

        return filter

    def measured(self, made):
        """What a call has made, after counting steps for its size; items that are made one by one are counted as they come."""
        if isinstance(made, (str, list, tuple, range)):
            _check_size(len(made))
            self.step(len(made) // STEP_SIZE)
        return self.steps(made) if isinstance(made, types.GeneratorType) else made

    def call_binop(self, context, operator, left, right):
        if operator == "+" and isinstance(left, (str, list, tuple)):
            _check_size(len(left) + (len(right) if isinstance(right, (str, list, tuple)) else 0))
        elif operator == "*":
            sizes = [len(side) if isinstance(side, (str, list, tuple)) else abs(side) for side in (left, right)]
            _check_size(sizes[0] * sizes[1] if any(isinstance(side, (str, list, tuple)) for side in (left, right)) else 0)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * max(right, 0))
        elif operator == "%" and isinstance(left, str):
            _counted(right)
            starred = [x for x in right if isinstance(x, int)] if "*" in left and isinstance(right, tuple) else []
            _check_size(max([int(width) for width in WIDTH.findall(left)] + starred, default=0))
        return super().call_binop(context, operator, left, right)

    def concat(self, parts):
        parts = list(parts)
        _check_size(sum(map(len, parts)))
        return "".join(parts)


def _check_arguments(name, arguments):
    """Refuses what would make more of its arguments, the text of a method among them, than a text may be."""
    texts, numbers = ([x for x in arguments if isinstance(x, kind)] for kind in (str, int))
    if name in WIDENING:
        breaks = sum(text.count("\n") + text.count("\t") for text in texts)
        _check_size(max(numbers, default=0) * (1 + breaks))
    elif name == "format" and texts:
        _check_size(max((int(width) for width in WIDTH.findall(texts[0])), default=0))
    elif name == "replace" and len(texts) == 3:
        _check_size(len(texts[0]) + texts[0].count(texts[1]) * len(texts[2]))
    elif name == "join":
        items = [item for x in arguments if isinstance(x, (list, tuple)) for item in x]
        _check_size(sum(len(item) for item in items if isinstance(item, str)) + len(items) * sum(map(len, texts)))


def _counted(value):
    """The value, where neither its items, those of the lists in it among them, nor the texts in them are too many for a text."""
    if not isinstance(value, (list, tuple, dict)):
        return value
    rest, items, characters = [value], 0, 0
    while rest:
        one = rest.pop()
        if isinstance(one, (list, tuple, dict)):
            items += len(one)
            if items > MOST_ITEMS:
                raise Unbounded(f"it makes a text of, or compares, more than {MOST_ITEMS:,} items")
            rest += [*one, *one.values()] if isinstance(one, dict) else one
        elif isinstance(one, str):
            characters += len(one)
    _check_size(characters)
    return value


def _check_size(size):
    if size > MOST_CHARACTERS:
        raise Unbounded(f"it makes a text or number of {size:,} characters, more than {MOST_CHARACTERS:,}")


class _Generation(jinja2.ext.Extension):
    """Renders {% generation %} ... {% endgeneration %} as its body: what is trained is found by rendering prefixes instead."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounded(jinja2.visitor.NodeTransformer):
    """Passes the items of every loop through `_steps`, the parts of "a ~ b" through `_joined`, what is compared through `_counted`."""

    def visit_For(self, node):
        self.generic_visit(node)
        node.iter = jinja2.nodes.Filter(node.iter, "_steps", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node):
        self.generic_visit(node)
        return jinja2.nodes.Filter(jinja2.nodes.List(node.nodes, lineno=node.lineno), "_joined", [], [], None, None, lineno=node.lineno)

    def visit_Compare(self, node):
        self.generic_visit(node)
        for side in (node, *node.ops):
            side.expr = self._count(side.expr)
        return node

    def visit_Pair(self, node):
        self.generic_visit(node)
        node.key = self._count(node.key)
        return node

    def _count(self, node):
        if isinstance(node, jinja2.nodes.Const):
            return node
        return jinja2.nodes.Filter(node, "_counted", [], [], None, None, lineno=node.lineno)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    _check_size(STEP_SIZE * (indent if isinstance(indent, int) else len(indent or "")))  # stands before each of many items
    # jinja's own filter escapes <, > and & for HTML, which would change the text that the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message):
    raise jinja2.TemplateError(message)
