"""Ctrl-C, SIGTERM and SIGHUP: what a program does when it is asked to end, and that it ends at all.

SIGHUP, which a dropped ssh session sends, is treated as SIGTERM. Where it is ignored (nohup), it stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from edgeloc._support.terminal import write_line

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_TERMINATED",
    "Interrupt",
    "Terminated",
    "graceful_interrupt",
    "ignore_signals",
    "raise_on_signals",
    "raise_on_signals_from_now_on",
    "signals_wait",
    "sure_end",
]

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A second signal this soon is the impatience of the first.
_PATIENCE_S = 3.0
# What is not over by then is ended. Closing may take longer, since a slow card has to take the last of the data.
_LIMIT_S, _CLOSING_LIMIT_S = 3.0, 12.0
_LAST_WORDS_S = 1.0

Handler = Callable[[int, "FrameType | None"], None]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: handled wherever Ctrl-C is, so that long work saves what it has."""


@dataclass
class Interrupt:
    """Whether the user asked a loop to end, and what the loop is doing meanwhile.

    `number` is the first signal that came, None without one.
    `doing` is what the loop waits for, for a message.
    `breakable` is whether a second Ctrl-C may break into that by a KeyboardInterrupt.
    `closing_since` is when the loop began to close what it opened, seconds of `time.monotonic()`.
    """

    number: int | None = None
    doing: str = ""
    breakable: bool = False
    closing_since: float | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    @property
    def terminated(self) -> bool:
        """Whether that was SIGTERM or SIGHUP, and not Ctrl-C."""
        return self.asked and self.number != signal.SIGINT

    def at(self, doing: str, *, breakable: bool = False) -> None:
        """Record what the loop does from here on."""
        self.doing, self.breakable = doing, breakable


class _Process:
    """What the process knows of signals: when one last raised an exception or was noted, and the loop that runs."""

    heard_at = float("-inf")
    loop: Interrupt | None = None


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Inside, the first signal only sets `number`; a second Ctrl-C raises KeyboardInterrupt where that is `breakable`.

    One that comes over 3 s after the first breaks into whatever hangs then, except into closing.

    Only the main thread may set handlers: in another one nothing changes and `asked` stays False.
    """
    interrupt = Interrupt()
    asked_at = float("inf")

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        hangs = interrupt.closing_since is None and time.monotonic() - asked_at > _PATIENCE_S
        if interrupt.asked and number == signal.SIGINT and (interrupt.breakable or hangs):
            interrupt.breakable = False
            raise KeyboardInterrupt
        _Process.heard_at = time.monotonic()
        if not interrupt.asked:
            interrupt.number, asked_at = number, _Process.heard_at

    with _handled(handle):
        outer, _Process.loop = _Process.loop, interrupt
        try:
            yield interrupt
        finally:
            _Process.loop = outer


@contextmanager
def signals_wait() -> Iterator[None]:
    """Inside, signals wait; the first of them does at the end what it would have done at once.

    For several files that belong together and must not be left half renewed.
    """
    came: list[int] = []
    with _handled(lambda number, frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Inside, a signal raises KeyboardInterrupt or Terminated; others that follow within 3 s do nothing."""
    with _handled(_raise):
        yield


def raise_on_signals_from_now_on() -> None:
    """The same, for the rest of the process's life."""
    _take(_raise)


def ignore_signals() -> None:
    """Ignore what comes from here on: the process is about to end by itself."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def sure_end(last_words: Callable[[str], str]) -> Iterator[None]:
    """Inside, the process ends a few seconds after the first signal, even where native code never comes back.

    Python runs a signal's handler in the main thread only, between two of its instructions; a thread is woken here by
    the system itself. It waits for 3 s, for 12 s while a loop closes its sinks, and for 3 s of what follows; then it
    ends the process with the signal's status.

    `last_words` is called before that for up to 1 s with what the loop was doing; it may close what can be closed, and
    returns a sentence for the user.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(reader, done, last_words), name="edgeloc-signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(previous)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _watch(reader: int, done: threading.Event, last_words: Callable[[str], str]) -> None:
    while data := os.read(reader, 64):
        number = next((byte for byte in data if byte in _SIGNALS), None)
        if number is not None and not _is_over(done):
            _end(number, last_words)


def _is_over(done: threading.Event) -> bool:
    """Wait for the end for as long as it may take; the limit of what follows begins again after closing."""
    limit = time.monotonic() + _LIMIT_S
    closing = False
    while not done.wait(0.05):
        now = time.monotonic()
        closing_since = None if _Process.loop is None else _Process.loop.closing_since
        if closing_since is not None:
            limit, closing = max(limit, closing_since + _CLOSING_LIMIT_S), True
        elif closing:
            limit, closing = max(limit, now + _LIMIT_S), False
        if now > limit:
            return False
    return True


def _end(number: int, last_words: Callable[[str], str]) -> None:
    doing = (_Process.loop.doing if _Process.loop is not None else "") or "this command"
    said: list[str] = []
    words = threading.Thread(target=lambda: said.append(last_words(doing)), daemon=True)
    words.start()
    words.join(_LAST_WORDS_S)
    name = signal.Signals(number).name
    write_line(f"edgeloc: error: {doing} did not end after {name}: {''.join(said) or 'the process was ended'}")
    os._exit(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED)


def _raise(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if now - _Process.heard_at < _PATIENCE_S:
        return
    _Process.heard_at = now
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def _handled(handle: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = _take(handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _take(handle: Handler) -> dict[signal.Signals, Any]:
    """Set the handlers; returns those before."""
    numbers = [one for one in _SIGNALS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
    return {number: signal.signal(number, handle) for number in numbers}
