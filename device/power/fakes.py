"""Stand-ins for power hardware, for tests of this package and of its users': an I2C bus with INA chips, a meter."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.ina import CHIPS
from edgeloc.errors import DeviceError

__all__ = ["FakeI2cBus", "ScriptedMeter"]

_POWER_ON = {"ina219": 0x399F, "ina226": 0x4127, "ina260": 0x6127}


class FakeI2cBus:
    """An I2C bus with one INA219, INA226 or INA260 whose registers hold what `set(volts, amps)` says.

    It has the methods of smbus2.SMBus that are used here, and swaps the bytes of words as SMBus
    does. `fail(code)` makes every transfer raise OSError with that errno, EREMOTEIO being a chip
    that was unplugged; `fail(None)` mends it. `registers` are as the chip numbers them.
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
        """What flows from now on; a current beyond the chip's range saturates, as it does there."""
        raw = round(amps / self._chip.amps) if self._chip.amps else round(amps * self._shunt_ohm / self._chip.shunt_v)
        raw = max(-self._chip.full_scale, min(self._chip.full_scale, raw))
        self.registers[0x01] = raw & 0xFFFF
        self.registers[0x02] = round(volts / self._chip.bus_v) << self._chip.bus_shift

    def fail(self, code: int | None = errno.EREMOTEIO) -> None:
        """Let every transfer fail with errno `code`, or work again."""
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
        """Remember that the bus was given back."""
        self.closed = True

    def _require(self, address: int) -> None:
        if self._errno is not None or address != self._address:
            code = self._errno or errno.EREMOTEIO
            raise OSError(code, "no answer")


class ScriptedMeter(PowerMeter):
    """A meter that reads `watts(seconds since open)`, and is gone after `lost_after` readings."""

    rails = total = ("scripted",)
    source = "a script"
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
        return "scripted"

    def _open(self) -> None:
        self._began, self._reads = time.monotonic(), 0

    def _read(self) -> PowerSample:
        if self._reads == self._lost_after:
            raise DeviceError("power meter scripted is gone, as its script says")
        self._reads += 1
        now = time.monotonic()
        return PowerSample(now, {"scripted": self._watts(now - self._began)})
