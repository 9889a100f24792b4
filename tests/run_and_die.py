"""Runs jaxalign.train and dies at a chosen moment: `python run_and_die.py MOMENT STEP -- ARGUMENTS`. Used by test_resume.py.

MOMENT "step": kill -9 before the batch of STEP is trained on, all saves before it being whole. "save": kill -9 right after the
asynchronous save of STEP was started. "sigterm": SIGTERM before the batch of STEP is trained on. "full": from STEP on, no file may grow
beyond 16 KiB.
"""

import os
import resource
import signal
import sys

from jaxalign import train
from jaxalign.data.rows import loader
from jaxalign.evaluators import held_out
from jaxalign.training.checkpoint import Checkpoints

moment, step, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[4:]
place, save = loader.to_device, Checkpoints.save
batches_seen = 0


def to_device(arrays):
    global batches_seen
    if (arrays["slots"] >= 0).any() and not evaluating:
        if batches_seen == step and moment in ("step", "sigterm"):
            os.kill(os.getpid(), signal.SIGKILL if moment == "step" else signal.SIGTERM)
        batches_seen += 1
    return place(arrays)


evaluating = False
evaluate = held_out.evaluate


def evaluate_unseen(*positional, **named):
    global evaluating
    evaluating = True
    try:
        return evaluate(*positional, **named)
    finally:
        evaluating = False


def save_and_die(self, state, **named):
    if moment == "full" and named["step"] >= step:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, 16 * 1024))
    save(self, state, **named)
    if moment == "step":
        self.wait()  # saves are asynchronous, and on a busy machine the steps to come may be faster
    if moment == "save" and named["step"] == step:
        os.kill(os.getpid(), signal.SIGKILL)


loader.to_device, held_out.evaluate, Checkpoints.save = to_device, evaluate_unseen, save_and_die
sys.exit(train.main(arguments))
