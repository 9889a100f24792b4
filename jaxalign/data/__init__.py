"""Raw rows to batches, in numpy: raw (files and formats), text (tokenizers and templates), rows (packed rows on disk)."""

SHORT = {"tokenizer": "jaxalign.data.text.tokenizer"}  # names for scripts and notebooks; the package itself writes whole paths


def __getattr__(name: str):
    """The module of a short name, imported when it is asked for."""
    if name not in SHORT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(SHORT[name])
