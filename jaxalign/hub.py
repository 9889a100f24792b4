"""Names on the Hugging Face hub: the one place that knows one from a path, and fetches it."""

from collections.abc import Sequence
import functools
from pathlib import Path

from jaxalign import paths

CHECKPOINT = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")  # files of a checkpoint, its tokenizer's too


def local(name: str, files: Sequence[str]) -> Path:
    """The path itself ("package:NAME" lies in the package), or the folder of a snapshot of the repository that "OWNER/NAME" names.

    A path that does not exist is returned where it is no such name: whoever reads it reports it. Every process downloads into its own
    cache; later starts find it there.

    Args:
      files: patterns of the files of a repository that are needed.

    Raises:
      FileNotFoundError: there is no such path, and the repository cannot be had.
    """
    path = paths.resolve(name)
    if path.exists() or name.startswith(("package:", "/", ".", "~")) or name.count("/") != 1:
        return path
    return _snapshot(name, tuple(files))


@functools.cache  # a run asks for its tokenizer at every save, and goes on where the hub is out of reach by then
def _snapshot(name, files):
    import huggingface_hub  # slow to import, needed for these names only

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files)))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise FileNotFoundError(
            f"{name!r} is no path here and could not be fetched from the Hugging Face hub ({': '.join([type(error).__name__, *reason])}). "
            f"Check the name, log in for a gated model, or name a local folder; {paths.nearby(paths.resolve(name))}"
        ) from error
