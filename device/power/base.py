"""The contract of every power meter, its URI, and a thread that samples one beside some work."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeloc._support.backend import Openable, Uri, split_uri
from edgeloc._support.numbers import number, whole
from edgeloc.errors import DeviceError, UsageError

__all__ = ["CommandRunner", "PowerMeter", "PowerSample", "above_zero", "baud", "parse_uri", "percent"]

# Parsers of options. Beyond 10 MBd, the kernel's drivers know no speed.
baud = whole(1, 10_000_000)
above_zero = number(0, above=True)
_per_cent = number(0, 100, what="a number of per cent")
# Runs a program and returns what it wrote to its standard output; DeviceError when it fails.
CommandRunner = Callable[[Sequence[str]], str]


def parse_uri(text: str) -> Uri:
    """Take `text` apart; UsageError where it is no URI."""
    if "://" not in text:
        raise UsageError(f"power meter {text!r} is no URI: give auto, none, or one such as pmic:// or csv://power.csv")
    return split_uri(text, "power meter")


def percent(text: str) -> float:
    """A share from 0 to 100 %, given in per cent and returned as a fraction."""
    return _per_cent(text) / 100


@dataclass(frozen=True, slots=True)
class PowerSample:
    """One reading: its time in s of the monotonic clock, and by rail watts or a counter of joules.

    A counter is as the hardware gives it: it starts anywhere, and starts again from 0 at the
    meter's `counter_range_j`. A current that flows back makes watts negative.
    """

    t: float
    watts: Mapping[str, float] = field(default_factory=dict)
    joules: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.watts) == bool(self.joules):
            raise ValueError("a sample holds watts or joules of at least one rail, and not both")
        for rail, value in (self.watts or self.joules).items():
            if not math.isfinite(value):
                raise ValueError(f"the rail {rail} reads {value}: it must be a finite number")


class PowerMeter(Openable):
    """A source of power readings: `open()`, `read()` again and again, `close()`; or `with`.

    The contract, which one test suite holds every meter to, once it is open:

    - `rails` names all that is read; `total` are those that add up to what the meter sees, so that
      nothing is counted twice. Each sample holds exactly `rails`.
    - A sample's `t` is the monotonic clock's when the reading was taken, and grows.
    - `rate_hz` is how often reading makes sense. A `paced` meter waits in `read()` for its next
      reading; any other answers at once and is not to be asked more often than that.
    - `resolution_w` is the largest step of the total that was met so far; `offset_w` bounds an
      error that is the same in each reading; `gain_error` bounds one that is a share of the
      reading, None where nobody states it. For a counter, `resolution_j` is its step and
      `counter_range_j` where each rail starts again from 0.
    - `source` says what is read, `blind_to` what of the board's power it does not see, in words.
    - `replayed` is true where the readings were recorded earlier, and not taken from this run.
    - `read()` raises DeviceError when the meter is closed, gone, or reads nonsense; no reading is
      ever repeated or made up. `open()` cleans up behind a failure; `close()` may be called twice.
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
        """The meter a URI asks for, not opened; `root` is where sys is found. UsageError for an unknown option."""
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
        """Give everything back; called also when `_open` failed half-way."""

    def open(self) -> None:
        """Get the meter ready; DeviceError says what is missing and how to mend it."""
        super().open()

    def read(self) -> PowerSample:
        """The next reading; see the class for the promises."""
        if not self._opened:
            raise DeviceError(f"power meter {self.name} is not open: call open() first, or use it in a `with`")
        return self._read()
