"""Power from rows of numbers: a recorded CSV file, and meters that send lines over a serial port."""

from __future__ import annotations

import csv
import errno
import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeloc._support.backend import Uri
from edgeloc.device.power.base import PowerMeter, PowerSample, baud, percent
from edgeloc.device.power.trace import PowerTrace
from edgeloc.errors import DataError, DeviceError, MissingExtra, UsageError, first_line

__all__ = ["Columns", "RecordedMeter", "SerialMeter", "SerialPort", "column_names", "read_recording"]

KNOWN = ("time_s", "watts", "volts", "amps")
_ANSWER_S = 2.0
# The first line is often cut, and meters send a header or an empty line now and then.
_BAD_LINES = 5


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of each row in order; names other than time_s, watts, volts and amps are ignored."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        doubled = [name for name in KNOWN if self.names.count(name) > 1]
        if doubled or not ("watts" in self.names or {"volts", "amps"} <= set(self.names)):
            raise ValueError("watts, or volts and amps, each once")

    def of_power(self, cells: Sequence[str]) -> dict[str, str]:
        """A row's watts, or its volts and amps, by name; ValueError where it does not fit."""
        if len(cells) != len(self.names):
            raise ValueError(f"{len(cells)} cells instead of {len(self.names)} ({', '.join(self.names)})")
        row = dict(zip(self.names, cells, strict=True))
        return {name: row[name] for name in (("watts",) if "watts" in row else ("volts", "amps"))}

    def time(self, cells: Sequence[str]) -> float:
        """The row's time_s; ValueError where it is no number."""
        return number(cells[self.names.index("time_s")])


class _Rows:
    """The power of rows of cells, and the step in which it was printed.

    Many programs leave out zeros at the end, so that a column's step is the finest that one of its rows shows.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._steps: dict[str, float] = {}
        self._largest: dict[str, float] = {}

    def watts(self, cells: Sequence[str]) -> float:
        """The power of the next row, W; ValueError where it does not fit."""
        row = self._columns.of_power(cells)
        values = {name: number(text) for name, text in row.items()}
        for name, text in row.items():
            self._steps[name] = min(self._steps.get(name, math.inf), _last_digit(text))
            self._largest[name] = max(self._largest.get(name, 0.0), abs(values[name]))
        return math.prod(values.values())

    @property
    def resolution_w(self) -> float:
        """The step of the last printed digit, W: of volts and amps where both are largest."""
        if "watts" in self._steps:
            return self._steps["watts"]
        return self._largest["amps"] * self._steps["volts"] + self._largest["volts"] * self._steps["amps"]


def column_names(text: str) -> tuple[str, ...]:
    """Names with commas between them, for a URI's option; ValueError names what is allowed."""
    return Columns(tuple(name.strip() for name in text.split(","))).names


def number(text: str) -> float:
    """A finite number; ValueError names the text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]!r} is no number")
    return value


def columns(names: Sequence[str], where: str) -> Columns:
    """The columns of the header at `where`; UsageError where they do not suffice."""
    try:
        return Columns(tuple(name.strip().lower() for name in names))
    except ValueError as error:
        found = f"has the columns {', '.join(names)}" if names else "has no header in its first line"
        raise UsageError(f"{where} {found}: it needs time_s and {error}") from None


def read_recording(path: str | Path, gain_error: float | None = None) -> PowerTrace:
    """The trace of a CSV file with a header: `time_s` and `watts`, or `time_s`, `volts` and `amps`.

    Times stay the file's own, in s. The resolution is that of the last printed digit.

    Parameters:
        path: the file.
        gain_error: of the meter that was recorded, as a fraction; None: not stated.

    Raises UsageError where there is no such file or column, DataError naming the line that does not fit.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise UsageError(f"recorded power {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"recorded power {path} is no CSV file: {error}") from error
    head = columns(rows[0] if rows else [], f"recorded power {path}")
    if "time_s" not in head.names:
        raise UsageError(f"recorded power {path} has no column time_s", hint="add one, with times in seconds")
    readings = _Rows(head)
    t, watts = [], []
    for line, cells in enumerate(rows[1:], start=2):
        if not cells:
            continue
        try:
            watts.append(readings.watts(cells))
            t.append(head.time(cells))
        except ValueError as error:
            raise DataError(f"recorded power {path}, line {line}: {error}") from None
        if len(t) > 1 and t[-1] <= t[-2]:
            raise DataError(f"recorded power {path}, line {line}: its time is not after the line before")
    if len(t) < 2:
        raise DataError(f"recorded power {path} holds {len(t)} readings: it needs at least two")
    return PowerTrace(np.array(t), watts=np.array(watts), resolution_w=readings.resolution_w, gain_error=gain_error)


class RecordedMeter(PowerMeter):
    """`csv:///path/power.csv?tolerance=1`: replays a recording; `tolerance` is its meter's gain error in %.

    The first row is at the moment of the first `read()`, and the others follow at the pace at which they were
    recorded: `read()` waits for the next row. After the last one it raises DeviceError.

    Parameters:
        path: the file, as for `read_recording`.
        tolerance: the gain error, as a fraction; None: not stated.
    """

    rails = total = ("recorded",)
    paced = True
    replayed = True

    def __init__(self, path: str | Path, *, tolerance: float | None = None) -> None:
        self._path = str(path)
        self._tolerance = tolerance
        self._trace: PowerTrace | None = None
        self._next = 0
        self._began = 0.0
        self.source = f"the recording {self._path}"
        self.blind_to = "anything of this run: it was recorded at another time"

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> RecordedMeter:
        """The meter of a csv:// URI; its path is the user's own, whatever `root` is."""
        if not uri.path:
            hint = "name the file, such as csv://power.csv or csv:///path/power.csv"
            raise UsageError(f"power meter {uri.text} names no file", hint=hint)
        return cls(uri.path, **uri.options({"tolerance": percent}))

    @property
    def name(self) -> str:
        """Its URI without options."""
        return f"csv://{self._path}"

    def _open(self) -> None:
        trace = read_recording(self._path, self._tolerance)
        self._trace, self._next = trace, 0
        self.gain_error, self.resolution_w = trace.gain_error, trace.resolution_w
        self.rate_hz = float(1 / np.median(np.diff(trace.t)))

    def _read(self) -> PowerSample:
        assert self._trace is not None and self._trace.watts is not None
        if self._next == len(self._trace.t):
            length = self._trace.t[-1] - self._trace.t[0]
            raise DeviceError(
                f"power meter {self.name}: the recording ended after {length:.1f} s, before the run did",
                hint="time fewer frames, or replay a longer one",
            )
        if self._next == 0:
            self._began = time.monotonic()
        due = self._began + float(self._trace.t[self._next] - self._trace.t[0])
        time.sleep(max(0.0, due - time.monotonic()))
        self._next += 1
        return PowerSample(due, {"recorded": float(self._trace.watts[self._next - 1])})


class SerialPort(Protocol):
    """The part of serial.Serial that is needed."""

    def readline(self) -> bytes: ...

    def close(self) -> None: ...


class SerialMeter(PowerMeter):
    """`serial:///dev/ttyACM0?columns=volts,amps&baud=115200&tolerance=1`: one line of numbers for each reading.

    Parameters:
        device: the port.
        columns: what a line holds, separated by commas, semicolons or spaces: `watts`, or `volts` and `amps`; other
            names are ignored.
        baud: the port's speed.
        tolerance: the meter's gain error, as a fraction; None: not stated.
        port: used instead of pyserial's.
    """

    rails = total = ("supply",)
    paced = True
    blind_to = "whatever is not supplied through the meter"

    def __init__(
        self,
        device: str,
        *,
        columns: tuple[str, ...] = ("volts", "amps"),
        baud: int = 115200,
        tolerance: float | None = None,
        port: SerialPort | None = None,
    ) -> None:
        self._device, self._columns, self._baud = device, Columns(columns), baud
        self._rows = _Rows(self._columns)
        self._given, self._port = port, port
        self._last_t = 0.0
        self.gain_error = tolerance
        self.source = f"serial meter on {device} ({', '.join(columns)})"

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> SerialMeter:
        """The meter of a serial:// URI; its device is the user's own, whatever `root` is."""
        options = uri.options({"columns": column_names, "baud": baud, "tolerance": percent})
        if not uri.path:
            raise UsageError(f"power meter {uri.text} names no device", hint="write serial:///dev/ttyACM0")
        return cls(uri.path, **options)

    @property
    def name(self) -> str:
        """Its URI without options."""
        return f"serial://{self._device}"

    def _open(self) -> None:
        self._rows, self._last_t = _Rows(self._columns), 0.0
        self._port = self._given or self._serial()
        times = [self._read().t for _ in range(3)]
        self.rate_hz = min(1000.0, 2 / max(times[-1] - times[0], 1e-9))

    def _serial(self) -> SerialPort:
        try:
            serial: Any = importlib.import_module("serial")
        except ImportError as error:
            raise MissingExtra("pyserial", "power", f"power meter {self.name}") from error
        try:
            port: SerialPort = serial.Serial(self._device, self._baud, timeout=_ANSWER_S)
        except (OSError, ValueError) as error:
            raise _port_trouble(self.name, self._device, error) from error
        return port

    def _read(self) -> PowerSample:
        assert self._port is not None
        for _ in range(_BAD_LINES):
            line, t = self._line(), time.monotonic()
            try:
                watts = self._rows.watts(line.replace(",", " ").replace(";", " ").split())
            except ValueError:
                continue
            self.resolution_w = self._rows.resolution_w
            self._last_t = max(t, self._last_t + 1e-6)  # lines that waited in a buffer come at once
            return PowerSample(self._last_t, {"supply": watts})
        expected = ", ".join(self._columns.names)
        raise DeviceError(
            f"power meter {self.name} sends lines such as {line[:60]!r}, which do not hold {expected}",
            hint="name their columns with columns=, and the speed with baud=",
        )

    def _line(self) -> str:
        assert self._port is not None
        try:
            line = self._port.readline()
        # pyserial raises its own errors (OSError) and, unplugged while reading, a TypeError.
        except (OSError, TypeError) as error:
            raise DeviceError(f"power meter {self.name} was unplugged ({first_line(error)})") from error
        if not line:
            hint = "start its output, check the cable and baud="
            raise DeviceError(f"power meter {self.name} sent nothing for {_ANSWER_S:g} s", hint=hint)
        return line.decode("ascii", "replace").strip()

    def _close(self) -> None:
        port, self._port = self._port, self._given
        if port is not None and self._given is None:
            port.close()


def _last_digit(text: str) -> float:
    mantissa, _, exponent = text.strip().lower().partition("e")
    return float(10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])))


def _port_trouble(name: str, device: str, error: Exception) -> DeviceError:
    number = getattr(error, "errno", None)
    reason, hint = f"{device} cannot be opened ({first_line(error)})", "look with `ls /dev/ttyACM* /dev/ttyUSB*`"
    if number == errno.ENOENT:
        reason, hint = f"there is no {device}", "plug the meter in, and look with `ls /dev/ttyACM* /dev/ttyUSB*`"
    elif number in (errno.EACCES, errno.EPERM):
        reason, hint = f"no permission for {device}", "`sudo usermod -aG dialout $USER`, then log in again"
    elif number == errno.EBUSY:
        reason, hint = f"another program holds {device}", f"`fuser -v {device}` names it"
    return DeviceError(f"power meter {name}: {reason}", hint=hint)
