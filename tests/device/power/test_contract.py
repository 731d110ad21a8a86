"""The contract that every power meter holds to, over fakes of each kind and over what this machine has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from edgeloc.device.power import METERS, PowerMeter, find_meters, open_meter
from edgeloc.device.power.builtin import PmicMeter, RaplMeter
from edgeloc.device.power.hwmon import HwmonMeter, JetsonMeter
from edgeloc.device.power.ina import InaMeter
from edgeloc.device.power.recording import RecordedMeter, SerialMeter
from edgeloc.testing import FakeI2cBus, FakeMeter, MeterSuite
from edgeloc.testing.power import (
    PMIC,
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


FAKES: dict[str, Callable[[Tree, Path], PowerMeter]] = {
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
    "fake": lambda tree, folder: FakeMeter(lambda t: 3 + t),
}


def here(kind: str) -> PowerMeter:
    """This machine's own meter of the kind."""
    tried = {uri: finding for uri, finding in find_meters().items() if uri.startswith(f"{kind}://")}
    found = [uri for uri, finding in tried.items() if finding.severity == "ok"]
    if not found:
        reasons = "; ".join(map(str, tried.values())) or f"no {kind} sensor is here"
        pytest.skip(reasons)
    meter = open_meter(found[0])
    meter.close()
    return meter


class TestEveryMeter(MeterSuite):
    @pytest.fixture(params=[*FAKES, "here-jetson", "here-pmic", "here-hwmon", "here-rapl"])
    def meter(self, request: pytest.FixtureRequest, tree: Tree, tmp_path: Path) -> Iterator[PowerMeter]:
        kind = str(request.param)
        meter = here(kind.removeprefix("here-")) if kind.startswith("here-") else FAKES[kind](tree, tmp_path)
        yield meter
        meter.close()


def test_every_scheme_has_a_fake() -> None:
    assert set(METERS) == {kind.partition("-")[0] for kind in FAKES} - {"fake"}
