"""What each board shows is read right, and every failure is a sentence with its fix."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgeloc.device.power import PowerTrace, find_meters, open_meter
from edgeloc.device.power.builtin import PmicMeter, parse_adc, run_command
from edgeloc.device.power.ina import InaMeter
from edgeloc.errors import DeviceError, EdgelocError, MissingExtra, UsageError
from edgeloc.testing.power import (
    PMIC,
    FakeI2cBus,
    agx_orin_files,
    ina219_files,
    ina3221_files,
    jetpack4_files,
    orin_nano_files,
    rapl_files,
)

Tree = Callable[[Mapping[str, object]], Path]


def total(meter_uri: str, root: Path) -> float:
    with open_meter(meter_uri, root=root) as meter:
        sample = meter.read()
        return sum(sample.watts[rail] for rail in meter.total)


def test_pi5_rails() -> None:
    rails = parse_adc(PMIC)
    assert len(rails) == 12
    assert rails["VDD_CORE"] == (0.72001950, 0.94657990)
    assert "EXT5V" not in rails and "BATT" not in rails


def test_pi5_power_is_the_sum_of_volts_times_amps() -> None:
    with PmicMeter(run=lambda command: PMIC) as meter:
        sample = meter.read()
    assert sample.watts["VDD_CORE"] == pytest.approx(0.6816, abs=1e-4)
    assert sum(sample.watts.values()) == pytest.approx(1.9091, abs=1e-3)
    assert "USB" in meter.blind_to
    assert meter.rate_hz <= 10


def test_pi5_step_is_the_smallest_change_seen() -> None:
    amps = iter([0.94657990, 0.94657990, 0.94755576, 0.95048334])
    with PmicMeter(run=lambda command: PMIC.replace("0.94657990", f"{next(amps):.8f}")) as meter:
        for _ in range(3):
            meter.read()
    assert meter.resolution_w == pytest.approx(0.72001950 * 0.00097586, rel=1e-3)


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("VCHI initialization failed", "usermod -aG video"),
        ("Can't open device file: /dev/vcio", "usermod -aG video"),
        ('error=1 error_msg="Command not registered"', "only the Raspberry Pi 5"),
        ("", "rpi-eeprom-update"),
    ],
)
def test_pi_without_the_chip_or_the_right(said: str, fix: str) -> None:
    with pytest.raises(DeviceError, match=fix):
        PmicMeter(run=lambda command: said).open()


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(DeviceError, match="sudo apt install raspi-utils`"):
        run_command(["no-such-vcgencmd"])


def test_jetson_nano_under_jetpack_4(tree: Tree) -> None:
    root = tree(jetpack4_files())
    assert total("jetson://", root) == pytest.approx(2.592)
    with open_meter("jetson://", root=root) as meter:
        assert meter.rails == ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")
        assert "POM_5V_IN" in meter.source and "carrier board" in meter.blind_to


def test_orin_nano_under_jetpack_5_counts_nothing_twice(tree: Tree) -> None:
    assert total("jetson://", tree(orin_nano_files())) == pytest.approx(19.08 * 0.240)


def test_agx_orin_is_the_sum_of_its_connected_rails(tree: Tree) -> None:
    root = tree(agx_orin_files())
    assert total("jetson://", root) == pytest.approx(19 * 0.4 + 19 * 0.1 + 5 * 0.6 + 19 * 0.05)
    with open_meter("jetson://", root=root) as meter:
        assert meter.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
        assert "more than this sum" in meter.blind_to


def test_channels_that_the_device_tree_disables_are_left_out(tree: Tree) -> None:
    """They keep their files, lose their label and cannot be read."""
    files = agx_orin_files()
    second = "sys/bus/i2c/devices/1-0041/hwmon/hwmon4"
    for channel in (1, 3):
        del files[f"{second}/in{channel}_label"]
        files[f"{second}/in{channel}_enable"] = 0
    with open_meter("jetson://", root=tree(files)) as meter:
        assert meter.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")


def test_a_loose_ina3221_is_no_jetsons(tree: Tree) -> None:
    rails = [("camera", 5000, 300), ("motor", 12000, 900)]
    files = ina3221_files("sys/bus/i2c/devices/1-0040/hwmon/hwmon0", rails)
    root = tree(files | ina3221_files("sys/class/hwmon/hwmon0", rails))
    with open_meter("auto", root=root) as meter:
        assert meter.name.startswith("hwmon://")


def test_ina3221_step_is_that_of_the_chip(tree: Tree) -> None:
    with open_meter("jetson://", root=tree(orin_nano_files())) as meter:
        assert meter.resolution_w == pytest.approx(0.240 * 0.008 + 19.08 * 40e-6 / 5e-3)


def test_ina219_through_the_kernel(tree: Tree) -> None:
    root = tree(ina219_files())
    assert total("hwmon://ina219", root) == pytest.approx(7.62)
    assert total("hwmon:///sys/class/hwmon/hwmon2", root) == pytest.approx(7.62)
    with open_meter("hwmon://ina219?tolerance=1.5", root=root) as meter:
        assert meter.resolution_w == pytest.approx(0.002)
        assert meter.gain_error == pytest.approx(0.015)


def test_ina3221_through_the_kernel(tree: Tree) -> None:
    root = tree(ina3221_files("sys/class/hwmon/hwmon0", [("camera", 5000, 300), ("NC", 0, 0), ("board", 5000, 900)]))
    with open_meter("hwmon://ina3221", root=root) as meter:
        assert meter.read().watts == pytest.approx({"camera": 1.5, "board": 4.5})


def test_several_chips_of_one_name_must_be_named_by_path(tree: Tree) -> None:
    root = tree(ina219_files() | ina219_files("sys/class/hwmon/hwmon3"))
    with pytest.raises(UsageError, match="hwmon:///sys/class/hwmon/hwmon2, hwmon:///sys/class/hwmon/hwmon3"):
        open_meter("hwmon://ina219", root=root)


def test_rapl_adds_packages_and_leaves_out_zones_inside(tree: Tree) -> None:
    root = tree(rapl_files())
    with open_meter("rapl://", root=root) as meter:
        assert meter.rails == ("package-0", "psys")
        assert meter.total == ("package-0",)
        assert meter.read().joules["package-0"] == pytest.approx(1.0)


def test_rapl_over_its_wrap(tree: Tree) -> None:
    """60 J a second of a counter that holds 100 J, read each second."""
    root = tree(rapl_files(90_000_000, 100_000_000))
    file = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    samples = []
    with open_meter("rapl://", root=root) as meter:
        for second in range(8):
            file.write_text(str((90_000_000 + 60_000_000 * second) % 100_000_000))
            samples.append(type(meter.read())(float(second), joules=meter.read().joules))
        estimate = PowerTrace.from_samples(samples, meter).energy(0.0, 7.0)
    assert estimate.joules == pytest.approx(420.0)
    assert estimate.uncertainty_j < 4.2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_rapl_without_the_right_to_read(tree: Tree) -> None:
    root = tree(rapl_files())
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    with pytest.raises(DeviceError, match=r"root only.*chmod g\+r"):
        open_meter("rapl://", root=root)


def test_a_file_that_may_not_be_read_names_its_fix(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(rapl_files())

    def forbidden(path: Path, **options: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(errno.EACCES, "Permission denied")
        return path.read_bytes().decode()

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(DeviceError, match=r"root only.*chmod g\+r"):
        open_meter("rapl://", root=root)


@pytest.mark.parametrize(("content", "says"), [("", "no number"), ("N/A", "no number")])
def test_nonsense_in_sysfs_is_no_reading(tree: Tree, content: str, says: str) -> None:
    root = tree(ina219_files() | {"sys/class/hwmon/hwmon2/power1_input": content})
    with pytest.raises(DeviceError, match=says):
        open_meter("hwmon://ina219", root=root)


def test_a_sensor_that_goes_away(tree: Tree) -> None:
    root = tree(ina219_files())
    with open_meter("hwmon://ina219", root=root) as meter:
        meter.read()
        (root / "sys/class/hwmon/hwmon2/power1_input").unlink()
        with pytest.raises(DeviceError, match="not there: the sensor or its driver is gone"):
            meter.read()


@pytest.mark.parametrize(("chip", "watts"), [("ina219", 7.62), ("ina226", 3.81), ("ina260", 7.62)])
def test_i2c_registers(chip: str, watts: float) -> None:
    bus = FakeI2cBus(chip, volts=5.08, amps=0.75 if chip == "ina226" else 1.5)
    shunt = None if chip == "ina260" else 0.1
    with InaMeter(chip, shunt_ohm=shunt, bus=bus) as meter:
        sample = meter.read()
        assert sum(sample.watts.values()) == pytest.approx(watts, abs=meter.resolution_w)


@pytest.mark.parametrize(
    ("chip", "amps", "at_power_on", "current", "bus_voltage", "averaging"),
    [
        ("ina219", 1.5, 0x399F, 15000, 1270 << 3, 0x3EEF),  # 10 uV and 4 mV; 32 samples of each
        ("ina226", 0.75, 0x4127, 30000, 4064, 0x4527),  # 2.5 uV and 1.25 mV; 16 samples of 1.1 ms
        ("ina260", 1.5, 0x6127, 1200, 4064, 0x6527),  # 1.25 mA and 1.25 mV
    ],
)
def test_registers_hold_what_the_data_sheet_says(
    chip: str, amps: float, at_power_on: int, current: int, bus_voltage: int, averaging: int
) -> None:
    bus = FakeI2cBus(chip, volts=5.08, amps=amps)
    assert bus.read_word_data(0x40, 0x00) == (at_power_on & 0xFF) << 8 | at_power_on >> 8
    assert (bus.registers[0x01], bus.registers[0x02]) == (current, bus_voltage)
    with InaMeter(chip, shunt_ohm=None if chip == "ina260" else 0.1, bus=bus):
        assert bus.registers[0x00] == averaging
    assert bus.registers[0x00] == at_power_on


def test_current_that_flows_back_is_negative() -> None:
    with InaMeter("ina226", shunt_ohm=0.1, bus=FakeI2cBus("ina226", volts=5, amps=-0.2)) as meter:
        assert sum(meter.read().watts.values()) == pytest.approx(-1.0, abs=0.01)


def test_too_much_current_is_refused_instead_of_clipped() -> None:
    bus = FakeI2cBus("ina226", volts=5, amps=0.5)
    with InaMeter("ina226", shunt_ohm=0.1, bus=bus) as meter:
        bus.set(5, 2.0)
        with pytest.raises(DeviceError, match=r"more than the 0\.82 A.*smaller shunt"):
            meter.read()


def test_the_chip_is_set_to_average_and_back() -> None:
    bus = FakeI2cBus("ina219")
    with InaMeter("ina219", shunt_ohm=0.1, bus=bus):
        assert bus.registers[0x00] != 0x399F
    assert bus.registers[0x00] == 0x399F


def test_another_chip_at_the_address() -> None:
    with pytest.raises(DeviceError, match="is no INA226"):
        InaMeter("ina226", shunt_ohm=0.1, bus=FakeI2cBus("ina260")).open()


@pytest.mark.parametrize(
    ("code", "fix"),
    [(errno.EREMOTEIO, "i2cdetect"), (errno.EBUSY, "hwmon://ina219"), (errno.ETIMEDOUT, "wiring")],
)
def test_i2c_failures_name_their_fix(code: int, fix: str) -> None:
    bus = FakeI2cBus("ina219")
    with InaMeter("ina219", shunt_ohm=0.1, bus=bus) as meter:
        bus.fail(code)
        with pytest.raises(DeviceError, match=fix):
            meter.read()
    bus.fail(None)


def test_i2c_without_smbus2_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "smbus2", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeloc\[power\]'"):
        open_meter("ina219://1/0x40?shunt=0.1")


def test_no_i2c_bus() -> None:
    pytest.importorskip("smbus2")
    with pytest.raises(DeviceError, match=r"no /dev/i2c-77; switch I2C on"):
        open_meter("ina219://77/0x40?shunt=0.1")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("ina219://1/0x40", "needs its shunt"),
        ("ina219://1/0x99?shunt=0.1", "i2cdetect"),
        ("ina219://1/0x40?shunt=0", "shunt=0 must be a number above 0"),
        ("ina260://1/0x40?shunt=0.1", "no option 'shunt'"),
        ("watts://x", "watts://x is of no known kind"),
        ("ina219", "is no URI"),
        ("jetson://?x=1", "no option 'x'"),
        ("csv://", "name the file"),
        ("csv:///no/such.csv", "cannot be read"),
        ("serial://", "names no device"),
        ("serial:///dev/x?columns=ohms", "columns=ohms must be watts, or volts and amps"),
        ("serial:///dev/x?baud=0.5", "baud=0.5 must be a whole number"),
        ("pmic://1", "'1' means nothing here"),
        ("csv:///no/such#1.csv", "/no/such#1.csv cannot be read"),
    ],
)
def test_a_wrong_uri_is_one_sentence(uri: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_meter(uri)
    assert "\n" not in str(caught.value)


def test_auto_takes_the_first_that_reads(tree: Tree) -> None:
    root = tree(ina219_files() | rapl_files())
    with open_meter("auto", root=root) as meter:
        assert meter.name.startswith("hwmon://")
    with open_meter("auto", root=tree(jetpack4_files())) as meter:
        assert meter.name == "jetson://"


def test_auto_without_a_meter_says_what_to_connect(tree: Tree) -> None:
    with pytest.raises(DeviceError, match="no power meter was found.*name one as power, such as ina219://"):
        open_meter("auto", root=tree({}))


def test_each_meter_that_was_looked_for_is_listed_with_its_reason(tree: Tree) -> None:
    findings = find_meters(tree(ina219_files()))
    assert findings["hwmon:///sys/class/hwmon/hwmon2"].code == "meter-found"
    assert findings["jetson://"].code == "meter-absent" and "Jetson's rails" in findings["jetson://"].message
    assert findings["rapl://"].code == "meter-absent" and "no processor package" in findings["rapl://"].message


def test_a_meter_that_is_there_and_cannot_be_read_is_a_warning_with_its_fix(tree: Tree) -> None:
    root = tree(ina219_files() | {"sys/class/hwmon/hwmon2/power1_input": "N/A"})
    finding = find_meters(root)["hwmon:///sys/class/hwmon/hwmon2"]
    assert (finding.code, finding.severity) == ("meter-unreadable", "warning")
    assert "no number" in finding.message and "dmesg" in (finding.fix or "")


def test_every_failure_is_of_our_tree() -> None:
    with pytest.raises(EdgelocError):
        PmicMeter(run=lambda command: "rubbish").open()
