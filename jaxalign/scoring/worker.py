"""The process in which a reward function of the user runs, so that it may hang or die alone: `callables` starts it and talks to it.

    python -m jaxalign.scoring.worker FILE_DESCRIPTOR

It gets (file, name, options, seconds), answers None or what is wrong with them, and then answers batches of samples.
"""

import importlib.util
import inspect
from multiprocessing.connection import Connection
from pathlib import Path
import signal
import sys

import numpy as np

from jaxalign.paths import line_of, message_of

GRACE_S = 5  # after the time limit, by which whoever waits for an answer has ended this process, if it is there


def main(descriptor: str) -> None:
    """Answers until the other side hangs up."""
    connection = Connection(int(descriptor))
    file, name, options, seconds = connection.recv()
    function, problem = _load(file, name, options)
    connection.send(problem)
    while problem is None:
        try:
            samples = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_S)  # its signal ends the process, also inside a loop of C
        answer = _answer(function, samples, options, file)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


def _load(file, name, options):
    """(function, None), or (None, what is wrong)."""
    sys.path.insert(0, str(Path(file).parent))
    try:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        return None, f"{file}{line_of(error, file)}: {message_of(error)}"
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
    function = vars(module).get(name)
    if not callable(function):
        return None, f"{file} has no function {name!r}; it has {', '.join(functions) or 'none'}."
    try:
        inspect.signature(function).bind([], [], [], **options)
    except TypeError as error:
        given = "".join(f", {key}=..." for key in options)
        return None, f"{file}: {name} is called as {name}(prompts, completions, metadata{given}): {error}."
    except ValueError:  # of a function without a signature
        pass
    return function, None


def _answer(function, samples, options, file):
    """The numbers of the samples as a list, or (rule, message)."""
    try:
        values = function(*samples, **options)
    except (Exception, SystemExit) as error:
        return "exception", f"{message_of(error)} ({file}{line_of(error, file)})"
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return "wrong_type", f"it returned {str(values)[:60]!r}, which is no array of numbers."
    expected = (len(samples[1]),)
    if numbers.shape != expected:
        return "wrong_shape", f"it returned an array of shape {numbers.shape} for {expected[0]} samples; return one number per sample."
    return numbers.tolist()


if __name__ == "__main__":
    main(sys.argv[1])
