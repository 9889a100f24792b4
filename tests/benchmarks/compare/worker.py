"""`python -m tests.benchmarks.compare.worker SIDE JSON`: the process of one side; `__main__` starts it and speaks to it over `link`.

JSON holds: case (the fields of a Case), folder (the weights, in transformers' form), pairs (a file of `workload.write`), block (steps that
are asked for at a time, after those that are checked one by one), device ("cpu" or "gpu"), settings (of our configuration).
"""

import importlib
import json
import os
import sys

from jaxalign.config.command_line import take_gpu_memory
from tests.benchmarks.compare.link import Link


def main() -> None:
    name, asked = sys.argv[1], json.loads(sys.argv[2])
    link = Link()
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if asked["device"] == "cpu":
        os.environ["JAX_PLATFORMS"], os.environ["CUDA_VISIBLE_DEVICES"] = "cpu", ""
    else:  # two processes share the card, and each one's own peak is wanted
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        take_gpu_memory(os.environ)
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    importlib.import_module(f"tests.benchmarks.compare.{name}").serve(link, asked)


if __name__ == "__main__":
    main()
