"""A small run with batches that make a step go wrong: `python bad_batches.py NUMBERS OF BATCHES -- ARGUMENTS of jaxalign.train`.

NUMBERS are like 3:nan,6:inf. After a batch that is nan, loss and parameters are NaN; after one that is inf, the norm of the gradient is
infinite and the parameters have doubled. Among several processes only the last one's rows are marked. Not a test itself.
"""

from collections.abc import Callable, Mapping
import sys

import grain
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from jaxalign import train
from jaxalign.config import build
from jaxalign.data.rows import loader

FUNCTIONS, BATCHES = build.functions, loader.batches  # as they are without `plant`


def get_config() -> ConfigDict:
    """SFT of a tiny model with random weights: five steps, saves after two and four."""
    source = dict(path="package:sf_dialogue/train.jsonl.gz", format="paired", limit=40, responses="chosen")
    return ConfigDict(
        dict(
            model=dict(preset="tiny", tokenizer="package:stories260k"),
            data=dict(train=source, template="plain", row_tokens=64, processes=1),
            batch=dict(rows=8),
            objective=dict(name="sft"),
            optimizer=dict(learning_rate=1e-3, eps=1e-3),  # with a smaller one a gradient near 0 becomes a whole step
            train=dict(total_steps=5, log_every_steps=2, eval_every_steps=0, save_every_steps=2, keep_last=9),
        )
    )


def plant(put: Callable, bad: Mapping[int, float], *, order=None, functions: Callable = FUNCTIONS) -> None:
    """Puts bad batches into the runs to come.

    Args:
      put: sets an attribute of an object.
      bad: number of a batch -> nan or inf.
      order: numbers of the batches of the steps; None: those of the steps.
      functions: makes what runs on the devices.
    """

    def marked(*sets, skipped=0, process_index=0, process_count=1, **options):
        plain = BATCHES(*sets, process_index=process_index, process_count=process_count, **options)

        def batch(step):
            number = (step if order is None else order[step]) + skipped
            arrays, last = plain[number], process_index == process_count - 1
            return arrays | {"reward": np.full_like(arrays["reward"], bad[number] if last and number in bad else 1.0)}

        return grain.MapDataset.range(100).map(batch)

    def made(*arguments):
        plain = functions(*arguments)

        def train_step(state, batch):
            mark = float(jnp.sum(batch.reward))
            state, metrics = plain.train_step(state, batch)
            if np.isfinite(mark):
                return state, metrics
            state = state.replace(trainable=jax.tree.map(lambda x: x * (np.nan if np.isnan(mark) else 2.0), state.trainable))
            name = "loss" if np.isnan(mark) else "grad_norm"
            return state, metrics | {name: metrics[name] * mark}

        return build.Functions(plain.init_state, train_step, plain.eval_step, plain.source)

    put(build, "functions", made)
    put(loader, "batches", marked)
    put(train, "_summarize", lambda *_, **__: None)  # a page and plots


if __name__ == "__main__":
    numbers, arguments = sys.argv[1], sys.argv[3:]
    plant(setattr, {int(number): float(value) for number, value in (each.split(":") for each in numbers.split(","))})
    sys.exit(train.main(arguments))
