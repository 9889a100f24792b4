"""Commands that run as the processes of one run, over loopback. Not a test itself."""

import os
import re
import socket
import subprocess

DEVICES = 8


def flags(devices):
    """XLA_FLAGS of a process with so many devices that compiles as these tests do."""
    return re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])


def outcome(commands, *, devices=DEVICES, stream="stderr"):
    """(exit codes, what they print on a stream) of commands that run together on so many devices, one process each.

    A hang has no time-out of its own.
    """
    count = len(commands)
    environment = {**os.environ, "XLA_FLAGS": flags(devices // count)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        together = ["--coordinator", f"127.0.0.1:{probe.getsockname()[1]}", "--processes", str(count)]
    commands = [[*each, *([*together, "--process", str(number)] if count > 1 else [])] for number, each in enumerate(commands)]
    processes = [subprocess.Popen(each, env=environment, text=True, **{stream: subprocess.PIPE}) for each in commands]
    try:
        messages = [process.communicate(timeout=400)[stream == "stderr"] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], messages
