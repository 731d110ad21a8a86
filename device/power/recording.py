"""A power trace recorded to a CSV file: read whole as a trace, or replayed as if it were measured now."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.columns import columns
from edgeloc.device.power.trace import PowerTrace
from edgeloc.device.power.uri import percent
from edgeloc.errors import DataError, DeviceError, UsageError
from edgeloc.uri import Uri

__all__ = ["RecordedMeter", "read_recording"]


def read_recording(path: str | Path, gain_error: float | None = None) -> PowerTrace:
    """The trace of a CSV file with a head: `time_s` and `watts`, or `time_s`, `volts` and `amps`.

    Times stay the file's own, in s. UsageError where there is no such file or column, DataError
    names the line that does not fit. The resolution is that of the last printed digit.
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
        raise UsageError(f"recorded power {path} has no column time_s: times in seconds are needed")
    t, watts, steps = [], [], []
    for line, cells in enumerate(rows[1:], start=2):
        if not cells:
            continue
        try:
            power, step = head.power(cells)
            t.append(head.time(cells))
        except ValueError as error:
            raise DataError(f"recorded power {path}, line {line}: {error}") from None
        if len(t) > 1 and t[-1] <= t[-2]:
            raise DataError(f"recorded power {path}, line {line}: its time is not after the line before")
        watts.append(power)
        steps.append(step)
    if len(t) < 2:
        raise DataError(f"recorded power {path} holds {len(t)} readings: two at least are needed")
    return PowerTrace(np.array(t), watts=np.array(watts), resolution_w=max(steps), gain_error=gain_error)


class RecordedMeter(PowerMeter):
    """`csv:///path/power.csv?tolerance=1`: replays a recording; `tolerance` is its meter's gain error in %.

    The recording's clock is put on ours at the first `read()`: its first row is that moment, and
    each other row follows after as long as it did when it was recorded. `read()` waits for the next row;
    after the last one it raises DeviceError.
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
        self.blind_to = "anything of this run: it was recorded at another time, and tells what its meter saw then"

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> RecordedMeter:
        """The meter of a csv:// URI; its path is the user's own, whatever `root` is."""
        if not uri.path:
            raise UsageError(f"power meter {uri.text}: name the file, such as csv://power.csv or csv:///path/power.csv")
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
                f"power meter {self.name}: the recording ended after {length:.1f} s, before the run did; "
                "time fewer frames, or replay a longer one"
            )
        if self._next == 0:
            self._began = time.monotonic()
        due = self._began + float(self._trace.t[self._next] - self._trace.t[0])
        time.sleep(max(0.0, due - time.monotonic()))
        self._next += 1
        return PowerSample(due, {"recorded": float(self._trace.watts[self._next - 1])})
