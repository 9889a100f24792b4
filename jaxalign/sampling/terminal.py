"""A conversation in a terminal, or through a pipe: lines in, answers out as they grow, of one model or of two side by side."""

from collections.abc import Iterator, Sequence
import contextlib
import itertools
import sys
import unicodedata

from jaxalign.sampling.conversation import Talker

COMMANDS = {
    "/undo": "takes back the last line and its answer",
    "/again": "answers the last line anew",
    "/reset": "begins a new conversation",
    "/system": "TEXT begins a new conversation with this system message",
    "/help": "shows this",
    "/quit": "leaves, as Ctrl-D does",
}
HELP = "\n".join(
    (
        *(f"  {name:8} {meaning}" for name, meaning in COMMANDS.items()),
        "  Ctrl-C ends an answer. A line that ends in \\ goes on in the next one; a line that begins with // begins with /.",
    )
)
CUT = {"length": "cut at --max-new-tokens", None: "interrupted"}  # where the model did not end its answer itself


class Chat:
    """Reads lines from standard input, answers them on standard output, and says what else there is on standard error."""

    def __init__(self, talkers: Sequence[Talker], *, seed: int):
        self._talkers, self._first_seed, self._seed = talkers, seed, seed
        self._failed = False

    def run(self) -> bool:
        """Talks until the input ends; whether every line was answered."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  its import gives `input` a history and keys to edit a line
        for talker in self._talkers:
            how = f"with template {talker.template!r}" if talker.template else "continues texts: it has no chat template"
            self._say(f"{talker.name} {how}.")
        self._say("/help lists the commands.")
        while (line := self._line()) is not None:
            if not self._obeys(line):
                self._answer(line.removeprefix("/") if line.startswith("//") else line)
        return not self._failed

    def _line(self) -> str | None:
        """The next line of a person; None: the input ends."""
        parts: list[str] = []
        while not parts or parts[-1].endswith("\\"):
            prompt = "" if not sys.stdin.isatty() else "... " if parts else "> "
            try:
                parts.append(input(prompt))
            except EOFError:
                return None
            except KeyboardInterrupt:
                self._say("\nCtrl-D or /quit leaves.")
                parts.clear()
        line = "\n".join(part.removesuffix("\\") for part in parts)
        return None if line.strip() == "/quit" else line

    def _obeys(self, line: str) -> bool:
        """Does what a command asks for; whether there is nothing left to answer."""
        name, _, rest = line.partition(" ")
        if not line.startswith("/") or line.startswith("//"):
            return not line.strip() and not any(talker.goes_on for talker in self._talkers)
        if name not in COMMANDS or (rest.strip() and name != "/system"):
            self._fail(f"{line!r} is no command; /help lists them, and // begins a line with /.")
        elif name == "/help":
            self._say(HELP)
        elif name == "/system" and not all(talker.template for talker in self._talkers):
            self._fail("a system message needs a chat template; give --template.")
        elif name in ("/reset", "/system"):
            for talker in self._talkers:
                talker.turns.clear()
                talker.system = (rest or None) if name == "/system" else talker.system
            self._seed = self._first_seed
        elif not any(talker.turns for talker in self._talkers):
            self._fail(f"{name}: nothing has been said yet.")
        else:
            last = next(talker.turns[-1].line for talker in self._talkers if talker.turns)
            for talker in self._talkers:
                del talker.turns[-1:]
            if name == "/again":
                self._seed = (self._seed + 1) % 2**32
                self._answer(last)
        return True

    def _answer(self, line: str) -> None:
        before = [len(talker.turns) for talker in self._talkers]
        answers = [talker.answers(line, seed=self._seed) for talker in self._talkers]
        try:
            with contextlib.suppress(KeyboardInterrupt):  # what was said until then is part of the conversation
                self._show(answers)
            for answer in answers:
                answer.close()
        except ValueError as error:
            self._fail(str(error))
        if any(len(talker.turns) == count for talker, count in zip(self._talkers, before, strict=True)):
            for talker, count in zip(self._talkers, before, strict=True):
                del talker.turns[count:]
            self._say("[the line was not answered, and is taken back]")
            return
        print(flush=True)
        for talker in self._talkers:
            if talker.why in CUT:
                self._say(f"[{f'{talker.name}: ' if len(self._talkers) > 1 else ''}{CUT[talker.why]}]")

    def _show(self, answers: list[Iterator[str]]) -> None:
        if len(answers) == 1:
            _print_growing(answers[0])
        elif sys.stdout.isatty():
            side_by_side([talker.name for talker in self._talkers], answers)
        else:
            for i, (talker, answer) in enumerate(zip(self._talkers, answers, strict=True)):
                print("\n\n" * (i > 0) + f"[{talker.name}]", flush=True)
                _print_growing(answer)

    def _fail(self, message: str) -> None:
        self._failed = True
        self._say(message)

    def _say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def side_by_side(names: Sequence[str], answers: Sequence[Iterator[str]]) -> None:
    """Shows growing answers in columns with these names; what is higher than the window is shown whole at the end."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    console, texts = Console(), [""] * len(names)

    def table(last_lines: int | None) -> Table:
        columns = Table(expand=True)
        for name in names:
            columns.add_column(Text(name), ratio=1)
        width = max(1, (console.width - 1) // len(names) - 3)
        wrapped = [Text(printable(text)).wrap(console, width) for text in texts]
        columns.add_row(*(Text("\n").join(lines[-last_lines:] if last_lines else lines) for lines in wrapped))
        return columns

    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for parts in itertools.zip_longest(*answers):
                texts = [text if part is None else part for text, part in zip(texts, parts, strict=True)]
                live.update(table(max(1, console.height - 5)), refresh=True)  # what is taller than the window cannot be drawn over
    finally:
        if any(texts):
            console.print(table(None))


def printable(text: str) -> str:
    """A text without what would steer a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)


def _print_growing(answers: Iterator[str]) -> None:
    shown = 0
    for text in answers:
        print(printable(text[shown:]), end="", flush=True)
        shown = len(text)
    print()
