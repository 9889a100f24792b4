"""Commands that only record what they are given, and do what a test specifies. Not a test itself."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

LAUNCH = Path(__file__).parents[2] / "launch"
RECORD = 'printf "%s\\0" "${0##*/}" "$@" "" >>"$RECORD"'  # at once: several may run beside each other
LAST = "${@: -1}"  # the last argument: what ssh runs


class Stubs:
    """A checkout whose path has a space, with the launchers, a home folder, and commands in front of the real ones."""

    def __init__(self, folder: Path):
        self.checkout, self.home, self.bin, self.record = folder / "a checkout", folder / "home", folder / "bin", folder / "record"
        for each in (self.checkout, self.home, self.bin):
            each.mkdir()
        shutil.copytree(LAUNCH, self.checkout / "launch")
        hidden = ("SLURM_", "JAX_", "GRACE_", "PATIENCE_", "LOST_", "SHOW")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)} | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "USER": f"of-a-test-{os.getpid()}",
            "RECORD": str(self.record),
            "POLL_S": "0",
            "PAUSE_S": "0",
        }

    def command(self, name: str, body: str = "", *, records: bool = True) -> None:
        """Puts a command on the PATH that records its arguments and runs `body` in bash."""
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{RECORD if records else ''}\n{body}\n")
        path.chmod(0o755)

    def answers(self, name: str, *lines: str) -> str:
        """A line of bash that prints the next of `lines`, and goes on printing the last; each is printed to one process."""
        path = self.bin.parent / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return f'(flock 9; head -n 1 "{path}"; if (($(wc -l <"{path}") > 1)); then sed -i 1d "{path}"; fi) 9>"{path}.lock"'

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess:
        """What a launcher of the checkout does, where the stubs stand before the real commands."""
        return subprocess.run(
            [str(self.checkout / "launch" / command[0]), *command[1:]],
            env=self.environment, cwd=self.checkout, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def recorded(self) -> list[list[str]]:
        """Every call so far: [command, argument, ...]."""
        text = self.record.read_text() if self.record.exists() else ""
        return [call.split("\0") for call in text.split("\0\0")[:-1]]


def real_python(body: str) -> str:
    """A stub of python that records what it trains, and leaves the rest to the real one."""
    return f'[[ $1 == -m ]] || exec {sys.executable} "$@"\n{RECORD}\n{body}'
