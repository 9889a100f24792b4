"""Whether a thread waits for the compiler, whose time is nobody's delay."""

import os
from types import FrameType

COMPILER = os.path.join("jax", "_src", "compiler.py")  # part of the path of jax's file that calls the compiler


def compiling(frame: FrameType | None) -> bool:
    """Whether a thread is in the compiler, by the frame that it is in."""
    while frame is not None:
        if frame.f_code.co_filename.endswith(COMPILER):
            return True
        frame = frame.f_back
    return False
