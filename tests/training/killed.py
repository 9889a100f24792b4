"""A run on rollouts, with evaluations, and a server that trains it in child processes, killed at moments that a seed draws.

A moment is a while after the 1st to 4th time that the run comes to a place of one kind: it may lie in the work there, in an asynchronous
save, or in what follows. Not a test itself.
"""

import importlib
import json
import os
from pathlib import Path
import random
import signal
import sys
import threading

from ml_collections import ConfigDict

KINDS = {"data": "the batch of step", "step": "step ", "save": "the save of step", "evaluation": "batch ", "rollout": "rollouts"}
MOST = {"rollout": 2}  # times that the run comes to a place of a kind, where they are fewer than 4
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
    """(kind of place, how often the run has come to one, seconds after that); seeds that follow one another go through the kinds."""
    draw, kind = random.Random(seed), sorted(KINDS)[seed % len(KINDS)]
    return kind, draw.randint(1, MOST.get(kind, 4)), draw.choice([0.0, draw.random() * LONGEST_S])


def arm(seed: int) -> None:
    """Has this process kill itself at the moment of a seed."""
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


def serve() -> None:
    """For each line of standard input, [seed or null, arguments of jaxalign.train, file for its messages], trains in a child process and
    prints its exit code.

    A child begins after the imports, which take longer than its steps; it starts its devices itself.
    """
    for name in ("build", "evaluations", "preflight", "rollouts", "selfchecks"):
        importlib.import_module(f"jaxalign.config.{name}")
    train = importlib.import_module("jaxalign.train")
    for line in sys.stdin:
        seed, arguments, messages = json.loads(line)
        child = os.fork()
        if not child:
            for stream in (1, 2):
                os.dup2(os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            if seed is not None:
                arm(seed)
            sys.exit(train.main(arguments))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
