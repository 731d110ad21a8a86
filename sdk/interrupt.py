"""Turns Ctrl-C and SIGTERM into a request that a loop can look at between two frames."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["Interrupt", "graceful_interrupt"]


@dataclass
class Interrupt:
    """Whether the user asked for the end."""

    asked: bool = False


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Inside, the first SIGINT or SIGTERM only sets `asked`; a second SIGINT raises KeyboardInterrupt.

    Only the main thread may set handlers: in another one nothing changes and `asked` stays False.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        interrupt.asked = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
