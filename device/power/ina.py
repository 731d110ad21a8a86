"""INA219, INA226 and INA260 current sensors on an I2C bus, without a kernel driver (with one: `hwmon`).

Registers and their steps are from Texas Instruments' data sheets (SBOS448, SBOS547, SBOS656). Power
is computed here from the shunt's and the bus's voltage: the chips' own power register holds their
product in coarser steps, through a calibration that another program may have changed.
"""

from __future__ import annotations

import errno
import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeloc._support.backend import Uri
from edgeloc.device.power.base import PowerMeter, PowerSample, above_zero, percent
from edgeloc.errors import DeviceError, MissingExtra, UsageError, first_line

__all__ = ["CHIPS", "I2cBus", "InaChip", "InaMeter"]

_CONFIG, _SHUNT, _BUS, _DIE_ID = 0x00, 0x01, 0x02, 0xFF
# Breakout boards carry a resistor of 1 % unless they state otherwise.
_TOLERANCE = 0.01


class I2cBus(Protocol):
    """The part of smbus2.SMBus that is needed; words come with their bytes swapped."""

    def read_word_data(self, address: int, register: int) -> int: ...

    def write_word_data(self, address: int, register: int, value: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class InaChip:
    """One kind of chip: its steps, errors (data sheet, at 25 C) and the setting that averages over `averaging_s`.

    Parameters:
        shunt_v: the step of the shunt register in V.
        amps: the step of a chip that measures current itself, in A.
    """

    title: str
    bus_v: float
    bus_shift: int
    shunt_v: float
    amps: float
    full_scale: int
    offset_v: float
    offset_a: float
    gain_error: float
    config: int
    averaging_s: float
    die_id: int | None


# Averaging settings: 32 samples of 532 us for each voltage, or 16 of 1.1 ms; hardly anything falls between readings.
CHIPS = {
    "ina219": InaChip("INA219", 4e-3, 3, 10e-6, 0.0, 32000, 200e-6, 0.0, 0.01, 0x3EEF, 0.0341, None),
    "ina226": InaChip("INA226", 1.25e-3, 0, 2.5e-6, 0.0, 32767, 10e-6, 0.0, 0.002, 0x4527, 0.0352, 0x2260),
    "ina260": InaChip("INA260", 1.25e-3, 0, 0.0, 1.25e-3, 32767, 0.0, 5e-3, 0.0025, 0x6527, 0.0352, 0x2270),
}


class InaMeter(PowerMeter):
    """`ina219://1/0x40?shunt=0.1&tolerance=1`: bus 1, address 0x40, the shunt in ohms and its tolerance in %.

    An INA260 has its shunt inside and takes neither. The chip is set to average, and back on `close()`.

    Parameters:
        chip: a name in CHIPS.
        bus_number: of the I2C bus.
        address: on that bus.
        shunt_ohm: the shunt's resistance.
        tolerance: the shunt's, as a fraction.
        bus: used instead of smbus2, such as `edgeloc.testing.power.FakeI2cBus`.
    """

    rails = total = ("supply",)

    def __init__(
        self,
        chip: str,
        bus_number: int = 1,
        address: int = 0x40,
        *,
        shunt_ohm: float | None = None,
        tolerance: float = _TOLERANCE,
        bus: I2cBus | None = None,
    ) -> None:
        self._chip = CHIPS[chip]
        self._kind, self._number, self._address = chip, bus_number, address
        if self._chip.amps == 0 and shunt_ohm is None:
            raise UsageError(
                f"power meter {self.name} needs its shunt in ohms, as printed on the resistor (R100 is 0.1)",
                hint=f"write {self.name}?shunt=0.1",
            )
        self._amps = self._chip.amps or self._chip.shunt_v / (shunt_ohm or 1)
        self._given, self._bus = bus, bus
        self._config_before: int | None = None
        self.rate_hz = 1 / self._chip.averaging_s
        self.gain_error = self._chip.gain_error + (0 if self._chip.amps else tolerance)
        self._offset_a = self._chip.offset_a or self._chip.offset_v / (shunt_ohm or 1)
        shunt = "" if self._chip.amps else f", shunt {shunt_ohm:g} ohm within {100 * tolerance:g} %"
        self.source = f"{self._chip.title} on I2C bus {bus_number}, address {address:#04x}{shunt}"
        self.blind_to = "whatever does not flow through its shunt, such as a supply behind it"

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> InaMeter:
        """The meter of an ina219://, ina226:// or ina260:// URI; a bus has no `root`."""
        options = uri.options({} if CHIPS[uri.scheme].amps else {"shunt": above_zero, "tolerance": percent})
        bus, _, address = uri.path.partition("/")
        try:
            numbers = int(bus or "1"), int(address or "0x40", 0)
        except ValueError:
            numbers = -1, -1
        if numbers[0] < 0 or not 0x03 <= numbers[1] <= 0x77:
            raise UsageError(
                f"power meter {uri.text} names no bus and address",
                hint=f"write them as {uri.scheme}://1/0x40 (`i2cdetect -y 1` shows the addresses)",
            )
        tolerance = options.get("tolerance", _TOLERANCE)
        return cls(uri.scheme, *numbers, shunt_ohm=options.get("shunt"), tolerance=tolerance)

    @property
    def name(self) -> str:
        """Its URI without options."""
        return f"{self._kind}://{self._number}/{self._address:#04x}"

    def _open(self) -> None:
        self.resolution_w = self.offset_w = 0.0
        self._bus = self._given or self._smbus()
        if self._chip.die_id is not None and (found := self._word(_DIE_ID)) & 0xFFF0 != self._chip.die_id:
            raise DeviceError(
                f"power meter {self.name} is no {self._chip.title} (its die is {found:#06x})",
                hint="it may be an INA219 or another chip (`i2cdetect -y 1` shows what is on the bus)",
            )
        self._config_before = self._word(_CONFIG)
        self._write(_CONFIG, self._chip.config)
        # Until one averaging is through, the registers hold what was measured before.
        time.sleep(2 * self._chip.averaging_s)
        self._read()

    def _read(self) -> PowerSample:
        before = time.monotonic()
        raw = _signed(self._word(_SHUNT))
        volts = (self._word(_BUS) >> self._chip.bus_shift) * self._chip.bus_v
        t = (before + time.monotonic()) / 2
        if abs(raw) >= self._chip.full_scale:
            most = self._chip.full_scale * self._amps
            raise DeviceError(
                f"power meter {self.name}: more than the {most:.2f} A that it can measure flows through its shunt",
                hint="take a smaller shunt (and give it as shunt=)",
            )
        amps = raw * self._amps
        self.resolution_w = max(self.resolution_w, abs(amps) * self._chip.bus_v + volts * self._amps)
        self.offset_w = max(self.offset_w, volts * self._offset_a)
        return PowerSample(t, {"supply": volts * amps})

    def _close(self) -> None:
        bus, self._bus = self._bus, self._given
        try:
            if bus is not None and self._config_before is not None:
                bus.write_word_data(self._address, _CONFIG, _swapped(self._config_before))
        except OSError:
            pass  # it is gone, and its settings with it
        finally:
            self._config_before = None
            if bus is not None and self._given is None:
                bus.close()

    def _smbus(self) -> I2cBus:
        try:
            smbus2: Any = importlib.import_module("smbus2")
        except ImportError as error:
            raise MissingExtra("smbus2", "power", f"power meter {self.name}") from error
        try:
            bus: I2cBus = smbus2.SMBus(self._number)
        except OSError as error:
            raise _bus_trouble(self.name, self._number, error) from error
        return bus

    def _word(self, register: int) -> int:
        assert self._bus is not None
        try:
            return _swapped(self._bus.read_word_data(self._address, register))
        except OSError as error:
            raise _chip_trouble(self.name, self._kind, error) from error

    def _write(self, register: int, value: int) -> None:
        assert self._bus is not None
        try:
            self._bus.write_word_data(self._address, register, _swapped(value))
        except OSError as error:
            raise _chip_trouble(self.name, self._kind, error) from error


def _swapped(word: int) -> int:
    """SMBus sends the low byte first, the chips send the high one."""
    return (word & 0xFF) << 8 | word >> 8


def _signed(word: int) -> int:
    return word - 0x10000 if word & 0x8000 else word


def _bus_trouble(name: str, number: int, error: OSError) -> DeviceError:
    bus = f"/dev/i2c-{number}"
    reason, hint = f"{bus} cannot be opened ({first_line(error)})", "`ls /dev/i2c-*` shows the buses"
    if error.errno == errno.ENOENT:
        reason = f"there is no {bus}"
        hint = "switch I2C on (`sudo raspi-config nonint do_i2c 0`, `sudo modprobe i2c-dev`), or name another bus"
    elif error.errno in (errno.EACCES, errno.EPERM):
        reason, hint = f"no permission for {bus}", "`sudo usermod -aG i2c $USER`, then log in again"
    return DeviceError(f"power meter {name}: {reason}", hint=hint)


def _chip_trouble(name: str, kind: str, error: OSError) -> DeviceError:
    reason, hint = f"the bus failed ({first_line(error)})", "check wiring and address (`i2cdetect -y 1`)"
    if error.errno == errno.EBUSY:
        reason, hint = "a kernel driver holds the chip", f"read it through that driver, with hwmon://{kind}"
    elif error.errno in (errno.EREMOTEIO, errno.ENXIO, errno.EIO):
        reason = "no chip answers at this address"
        hint = "check wiring and address (`i2cdetect -y 1` shows those that answer)"
    return DeviceError(f"power meter {name}: {reason}", hint=hint)
