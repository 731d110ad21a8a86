"""USB power meters and microcontrollers that send a line of numbers for each reading over a serial port."""

from __future__ import annotations

import errno
import importlib
import time
from pathlib import Path
from typing import Any, Protocol

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.columns import Columns, column_names
from edgeloc.device.power.uri import baud, percent
from edgeloc.errors import DeviceError, MissingExtra, UsageError, first_line
from edgeloc.uri import Uri

__all__ = ["SerialMeter", "SerialPort"]

_ANSWER_S = 2.0
# The first line is often cut, and meters send a head or an empty line now and then.
_BAD_LINES = 5


class SerialPort(Protocol):
    """What is needed of a port, as serial.Serial has it."""

    def readline(self) -> bytes: ...

    def close(self) -> None: ...


class SerialMeter(PowerMeter):
    """`serial:///dev/ttyACM0?columns=volts,amps&baud=115200&tolerance=1`: one line of numbers for each reading.

    `columns` names what a line holds, with commas, semicolons or spaces between them: `watts`, or
    `volts` and `amps`; any other name is passed over. `port` stands in for pyserial.
    """

    rails = total = ("supply",)
    paced = True
    blind_to = "whatever is not supplied through the meter"

    def __init__(
        self,
        device: str,
        *,
        columns: tuple[str, ...] = ("volts", "amps"),
        baud: int = 115200,
        tolerance: float | None = None,
        port: SerialPort | None = None,
    ) -> None:
        self._device, self._columns, self._baud = device, Columns(columns), baud
        self._given, self._port = port, port
        self._last_t = 0.0
        self.gain_error = tolerance
        self.source = f"serial meter on {device} ({', '.join(columns)})"

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> SerialMeter:
        """The meter of a serial:// URI; its device is the user's own, whatever `root` is."""
        options = uri.options({"columns": column_names, "baud": baud, "tolerance": percent})
        if not uri.path:
            raise UsageError(f"power meter {uri.text}: name the device, such as serial:///dev/ttyACM0")
        return cls(uri.path, **options)

    @property
    def name(self) -> str:
        """Its URI without options."""
        return f"serial://{self._device}"

    def _open(self) -> None:
        self.resolution_w = self._last_t = 0.0
        self._port = self._given or self._serial()
        times = [self._read().t for _ in range(3)]
        self.rate_hz = min(1000.0, 2 / max(times[-1] - times[0], 1e-9))

    def _serial(self) -> SerialPort:
        try:
            serial: Any = importlib.import_module("serial")
        except ImportError as error:
            raise MissingExtra("pyserial", "power", f"power meter {self.name}") from error
        try:
            port: SerialPort = serial.Serial(self._device, self._baud, timeout=_ANSWER_S)
        except (OSError, ValueError) as error:
            raise DeviceError(f"power meter {self.name}: {_port_trouble(error, self._device)}") from error
        return port

    def _read(self) -> PowerSample:
        assert self._port is not None
        for _ in range(_BAD_LINES):
            line, t = self._line(), time.monotonic()
            try:
                watts, step = self._columns.power(line.replace(",", " ").replace(";", " ").split())
            except ValueError:
                continue
            self.resolution_w = max(self.resolution_w, step)
            self._last_t = max(t, self._last_t + 1e-6)  # lines that waited in a buffer come at once
            return PowerSample(self._last_t, {"supply": watts})
        raise DeviceError(
            f"power meter {self.name} sends lines such as {line[:60]!r}, which do not hold "
            f"{', '.join(self._columns.names)}: say what they hold with columns=, and the speed with baud="
        )

    def _line(self) -> str:
        assert self._port is not None
        try:
            line = self._port.readline()
        # pyserial raises its own errors (OSError) and, unplugged while reading, a TypeError.
        except (OSError, TypeError) as error:
            raise DeviceError(f"power meter {self.name} is gone: it was unplugged ({first_line(error)})") from error
        if not line:
            raise DeviceError(
                f"power meter {self.name} sent nothing for {_ANSWER_S:g} s: start its output, check the cable and baud="
            )
        return line.decode("ascii", "replace").strip()

    def _close(self) -> None:
        port, self._port = self._port, self._given
        if port is not None and self._given is None:
            port.close()


def _port_trouble(error: Exception, device: str) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return f"there is no {device}: plug the meter in, and look with `ls /dev/ttyACM* /dev/ttyUSB*`"
    if number in (errno.EACCES, errno.EPERM):
        return f"{device} may not be opened: `sudo usermod -aG dialout $USER`, then log in again"
    if number == errno.EBUSY:
        return f"{device} is held by another program: `fuser -v {device}` names it"
    return f"{device} does not open ({first_line(error)})"
