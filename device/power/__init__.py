"""Power meters by URI."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edgeloc._support.lookup import Registry
from edgeloc.device.power.base import AbsentMeterError, PowerMeter, PowerSample, parse_uri
from edgeloc.device.power.hwmon import DRIVERS
from edgeloc.device.power.trace import EnergyEstimate, PowerSampler, PowerTrace, net_energy
from edgeloc.errors import DeviceError, EdgelocError
from edgeloc.findings import Finding

__all__ = [
    "METERS",
    "EnergyEstimate",
    "PowerMeter",
    "PowerSample",
    "PowerSampler",
    "PowerTrace",
    "find_meters",
    "net_energy",
    "open_meter",
]

METERS: Registry[type[PowerMeter]] = Registry(
    "power meter",
    "edgeloc.meters",
    {
        "jetson": "edgeloc.device.power.hwmon:JetsonMeter",
        "pmic": "edgeloc.device.power.builtin:PmicMeter",
        "hwmon": "edgeloc.device.power.hwmon:HwmonMeter",
        "rapl": "edgeloc.device.power.builtin:RaplMeter",
        "ina219": "edgeloc.device.power.ina:InaMeter",
        "ina226": "edgeloc.device.power.ina:InaMeter",
        "ina260": "edgeloc.device.power.ina:InaMeter",
        "serial": "edgeloc.device.power.recording:SerialMeter",
        "csv": "edgeloc.device.power.recording:RecordedMeter",
    },
)
_EXAMPLES = (
    "pmic://, jetson://, ina219://1/0x40?shunt=0.1, hwmon://ina219, rapl://, serial:///dev/ttyACM0, csv://power.csv"
)


def open_meter(uri: str, *, root: str | Path = "/") -> PowerMeter:
    """Open a power meter; the caller closes it, best by a `with`.

    Parameters:
        uri: the meter, such as `ina219://1/0x40?shunt=0.1`. `auto` takes the first that can be read: the board's own
            sensors (jetson://, pmic://), a sensor with a kernel driver (hwmon://), the processor's counters (rapl://).
            Meters on an I2C bus or a serial port are never searched for, since probing may disturb other devices there.
        root: where sys is found.

    Raises UsageError for an unknown scheme or option, DeviceError where the meter is not there or cannot be read,
    MissingExtra without the package it needs.
    """
    if uri == "auto":
        return _first_found(Path(root))
    meter = _meter(uri, Path(root))
    meter.open()
    return meter


def find_meters(root: str | Path = "/") -> dict[str, Finding]:
    """What became of each meter that `auto` tries, by its URI and in its order; each is opened and closed again.

    `meter-found` is ok, `meter-absent` a note, `meter-unreadable` a warning. `root` is where sys is found.
    """
    return {uri: _looked_at(uri, Path(root)) for uri in _candidates(Path(root))}


def _looked_at(uri: str, root: Path) -> Finding:
    try:
        with _meter(uri, root) as meter:
            return Finding("meter-found", "ok", meter.source)
    except AbsentMeterError as error:
        return Finding("meter-absent", "note", error.message, error.hint or None)
    except EdgelocError as error:
        return Finding("meter-unreadable", "warning", error.message, error.hint or None)


def _meter(uri: str, root: Path) -> PowerMeter:
    parts = parse_uri(uri)
    return METERS.find(parts.scheme, uri, _EXAMPLES).from_uri(parts, root)


def _candidates(root: Path) -> list[str]:
    chips = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = folder / "name"
        if name.exists() and name.read_text(errors="replace").strip() in DRIVERS:
            chips.append(f"hwmon:///{folder.relative_to(root).as_posix()}")
    return ["jetson://", "pmic://", *chips, "rapl://"]


def _first_found(root: Path) -> PowerMeter:
    for uri in _candidates(root):
        with suppress(EdgelocError):
            return open_meter(uri, root=root)
    raise DeviceError(
        "no power meter was found (tried jetson, pmic, hwmon and rapl)",
        hint="name one as {power}, such as ina219://1/0x40?shunt=0.1; `edgeloc doctor` shows why one cannot be read",
    )
