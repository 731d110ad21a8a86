"""Signals: asked for between two frames, or waiting for the end of a write."""

from __future__ import annotations

import signal
import threading

import pytest

from edgeloc._support.interrupt import Terminated, _Process, graceful_interrupt, raise_on_signals, signals_wait


@pytest.fixture(autouse=True)
def _first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test before has sent one."""
    monkeypatch.setattr(_Process, "heard_at", float("-inf"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    with graceful_interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(number)
        assert interrupt.asked


def test_a_second_ctrl_c_breaks_only_into_what_may_be_broken() -> None:
    with pytest.raises(KeyboardInterrupt), graceful_interrupt() as interrupt:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        interrupt.at("the localizer", breakable=True)
        signal.raise_signal(signal.SIGINT)


def test_a_ctrl_c_after_3_s_breaks_into_what_hangs_but_never_into_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("edgeloc._support.interrupt.time.monotonic", lambda: now)
    with pytest.raises(KeyboardInterrupt), graceful_interrupt() as interrupt:
        interrupt.at("a sink")
        signal.raise_signal(signal.SIGINT)
        now += 4
        interrupt.closing_since = now
        signal.raise_signal(signal.SIGINT)
        interrupt.closing_since = None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


def test_the_impatience_of_a_first_signal_does_nothing() -> None:
    with pytest.raises(Terminated), raise_on_signals():
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_waits_for_the_end_of_a_write() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), signals_wait():
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert done == ["written"]


def test_handlers_are_put_back_and_an_error_goes_before_the_signal() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="full"), signals_wait():
        signal.raise_signal(signal.SIGINT)
        raise OSError("full")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with signals_wait(), graceful_interrupt() as interrupt:
            seen.append(interrupt.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
