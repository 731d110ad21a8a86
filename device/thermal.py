"""Temperatures, clocks and throttling: as the board reports them now, and sampled beside a run."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeloc.device.cpu import cpu_list
from edgeloc.device.sysfs import Run, natural, no_tool, read_int, read_text, run_tool
from edgeloc.findings import Finding

__all__ = [
    "THROTTLE_BITS",
    "ClusterClock",
    "ThermalReader",
    "ThermalRecord",
    "ThermalSampler",
    "ThermalSnapshot",
    "decode_throttled",
]

# `vcgencmd get_throttled`; the same bits sixteen higher mean that it has occurred since boot.
# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
THROTTLE_BITS = {
    0: "under-voltage",
    1: "Arm frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_BOOT = 16
# The kernel's cooling devices that slow a processor down; fans are among them too, and harm nothing.
_SLOWING = re.compile(r"cpufreq|Processor|throttle", re.IGNORECASE)
# A sensor that is off or unconnected gives the ends of its scale; a Jetson's PMIC-Die a constant.
_PLAUSIBLE_C = (-40.0, 150.0)
_CONSTANT = ("PMIC-Die",)


@dataclass(frozen=True, slots=True)
class ClusterClock:
    """Cores that share a clock: `cpus` such as "0-3", the fastest core's clock now, and the highest one, in MHz."""

    cpus: str
    governor: str | None
    current_mhz: int | None
    max_mhz: int | None


@dataclass(frozen=True, slots=True)
class ThermalSnapshot:
    """One reading; None is what this board does not report.

    Parameters:
        temperatures_c: by sensor, °C.
        clocks: by cluster.
        throttled_now: what slows the board down, such as "under-voltage"; empty: nothing does.
        throttled_since_boot: what has slowed it down since it started.
        events: how often a PC's cores and packages were throttled since boot.
        power_mode: a Jetson's, such as MAXN or 15W.
    """

    temperatures_c: dict[str, float]
    clocks: tuple[ClusterClock, ...]
    throttled_now: tuple[str, ...] | None = None
    throttled_since_boot: tuple[str, ...] | None = None
    events: int | None = None
    power_mode: str | None = None

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The hottest sensor and its temperature in °C."""
        return max(self.temperatures_c.items(), key=lambda item: item[1], default=None)

    @property
    def governor(self) -> str | None:
        """The governor of the first core."""
        return next((clock.governor for clock in self.clocks if clock.cpus.split("-")[0].split(",")[0] == "0"), None)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values for JSON."""
        return asdict(self)


class ThermalReader:
    """Reads a board's temperatures and clocks from the sys and proc under `root`, and through the board's own tools.

    `run` gives what a command prints, or None; it runs `vcgencmd get_throttled` on a
    Raspberry Pi and once `nvpmodel -q` on a Jetson. Under another root than / there are no
    tools unless `run` is given, since this machine's would describe another board.

        thermal = ThermalReader().read()
        print(thermal.hottest, thermal.throttled_now)
    """

    def __init__(self, root: Path = Path("/"), run: Run | None = None) -> None:
        self._root = root
        self._run: Run = run or (run_tool if root == Path("/") else no_tool)
        model = read_text(root / "proc/device-tree/model") or ""
        self._pi = model.startswith("Raspberry Pi")
        # On boards of the Zero range the under-voltage bits mean nothing.
        self._unknown_bits = {0} if model.startswith("Raspberry Pi Zero") else set()

    def read(self) -> ThermalSnapshot:
        """One reading, in a few ms; never fails."""
        bits = self._throttle_bits()
        cooling = self._cooling()
        now: tuple[str, ...] | None = None
        since: tuple[str, ...] | None = None
        if bits is not None:
            now, since = decode_throttled(bits, self._unknown_bits)
        if cooling is not None:
            now = (*(now or ()), *cooling)
        return ThermalSnapshot(
            temperatures_c=dict(self._temperatures()),
            clocks=self._clocks(),
            throttled_now=now,
            throttled_since_boot=since,
            events=self._events(),
            power_mode=self.power_mode,
        )

    @cached_property
    def power_mode(self) -> str | None:
        """What `nvpmodel -q` calls the power mode, such as MAXN or 15W; read once, since it only changes by hand."""
        if "nvidia," not in (read_text(self._root / "proc/device-tree/compatible") or ""):
            return None
        match = re.search(r"NV Power Mode:\s*(\S.*)", self._run(["nvpmodel", "-q"]) or "")
        return match[1].strip() if match else None

    def _throttle_bits(self) -> int | None:
        if not self._pi:
            return None
        match = re.search(r"throttled=0x([0-9a-fA-F]+)", self._run(["vcgencmd", "get_throttled"]) or "")
        return int(match[1], 16) if match else None

    def _cooling(self) -> tuple[str, ...] | None:
        """The cooling devices that hold a processor back now; None where there are none of them."""
        reported, active = False, []
        for device in self._under("sys/class/thermal", "cooling_device*"):
            kind, state = read_text(device / "type"), read_int(device / "cur_state")
            if kind and state is not None and _SLOWING.search(kind):
                reported = True
                active += [f"thermal throttling ({kind})"] if state > 0 else []
        return tuple(dict.fromkeys(active)) if reported else None

    def _temperatures(self) -> Iterator[tuple[str, float]]:
        """Thermal zones, then those sensors of hwmon that are not a zone over again."""
        seen: set[str] = set()
        zones: set[str] = set()
        for zone in self._under("sys/class/thermal", "thermal_zone*"):
            kind = read_text(zone / "type") or zone.name
            zones.add(kind.replace("-", "_"))
            if kind not in _CONSTANT:
                yield from _celsius(kind, zone / "temp", seen)
        for chip in self._under("sys/class/hwmon", "hwmon*"):
            name = read_text(chip / "name") or chip.name
            if name.replace("-", "_") not in zones:
                for sensor in sorted(chip.glob("temp*_input"), key=natural):
                    label = read_text(chip / sensor.name.replace("_input", "_label"))
                    yield from _celsius(f"{name} {label}" if label else name, sensor, seen)

    def _clocks(self) -> tuple[ClusterClock, ...]:
        groups: dict[tuple[str | None, int | None], list[tuple[int, int | None]]] = {}
        for folder in self._under("sys/devices/system/cpu", "cpu[0-9]*"):
            clock = folder / "cpufreq"
            governor = read_text(clock / "scaling_governor")
            highest, now = _mhz(clock / "cpuinfo_max_freq"), _mhz(clock / "scaling_cur_freq")
            if governor is not None or now is not None:
                groups.setdefault((governor, highest), []).append((int(folder.name[3:]), now))
        return tuple(
            ClusterClock(
                cpu_list(tuple(cpu for cpu, _ in cores)),
                governor,
                max((now for _, now in cores if now is not None), default=None),
                highest,
            )
            for (governor, highest), cores in groups.items()
        )

    def _events(self) -> int | None:
        """Times that a PC's cores, or their packages, were throttled since boot."""
        counts = [
            count
            for folder in self._under("sys/devices/system/cpu", "cpu[0-9]*")
            for name in ("core_throttle_count", "package_throttle_count")
            if (count := read_int(folder / "thermal_throttle" / name)) is not None
        ]
        return sum(counts) if counts else None

    def _under(self, folder: str, pattern: str) -> list[Path]:
        return sorted((self._root / folder).glob(pattern), key=natural)


def decode_throttled(bits: int, unknown: set[int] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What slows a Raspberry Pi down now, and what has since boot; bits in `unknown` are left out."""
    known = {bit: name for bit, name in THROTTLE_BITS.items() if bit not in (unknown or set())}
    now = tuple(name for bit, name in known.items() if bits >> bit & 1)
    since = tuple(name for bit, name in known.items() if bits >> (bit + _SINCE_BOOT) & 1)
    return now, since


@dataclass(frozen=True, slots=True)
class ThermalRecord:
    """Temperatures and clocks from before a run until after it.

    Parameters:
        before: the reading at the start.
        after: the reading at the end.
        samples: how many readings were taken, the ends included.
        duration_s: from the first to the last, in seconds.
        lowest_c: by sensor.
        highest_c: by sensor.
        lowest_mhz: by cluster, such as "0-3".
        highest_mhz: by cluster.
        throttled: what slowed the board down during the run.
        reports_throttling: whether the board reports throttling at all; where it does not, an empty `throttled` means
            nothing.
    """

    before: ThermalSnapshot
    after: ThermalSnapshot
    samples: int
    duration_s: float
    lowest_c: dict[str, float]
    highest_c: dict[str, float]
    lowest_mhz: dict[str, int]
    highest_mhz: dict[str, int]
    throttled: tuple[str, ...]
    reports_throttling: bool

    def findings(self) -> tuple[Finding, ...]:
        """`throttled-while-measuring` when the run was throttled."""
        if not self.throttled:
            return ()
        message = (
            f"throttled while measuring ({', '.join(self.throttled)}): the latencies are worse than the board's own"
        )
        fix = "cool or power it better and measure again"
        return (Finding("throttled-while-measuring", "warning", message, fix),)


class ThermalSampler:
    """Reads temperatures and clocks before, about every `every_s` seconds during, and after its `with` block.

        with ThermalSampler(ThermalReader()) as thermal:
            work()
        print(thermal.record().highest_c)

    Keeps no series, only the ends and extremes, so that a run of days costs no memory.
    """

    def __init__(self, reader: ThermalReader, every_s: float = 1.0) -> None:
        self._reader, self._every_s = reader, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="edgeloc-thermal", daemon=True)
        self._snapshots: list[ThermalSnapshot] = []  # the first and the newest
        self._samples = 0
        self._throttled: dict[str, None] = {}
        self._temperatures = _Extremes()
        self._clocks = _Extremes()
        self._began_at = self._ended_at = 0.0

    def __enter__(self) -> ThermalSampler:
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

    def record(self) -> ThermalRecord:
        """What was seen until now; call it after the `with` block."""
        before, after = self._snapshots
        return ThermalRecord(
            before=before,
            after=after,
            samples=self._samples,
            duration_s=round(self._ended_at - self._began_at, 3),
            lowest_c=dict(self._temperatures.lowest),
            highest_c=dict(self._temperatures.highest),
            lowest_mhz={cpus: int(mhz) for cpus, mhz in self._clocks.lowest.items()},
            highest_mhz={cpus: int(mhz) for cpus, mhz in self._clocks.highest.items()},
            throttled=(*self._throttled, *_between(before, after, set(self._throttled))),
            reports_throttling=before.throttled_now is not None or before.events is not None,
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


def _celsius(name: str, path: Path, seen: set[str]) -> Iterator[tuple[str, float]]:
    """The sensor's temperature under a unique name; nothing where it is implausible."""
    value = read_int(path)
    if value is None or not _PLAUSIBLE_C[0] <= value / 1000 <= _PLAUSIBLE_C[1]:
        return
    unique, number = name, 1
    while unique in seen:
        number += 1
        unique = f"{name} #{number}"
    seen.add(unique)
    yield unique, value / 1000


def _mhz(path: Path) -> int | None:
    khz = read_int(path)
    return khz // 1000 if khz else None


class _Extremes:
    """The lowest and the highest value by name."""

    def __init__(self) -> None:
        self.lowest: dict[str, float] = {}
        self.highest: dict[str, float] = {}

    def add(self, values: dict[str, float] | dict[str, int]) -> None:
        for name, value in values.items():
            self.lowest[name] = min(value, self.lowest.get(name, value))
            self.highest[name] = max(value, self.highest.get(name, value))


def _between(before: ThermalSnapshot, after: ThermalSnapshot, known: set[str]) -> tuple[str, ...]:
    """What came and went between two samples: the board remembers it since boot."""
    earlier = set(before.throttled_since_boot or ()) | known
    found = [name for name in after.throttled_since_boot or () if name not in earlier]
    # Each core of a package counts the same event, so the number itself means little.
    slowed = (after.events or 0) > (before.events or 0)
    return (*found, *(["thermal throttling"] if slowed else []))
