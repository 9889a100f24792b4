"""Where a checkpoint lies: a local folder, or a snapshot of a repository of the Hugging Face hub."""

from pathlib import Path

from jaxalign import paths

FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint: `name` itself if it is one ("package:NAME" lies in the package), else a snapshot of that repository.

    Every process downloads into its own cache; later starts find it there.

    Raises:
      FileNotFoundError: there is no such folder, and no such repository can be had.
    """
    path = paths.resolve(name)
    if path.is_dir() or name.startswith(("package:", "/", ".", "~")) or name.count("/") != 1:
        return path  # a folder that is missing is reported by whoever reads it
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here and could not be fetched from the Hugging Face hub ({type(error).__name__}: {error}); "
            f"{paths.nearby(path)}"
        ) from error
