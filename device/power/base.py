"""The contract of every power meter, and the parsers of its URI's options."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeloc._support.backend import Openable, Uri, split_uri
from edgeloc._support.numbers import number, whole
from edgeloc.errors import DeviceError, UsageError

__all__ = [
    "CONNECT",
    "AbsentMeterError",
    "CommandRunner",
    "PowerMeter",
    "PowerSample",
    "above_zero",
    "baud",
    "parse_uri",
    "percent",
]

CONNECT = "connect an INA219, INA226 or INA260 (ina219://1/0x40?shunt=0.1) or a USB meter (csv://, serial://)"
# Parsers of options. The kernel's drivers have no speed beyond 10 MBd.
baud = whole(1, 10_000_000)
above_zero = number(0, above=True)
_per_cent = number(0, 100, what="a number of per cent")
# Runs a program and returns what it wrote to its standard output; DeviceError when it fails.
CommandRunner = Callable[[Sequence[str]], str]


def parse_uri(text: str) -> Uri:
    """Take `text` apart; UsageError where it is no URI."""
    if "://" not in text:
        raise UsageError(
            f"power meter {text!r} is no URI", hint="give auto, none, or one such as pmic://, csv://power.csv"
        )
    return split_uri(text, "power meter")


def percent(text: str) -> float:
    """A share given in per cent, 0 to 100, as a fraction."""
    return _per_cent(text) / 100


class AbsentMeterError(DeviceError):
    """This board does not have the power meter, as opposed to one that is there and cannot be read."""


@dataclass(frozen=True, slots=True)
class PowerSample:
    """One reading, of either watts or joules.

    Parameters:
        t: when it was taken, s of the monotonic clock.
        watts: by rail; negative where the current flows back.
        joules: by rail, a counter as the hardware gives it: it starts anywhere, and again from 0 at the meter's
            `counter_range_j`.
    """

    t: float
    watts: Mapping[str, float] = field(default_factory=dict)
    joules: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.watts) == bool(self.joules):
            raise ValueError("a sample holds either watts or joules, of at least one rail")
        for rail, value in (self.watts or self.joules).items():
            if not math.isfinite(value):
                raise ValueError(f"the rail {rail} reads {value}: it must be a finite number")


class PowerMeter(Openable):
    """A source of power readings: `open()`, `read()` as often as needed, `close()`; or use it in a `with`.

    The contract, which one test suite holds every meter to, once it is open:

    Attributes:
        rails: all that is read; each sample holds exactly these.
        total: the rails that add up to what the meter sees, so that nothing is counted twice.
        rate_hz: how often reading makes sense.
        paced: `read()` waits for the next reading; any other meter answers at once, and is not to be read more often.
        replayed: the readings were recorded earlier, and are not of this run.
        resolution_w: the largest step of the total so far, W.
        resolution_j: a counter's step, J.
        offset_w: bounds an error that is the same in each reading, W.
        gain_error: bounds an error that is a share of the reading; None where it is not stated.
        counter_range_j: where a counter starts again from 0, J, by rail.
        source: what is read, in words.
        blind_to: what of the board's power is not seen, in words.

    A sample's `t` is the monotonic clock's and grows. `read()` raises DeviceError when the meter is closed, gone, or
    reads nonsense; no reading is repeated or made up. `open()` cleans up after a failure; `close()` may be called
    twice.
    """

    rails: tuple[str, ...] = ()
    total: tuple[str, ...] = ()
    rate_hz: float = 10.0
    paced: bool = False
    replayed: bool = False
    resolution_w: float = 0.0
    resolution_j: float = 0.0
    offset_w: float = 0.0
    gain_error: float | None = None
    counter_range_j: Mapping[str, float] = {}
    source: str = ""
    blind_to: str = ""

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> PowerMeter:
        """The meter that a URI names, not opened; `root` is where sys is found. UsageError for an unknown option."""
        uri.require_no_path()
        uri.options({})
        return cls()

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the meter, such as its URI."""

    @abstractmethod
    def _read(self) -> PowerSample:
        """One reading."""

    def _close(self) -> None:
        """Release everything; also called when `_open` failed half-way."""

    def open(self) -> None:
        """Get the meter ready; DeviceError names what is missing and how to fix it."""
        super().open()

    def read(self) -> PowerSample:
        """The next reading."""
        if not self._opened:
            raise DeviceError(f"power meter {self.name} is not open", hint="call open() first, or use it in a `with`")
        return self._read()
