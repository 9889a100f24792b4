"""jaxalign: alignment of language models in pure JAX. Start reading at `train.py`."""

__version__ = "0.1.0"

SHORT = {"checkpoint": "jaxalign.training.checkpoint"}  # names for scripts and notebooks; the package itself writes whole paths


def __getattr__(name: str):
    """The module of a short name, imported when it is asked for."""
    if name not in SHORT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(SHORT[name])
