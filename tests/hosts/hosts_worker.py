"""One of two processes that meet at a barrier and in collectives, under a watch: `python hosts_worker.py NUMBER PORT`. Not a test itself.

Where the variable LATE is "collective" or "barrier", process 1 stops moving before one, at step 20 or 22, but goes on beating.
"""

import os
import sys
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxalign.config import processes
from jaxalign.config.command_line import run
from jaxalign.hosts import channel, watch

number, port = int(sys.argv[1]), sys.argv[2]


def body(argv):
    processes.connect(processes.Processes("flags", f"127.0.0.1:{port}", 2, number))
    with watch.watching(watch.Watch(channel.connected(), lost_s=3, stall_s=2 if "LATE" in os.environ else 60)):
        for step in range(10**6):
            watch.at(f"step {step}")
            multihost_utils.process_allgather(np.array(step))
            watch.stepped()
            if step == 20:
                print("ready", flush=True)
            if number and (step, os.environ.get("LATE")) in ((20, "collective"), (22, "barrier")):
                watch.at("a long nap", limited=False)
                time.sleep(60)
            if step > 20:
                watch.barrier("every step")
    return 0


jax.config.update("jax_num_cpu_devices", 1)
sys.exit(run(body))
