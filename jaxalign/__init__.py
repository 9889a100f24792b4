"""jaxalign: alignment of language models in pure JAX. Start reading at `train.py`."""

__version__ = "0.1.0"
