"""The contract that every power meter holds to, over stand-ins of each kind and over what this machine has."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from edgeloc.device.power import METERS, PowerMeter, PowerTrace, find_meters, open_meter
from edgeloc.device.power.builtin import PmicMeter, RaplMeter
from edgeloc.device.power.hwmon import HwmonMeter, JetsonMeter
from edgeloc.device.power.ina import InaMeter
from edgeloc.device.power.recording import RecordedMeter, SerialMeter
from edgeloc.errors import DeviceError
from edgeloc.testing.power import (
    PMIC,
    FakeI2cBus,
    ScriptedMeter,
    ina219_files,
    ina3221_files,
    jetpack4_files,
    orin_nano_files,
    rapl_files,
)

Tree = Callable[[Mapping[str, object]], Path]


class Port:
    """A serial port on which a meter sends 5 V and 0.4 A without end."""

    def __init__(self) -> None:
        self.closed = False

    def readline(self) -> bytes:
        time.sleep(0.002)
        return b"5.00,0.400\r\n"

    def close(self) -> None:
        self.closed = True


def recorded(folder: Path) -> RecordedMeter:
    rows = "".join(f"{index * 0.01:.2f},5.0,{0.4 + index / 1000:.3f}\n" for index in range(100))
    (folder / "power.csv").write_text("time_s,volts,amps\n" + rows)
    return RecordedMeter(folder / "power.csv")


STAND_INS: dict[str, Callable[[Tree, Path], PowerMeter]] = {
    "pmic": lambda tree, folder: PmicMeter(run=lambda command: PMIC),
    "ina219": lambda tree, folder: InaMeter("ina219", shunt_ohm=0.1, bus=FakeI2cBus("ina219")),
    "ina226": lambda tree, folder: InaMeter("ina226", shunt_ohm=0.1, bus=FakeI2cBus("ina226")),
    "ina260": lambda tree, folder: InaMeter("ina260", bus=FakeI2cBus("ina260")),
    "hwmon-ina219": lambda tree, folder: HwmonMeter("ina219", root=tree(ina219_files())),
    "hwmon-ina3221": lambda tree, folder: HwmonMeter(
        "ina3221", root=tree(ina3221_files("sys/class/hwmon/hwmon0", [("in", 5000, 100)]))
    ),
    "jetson-4": lambda tree, folder: JetsonMeter(root=tree(jetpack4_files())),
    "jetson-5": lambda tree, folder: JetsonMeter(root=tree(orin_nano_files())),
    "rapl": lambda tree, folder: RaplMeter(root=tree(rapl_files())),
    "serial": lambda tree, folder: SerialMeter("/dev/ttyACM0", port=Port()),
    "csv": lambda tree, folder: recorded(folder),
    "scripted": lambda tree, folder: ScriptedMeter(lambda t: 3 + t),
}


def here(kind: str) -> PowerMeter:
    """This machine's own meter of the kind."""
    tried = [finding for finding in find_meters() if finding.uri.startswith(f"{kind}://")]
    found = [finding.uri for finding in tried if finding.found]
    if not found:
        reasons = "; ".join(finding.detail for finding in tried) or f"no {kind} sensor is here"
        pytest.skip(reasons)
    meter = open_meter(found[0])
    meter.close()
    return meter


@pytest.fixture(params=[*STAND_INS, "here-jetson", "here-pmic", "here-hwmon", "here-rapl"])
def meter(request: pytest.FixtureRequest, tree: Tree, tmp_path: Path) -> Iterator[PowerMeter]:
    kind = str(request.param)
    meter = here(kind.removeprefix("here-")) if kind.startswith("here-") else STAND_INS[kind](tree, tmp_path)
    yield meter
    meter.close()


def test_every_scheme_has_a_stand_in() -> None:
    assert set(METERS) == {kind.partition("-")[0] for kind in STAND_INS} - {"scripted"}


def test_says_what_it_is_and_what_it_does_not_see(meter: PowerMeter) -> None:
    with meter:
        assert meter.name and meter.source and meter.blind_to
        assert 0 < meter.rate_hz <= 1000
        assert meter.rails and set(meter.total) <= set(meter.rails)
        assert meter.gain_error is None or 0 <= meter.gain_error < 0.1


def test_samples_hold_the_rails_at_times_of_the_monotonic_clock(meter: PowerMeter) -> None:
    with meter:
        began = time.monotonic()
        samples = [meter.read() for _ in range(4)]
        assert samples[-1].t <= time.monotonic()
        assert samples[0].t >= began - 1
        assert all(before.t < after.t for before, after in itertools.pairwise(samples))
        for sample in samples:
            assert set(sample.watts or sample.joules) == set(meter.rails)
            assert set(sample.joules) <= set(meter.counter_range_j)
        assert meter.resolution_w >= 0 and meter.resolution_j >= 0


def test_its_samples_make_a_trace(meter: PowerMeter) -> None:
    with meter:
        trace = PowerTrace.from_samples([meter.read() for _ in range(4)], meter)
    estimate = trace.energy(float(trace.t[0]), float(trace.t[-1]))
    assert estimate.joules >= 0
    assert estimate.uncertainty_j >= 0


def test_a_closed_meter_refuses_and_opens_again(meter: PowerMeter) -> None:
    with pytest.raises(DeviceError, match=r"not open.*open\(\)"):
        meter.read()
    with meter:
        meter.read()
    meter.close()
    with pytest.raises(DeviceError, match="not open"):
        meter.read()
    with meter:
        meter.read()
