"""Fake power hardware: sysfs trees and captured output of boards, an I2C bus with INA chips, a meter."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.ina import CHIPS
from edgeloc.errors import DeviceError

__all__ = [
    "PMIC",
    "FakeI2cBus",
    "FakeMeter",
    "agx_orin_files",
    "ina219_files",
    "ina3221_files",
    "jetpack4_files",
    "orin_nano_files",
    "rapl_files",
    "write_tree",
]

# The configuration registers after power-on.
_POWER_ON = {"ina219": 0x399F, "ina226": 0x4127, "ina260": 0x6127}
# The rails of a Raspberry Pi 5, in the format of `vcgencmd pmic_read_adc`.
PMIC = """\
 3V7_WL_SW_A current(0)=0.00780688A
   3V3_SYS_A current(1)=0.08880326A
   1V8_SYS_A current(2)=0.17858238A
  DDR_VDD2_A current(3)=0.00000000A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.18053410A
    0V8_SW_A current(6)=0.32691310A
  VDD_CORE_A current(7)=0.94657990A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00012207A
   0V8_AON_A current(16)=0.00732600A
      HDMI_A current(22)=0.02258610A
 3V7_WL_SW_V volt(8)=3.70010400V
   3V3_SYS_V volt(9)=3.31625800V
   1V8_SYS_V volt(10)=1.80018300V
  DDR_VDD2_V volt(11)=1.10805900V
  DDR_VDDQ_V volt(12)=0.60366270V
   1V1_SYS_V volt(13)=1.10366600V
    0V8_SW_V volt(14)=0.80256350V
  VDD_CORE_V volt(15)=0.72001950V
   3V3_DAC_V volt(20)=3.30830200V
   3V3_ADC_V volt(21)=3.31135600V
   0V8_AON_V volt(19)=0.79841310V
      HDMI_V volt(23)=5.11478000V
     EXT5V_V volt(24)=5.11478000V
      BATT_V volt(25)=0.00000000V
"""


def write_tree(root: str | Path, files: Mapping[str, object]) -> Path:
    """Write `files` (path below `root` to content, to which an end of line is added) and return `root`."""
    for name, content in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return Path(root)


def ina219_files(folder: str = "sys/class/hwmon/hwmon2") -> dict[str, object]:
    """5.08 V and 1.5 A through 0.1 ohm, as the kernel's ina2xx driver shows them."""
    names = {"name": "ina219", "in0_input": 150, "in1_input": 5080, "curr1_input": 1500, "power1_input": 7620000}
    return {f"{folder}/{name}": value for name, value in (names | {"shunt_resistor": 100000}).items()}


def ina3221_files(folder: str, rails: Sequence[tuple[str, int, int]]) -> dict[str, object]:
    """One INA3221 of the kernel's driver with (label, mV, mA) for its channels, and a sum to be skipped."""
    files: dict[str, object] = {f"{folder}/name": "ina3221", f"{folder}/in7_label": "sum of shunt voltages"}
    for channel, (label, millivolts, milliamps) in enumerate(rails, start=1):
        files |= {
            f"{folder}/in{channel}_label": label,
            f"{folder}/in{channel}_input": millivolts,
            f"{folder}/curr{channel}_input": milliamps,
            f"{folder}/in{channel + 3}_input": 5 * milliamps,
            f"{folder}/shunt{channel}_resistor": 5000,
        }
    return files | {f"{folder}/in7_input": 99999}


def jetpack4_files() -> dict[str, object]:
    """A Jetson Nano's rails under JetPack 4."""
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files: dict[str, object] = {}
    for number, (name, volts, amps, power) in enumerate(
        [("POM_5V_IN", 5064, 512, 2592), ("POM_5V_GPU", 5064, 16, 81), ("POM_5V_CPU", 5064, 120, 607)]
    ):
        files |= {
            f"{folder}/rail_name_{number}": name,
            f"{folder}/in_voltage{number}_input": volts,
            f"{folder}/in_current{number}_input": amps,
            f"{folder}/in_power{number}_input": power,
        }
    return files


def orin_nano_files() -> dict[str, object]:
    """A Jetson Orin Nano's rails under JetPack 5 and later; its I2C devices include one that is no sensor."""
    rails = [("VDD_IN", 19080, 240), ("VDD_CPU_GPU_CV", 19080, 32), ("VDD_SOC", 19080, 72)]
    return ina3221_files("sys/bus/i2c/devices/1-0040/hwmon/hwmon1", rails) | {
        "sys/bus/i2c/devices/2-0050/hwmon/hwmon4/name": "jc42"
    }


def agx_orin_files() -> dict[str, object]:
    """A Jetson AGX Orin's two chips; one channel is not connected."""
    first = [("VDD_GPU_SOC", 19000, 400), ("VDD_CPU_CV", 19000, 100), ("VIN_SYS_5V0", 5000, 600)]
    second = [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 19000, 50), ("NC", 0, 0)]
    return ina3221_files("sys/bus/i2c/devices/1-0040/hwmon/hwmon3", first) | ina3221_files(
        "sys/bus/i2c/devices/1-0041/hwmon/hwmon4", second
    )


def rapl_files(microjoules: int = 1_000_000, most: int = 262_143_328_850) -> dict[str, object]:
    """One package with a zone inside it, and the platform's counter."""
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:1": "psys"}
    files: dict[str, object] = {}
    for zone, name in zones.items():
        folder = f"sys/class/powercap/{zone}"
        files |= {f"{folder}/name": name, f"{folder}/energy_uj": microjoules, f"{folder}/max_energy_range_uj": most}
    return files


class FakeI2cBus:
    """An I2C bus with one power sensor on it, in the place of smbus2.SMBus.

    `chip`: ina219, ina226 or ina260. `address`: its address on the bus. `shunt_ohm`: the resistance of its shunt.
    `volts`, `amps`: what flows at first; `set` changes it.

    `registers` holds the chip's registers by their numbers; like SMBus, the bus swaps the bytes of words.
    `fail(code)` makes every transfer raise OSError with that errno (EREMOTEIO: the chip was unplugged), `fail(None)`
    ends that. `closed` is True once the bus was closed.
    """

    def __init__(
        self,
        chip: str = "ina219",
        address: int = 0x40,
        *,
        shunt_ohm: float = 0.1,
        volts: float = 5.0,
        amps: float = 0.5,
    ) -> None:
        self._chip, self._address, self._shunt_ohm = CHIPS[chip], address, shunt_ohm
        self._errno: int | None = None
        self.closed = False
        self.registers: dict[int, int] = {0x00: _POWER_ON[chip]}
        if self._chip.die_id is not None:
            self.registers |= {0xFE: 0x5449, 0xFF: self._chip.die_id}
        self.set(volts, amps)

    def set(self, volts: float, amps: float) -> None:
        """Set what flows from now on; a current beyond the chip's range saturates."""
        raw = round(amps / self._chip.amps) if self._chip.amps else round(amps * self._shunt_ohm / self._chip.shunt_v)
        raw = max(-self._chip.full_scale, min(self._chip.full_scale, raw))
        self.registers[0x01] = raw & 0xFFFF
        self.registers[0x02] = round(volts / self._chip.bus_v) << self._chip.bus_shift

    def fail(self, code: int | None = errno.EREMOTEIO) -> None:
        """Make every transfer fail with errno `code`; None makes them work again."""
        self._errno = code

    def read_word_data(self, address: int, register: int) -> int:
        """The register's word, low byte first."""
        self._require(address)
        word = self.registers.get(register, 0)
        return (word & 0xFF) << 8 | word >> 8

    def write_word_data(self, address: int, register: int, value: int) -> None:
        """Set a register to `value`, low byte first."""
        self._require(address)
        self.registers[register] = (value & 0xFF) << 8 | value >> 8

    def close(self) -> None:
        """Mark the bus as closed."""
        self.closed = True

    def _require(self, address: int) -> None:
        if self._errno is not None or address != self._address:
            code = self._errno or errno.EREMOTEIO
            raise OSError(code, "no answer")


class FakeMeter(PowerMeter):
    """A power meter that reads what a function returns.

    `watts`: the power at a time, in W for seconds since `open()`.
    `rate_hz`: how often it is read.
    `lost_after`: after so many readings it is gone; None for never.
    `resolution_w`: the step of its readings, in W.
    """

    rails = total = ("fake",)
    source = "a function"
    blind_to = "everything: nothing is measured"

    def __init__(
        self,
        watts: Callable[[float], float],
        *,
        rate_hz: float = 100.0,
        lost_after: int | None = None,
        resolution_w: float = 0.0,
    ) -> None:
        self._watts, self._lost_after = watts, lost_after
        self.rate_hz, self.resolution_w = rate_hz, resolution_w
        self._began, self._reads = 0.0, 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return "fake"

    def _open(self) -> None:
        self._began, self._reads = time.monotonic(), 0

    def _read(self) -> PowerSample:
        if self._reads == self._lost_after:
            raise DeviceError("power meter fake is gone (lost_after)")
        self._reads += 1
        now = time.monotonic()
        return PowerSample(now, {"fake": self._watts(now - self._began)})
