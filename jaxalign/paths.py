"""Local paths: files that travel with the package, what lies near a path that does not exist, and the line of a file that failed."""

from collections.abc import Mapping
import difflib
import os
from pathlib import Path
import traceback

ASSETS = Path(__file__).resolve().parent / "assets"
CACHE = "JAXALIGN_CACHE"  # environment variable: the folder of everything that is kept between runs


def resolve(path: str) -> Path:
    """The path; "package:NAME" lies in jaxalign/assets and ~ is the home folder.

    Raises:
      FileNotFoundError: it begins with ~NAME, and no user of that name has a home folder here.
    """
    if path.startswith("package:"):
        return ASSETS / path.removeprefix("package:")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0]
        raise FileNotFoundError(f"{path!r} begins with {user}, which is no home folder here; write the path out, or ./{user}.") from error


def cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of what is kept between runs: $JAXALIGN_CACHE, or ~/.cache/jaxalign where it is not set or empty."""
    return resolve(environ.get(CACHE) or str(Path.home() / ".cache" / "jaxalign"))


def nearby(path: Path) -> str:
    """A sentence that names the files whose names are like that of a missing path, or the first folder of it that is missing."""
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir() and folder != folder.parent:
            path, folder = folder, folder.parent
        return f"its folder {str(path)!r} does not exist either; check the path."
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = difflib.get_close_matches(path.name, names, n=5, cutoff=0.4) or names[:5]
    return f"in {str(folder)!r} there are {', '.join(close) if close else 'no files'}; check the path."


def line_of(error: BaseException, path: str | Path) -> str:
    """", line N": the last line of the file that an error passed through; "" where it passed through none."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def message_of(error: BaseException) -> str:
    """The kind of an error and its message, on one line, without the place that `line_of` names."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {next(iter(text.strip().splitlines()), '') or 'no message'}"
