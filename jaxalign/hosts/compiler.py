"""How long threads wait for the compiler, whose time is nobody's delay."""

from collections.abc import Callable
import os
from types import FrameType

COMPILED = "/jax/core/compile/backend_compile_duration"  # jax's name of what it measures
COMPILER = os.path.join("jax", "_src", "compiler.py")  # part of the path of jax's file that calls the compiler


def compiling(frame: FrameType | None) -> bool:
    """Whether a thread is in the compiler, by the frame that it is in. It must stand still: the frames of one that runs may be gone."""
    while frame is not None:
        if frame.f_code.co_filename.endswith(COMPILER):
            return True
        frame = frame.f_back
    return False


def on_compiled(call: Callable[[float], None]) -> Callable[[], None]:
    """Calls it with the seconds of each program that was compiled, in the thread that waited for it; what is returned ends that."""
    from jax import monitoring

    def listen(event: str, seconds: float, **_) -> None:
        if event == COMPILED:
            call(seconds)

    monitoring.register_event_duration_secs_listener(listen)
    return lambda: monitoring.unregister_event_duration_listener(listen)
