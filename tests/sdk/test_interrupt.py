"""Signals: asked for between two frames, or waiting for the end of a write."""

from __future__ import annotations

import signal
import threading

import pytest

from edgeloc._support.interrupt import graceful_interrupt, signals_wait


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    with graceful_interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(number)
        assert interrupt.asked


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), graceful_interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


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
