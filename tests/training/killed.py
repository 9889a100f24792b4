"""A run on rollouts, with evaluations, and `python killed.py SEED -- ARGUMENTS`: jaxalign.train, killed at a moment that the seed draws.

The moment is a while after the 1st to 4th time that the run comes to a place of one kind: it may lie in the work there, in an asynchronous
save, or in what follows. Not a test itself.
"""

import os
from pathlib import Path
import random
import signal
import sys
import threading

from ml_collections import ConfigDict

KINDS = {"data": "the batch of step", "step": "step ", "save": "the save of step", "evaluation": "batch ", "rollout": "rollouts"}
LONGEST_S = 0.3  # from the moment that the run comes to the place


def get_config() -> ConfigDict:
    sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
    import spoken

    cfg = spoken.get_config("dpo")
    cfg.data.eval = ConfigDict(dict(path="package:sf_dialogue/test.jsonl.gz", format="paired", limit=8))
    cfg.data.row_tokens = 192
    cfg.train.update(eval_every_steps=2, save_every_steps=2, keep_last=2)
    return cfg


def moment(seed: int) -> tuple[str, int, float]:
    """(kind of place, how often the run has come to one, seconds after that)."""
    draw = random.Random(seed)
    return draw.choice(sorted(KINDS)), draw.randint(1, 4), draw.choice([0.0, draw.random() * LONGEST_S])


def main(seed: int, arguments: list[str]) -> int:
    from jaxalign import train
    from jaxalign.hosts import watch
    from jaxalign.rollout.window import Windows

    kind, left, delay = moment(seed)
    come, draw = watch.at, Windows.draw

    def at(place, **options):
        nonlocal left
        come(place, **options)
        left -= place.startswith(KINDS[kind])
        if left == 0:
            left = -1
            if not delay:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def drawn(self, *positional, **named):
        at("rollouts")
        return draw(self, *positional, **named)

    watch.at, Windows.draw = at, drawn
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[3:]))
