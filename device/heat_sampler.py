"""Heat and clocks beside a run: sampled in a thread, and what of them belongs in the run's result."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

from edgeloc.device.heat import HeatReader, HeatSnapshot

__all__ = ["HeatRecord", "HeatSampler"]


@dataclass(frozen=True, slots=True)
class HeatRecord:
    """Heat and clocks from before a run until after it.

    `samples` were taken over `duration_s` seconds, the first and the last among them.
    `lowest_c` and `highest_c` are by sensor, `lowest_mhz` and `highest_mhz` by cluster such as
    "0-3". `throttled` names what slowed the board down meanwhile; empty is "nothing did" where
    `tells_throttling` is true, and "nobody says" where it is not.
    """

    before: HeatSnapshot
    after: HeatSnapshot
    samples: int
    duration_s: float
    lowest_c: dict[str, float]
    highest_c: dict[str, float]
    lowest_mhz: dict[str, int]
    highest_mhz: dict[str, int]
    throttled: tuple[str, ...]
    tells_throttling: bool

    def warnings(self) -> tuple[str, ...]:
        """One sentence when the run was throttled."""
        if not self.throttled:
            return ()
        return (
            f"throttled while measuring ({', '.join(self.throttled)}): "
            "the latencies are worse than the board's own; cool or power it better and measure again",
        )


class HeatSampler:
    """Reads the heat before, about every `every_s` seconds during, and after what runs inside its `with`.

        with HeatSampler(HeatReader()) as heat:
            work()
        print(heat.record().highest_c)

    Keeps no series, only the ends and extremes, so that a run of days costs no memory.
    """

    def __init__(self, reader: HeatReader, every_s: float = 1.0) -> None:
        self._reader, self._every_s = reader, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="edgeloc-heat", daemon=True)
        self._snapshots: list[HeatSnapshot] = []  # the first and the newest
        self._samples = 0
        self._throttled: dict[str, None] = {}
        self._temperatures = _Extremes()
        self._clocks = _Extremes()
        self._began_at = self._ended_at = 0.0

    def __enter__(self) -> HeatSampler:
        self._began_at = time.monotonic()
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._take()

    def record(self) -> HeatRecord:
        """What was seen until now; ask when the `with` is over."""
        before, after = self._snapshots
        return HeatRecord(
            before=before,
            after=after,
            samples=self._samples,
            duration_s=round(self._ended_at - self._began_at, 3),
            lowest_c=dict(self._temperatures.lowest),
            highest_c=dict(self._temperatures.highest),
            lowest_mhz={cpus: int(mhz) for cpus, mhz in self._clocks.lowest.items()},
            highest_mhz={cpus: int(mhz) for cpus, mhz in self._clocks.highest.items()},
            throttled=(*self._throttled, *_between(before, after, set(self._throttled))),
            tells_throttling=before.throttled_now is not None or before.events is not None,
        )

    def _sample(self) -> None:
        while not self._stop.wait(self._every_s):
            self._take()

    def _take(self) -> None:
        seen = self._reader.read()
        self._ended_at = time.monotonic()
        self._samples += 1
        self._snapshots = [*self._snapshots[:1], seen] if self._snapshots else [seen, seen]
        self._throttled.update(dict.fromkeys(seen.throttled_now or ()))
        self._temperatures.add(seen.temperatures_c)
        self._clocks.add({clock.cpus: clock.current_mhz for clock in seen.clocks if clock.current_mhz is not None})


class _Extremes:
    """The lowest and the highest value by name."""

    def __init__(self) -> None:
        self.lowest: dict[str, float] = {}
        self.highest: dict[str, float] = {}

    def add(self, values: dict[str, float] | dict[str, int]) -> None:
        for name, value in values.items():
            self.lowest[name] = min(value, self.lowest.get(name, value))
            self.highest[name] = max(value, self.highest.get(name, value))


def _between(before: HeatSnapshot, after: HeatSnapshot, known: set[str]) -> tuple[str, ...]:
    """What came and went between two samples: the board remembers it since boot."""
    earlier = set(before.throttled_since_boot or ()) | known
    found = [name for name in after.throttled_since_boot or () if name not in earlier]
    # Cores of a package count the same event each, so the number itself says little.
    slowed = (after.events or 0) > (before.events or 0)
    return (*found, *(["processor slowed down by heat"] if slowed else []))
