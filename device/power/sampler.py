"""A thread that reads a power meter beside some work and keeps every reading; what they add up to is in `trace`."""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.trace import PowerTrace
from edgeloc.errors import DeviceError, EdgelocError, first_line

__all__ = ["PowerSampler"]

_ANSWER_S = 5.0


class PowerSampler:
    """Reads an open meter in the background: `start()`, work, `stop()`, `trace()`; or `with`.

    The time between readings is drawn from 1 to 2 times the meter's own interval, so that a
    rhythm in the work (its frames) does not fall into step with the readings. A meter that fails
    ends the sampling: `error` says why, and the readings until then stay.
    """

    def __init__(self, meter: PowerMeter, seed: int = 0) -> None:
        self.meter = meter
        self.samples: list[PowerSample] = []
        self.error: EdgelocError | None = None
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._first = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, and wait for the first reading; DeviceError when there comes none."""
        self._thread = threading.Thread(target=self._run, name="edgeloc-power", daemon=True)
        self._thread.start()
        if not self._first.wait(_ANSWER_S):
            self._stop.set()
            raise DeviceError(_silent(self.meter))
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        interval = 1 / self.meter.rate_hz
        while True:
            began = time.monotonic()
            try:
                self.samples.append(self.meter.read())
            except EdgelocError as error:
                self.error = error
            # Whatever a driver raises must end as a sentence in the result, not as a dead thread.
            except Exception as error:
                self.error = DeviceError(f"power meter {self.meter.name} failed: {first_line(error)}")
            self._first.set()
            if self.error is not None or self._stop.is_set():
                return
            if not self.meter.paced:
                self._stop.wait(max(0.0, began + interval * self._random.uniform(1, 2) - time.monotonic()))

    def stop(self) -> None:
        """End after one more reading; a meter that does not answer any more is left behind, with `error` set."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_ANSWER_S)
            if self._thread.is_alive() and self.error is None:
                self.error = DeviceError(_silent(self.meter))
            self._thread = None

    def trace(self) -> PowerTrace:
        """The total over the readings so far; DataError for fewer than two."""
        return PowerTrace.from_samples(list(self.samples), self.meter)

    def __enter__(self) -> PowerSampler:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _silent(meter: PowerMeter) -> str:
    return f"power meter {meter.name} did not answer for {_ANSWER_S:g} s: check its cable, then start again"
