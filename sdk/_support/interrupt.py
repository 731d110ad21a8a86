"""Ctrl-C and SIGTERM as a request that a loop looks at between two frames, or that waits for a write to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["Interrupt", "graceful_interrupt", "signals_wait"]


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

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        interrupt.asked = True

    with _handled(handle):
        yield interrupt


@contextmanager
def signals_wait() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM wait; the first of them does at the end what it would have done at once.

    For several files that belong together and must not be left half renewed.
    """
    came: list[int] = []
    with _handled(lambda number, frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
