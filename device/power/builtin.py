"""Meters that are built in: a Raspberry Pi 5's power chip, the energy counters of x86 processors."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from edgeloc._support.backend import Uri
from edgeloc.device.power.base import CONNECT, AbsentMeterError, CommandRunner, PowerMeter, PowerSample
from edgeloc.device.sysfs import require_number, require_text
from edgeloc.errors import DeviceError, first_line

__all__ = ["PmicMeter", "RaplMeter", "parse_adc", "run_command"]

_COMMAND = ("vcgencmd", "pmic_read_adc")
# "     VDD_CORE_A current(7)=0.94657990A" and "      EXT5V_V volt(24)=5.11478000V"
_LINE = re.compile(r"^\s*(\S+?)_([AV])\s+(?:current|volt)\(\d+\)=([\d.]+)[AV]", re.MULTILINE)
_DUST = 1e-6


class PmicMeter(PowerMeter):
    """`pmic://`: the sum of volts times amps over the rails of which the chip reports both.

    The chip's steps are not documented: `resolution_w` adds up the smallest change that each rail has shown.

    `run`: replaces the call of vcgencmd, for tests and other ways to reach it.
    """

    # A reading takes about 23 ms.
    rate_hz = 10.0
    source = "Raspberry Pi 5 PMIC through vcgencmd, sum of the rails"
    blind_to = (
        "the current at the 5 V input: USB devices, HATs and the fan are not seen, nor what the converters lose; "
        "the true draw at the wall is higher"
    )

    def __init__(self, *, run: CommandRunner | None = None) -> None:
        self._run = run or run_command
        self._last: dict[tuple[str, int], float] = {}
        self._steps: dict[tuple[str, int], float] = {}

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> PmicMeter:
        """The meter of a pmic:// URI, which has no options; vcgencmd needs no `root`."""
        uri.require_no_path()
        uri.options({})
        return cls()

    @property
    def name(self) -> str:
        """Its URI."""
        return "pmic://"

    def _open(self) -> None:
        self._last, self._steps = {}, {}
        self.rails = self.total = tuple(parse_adc(self._run(_COMMAND)))

    def _read(self) -> PowerSample:
        before = time.monotonic()
        rails = parse_adc(self._run(_COMMAND))
        t = (before + time.monotonic()) / 2
        if tuple(rails) != self.rails:
            raise DeviceError(f"power meter pmic:// now has other rails than when it was opened: {', '.join(rails)}")
        for rail, reading in rails.items():
            self._learn_step(rail, reading)
        self.resolution_w = sum(
            volts * self._steps.get((rail, 1), 0.0) + amps * self._steps.get((rail, 0), 0.0)
            for rail, (volts, amps) in rails.items()
        )
        return PowerSample(t, {rail: volts * amps for rail, (volts, amps) in rails.items()})

    def _learn_step(self, rail: str, reading: tuple[float, float]) -> None:
        """Changes are whole multiples of a step, so the smallest one seen is never too small."""
        for which, value in enumerate(reading):
            change = abs(value - self._last.get((rail, which), value))
            if change > _DUST:
                self._steps[rail, which] = min(change, self._steps.get((rail, which), change))
            self._last[rail, which] = value


def parse_adc(text: str) -> dict[str, tuple[float, float]]:
    """(volts, amps) by rail from the command's output; rails with only a voltage are left out."""
    found: dict[str, dict[str, float]] = {}
    for rail, kind, value in _LINE.findall(text):
        found.setdefault(rail, {})[kind] = float(value)
    rails = {rail: (values["V"], values["A"]) for rail, values in found.items() if len(values) == 2}
    if not rails:
        raise _no_rails(text)
    return rails


def run_command(command: Sequence[str]) -> str:
    """What the program printed, on either output; DeviceError where it is not installed or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3, check=False)
    except FileNotFoundError as error:
        raise AbsentMeterError(
            f"{command[0]} is not installed",
            hint="on Raspberry Pi OS, `sudo apt install raspi-utils` (`libraspberrypi-bin` on older systems); "
            "other boards have none",
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        failed = f"{' '.join(command)} failed ({first_line(error)})"
        raise DeviceError(failed, hint="reboot the board and try again") from error
    return done.stdout + done.stderr


class RaplMeter(PowerMeter):
    """`rapl://`: counters of all processor packages; other zones (psys, dram) are read, but not added.

    `root`: where sys is found.
    """

    rate_hz = 50.0
    # The unit is 2^-14 J on most processors (Intel SDM volume 3, 16.10.1); sysfs does not show it.
    resolution_j = 61e-6
    source = "RAPL, energy counters of the processor packages"
    blind_to = "everything but the processor: memory, disks, graphics cards, screen and the power supply's losses"

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root
        self._files: dict[str, Path] = {}

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> RaplMeter:
        """The meter of a rapl:// URI, which has no options."""
        uri.require_no_path()
        uri.options({})
        return cls(root=root)

    @property
    def name(self) -> str:
        """Its URI."""
        return "rapl://"

    def _open(self) -> None:
        zones = sorted((self._root / "sys/class/powercap").glob("intel-rapl:*"))
        tops = [zone for zone in zones if zone.name.count(":") == 1 and (zone / "energy_uj").exists()]
        self._files = {require_text(zone / "name"): zone / "energy_uj" for zone in tops}
        self.rails = tuple(self._files)
        self.total = tuple(name for name in self.rails if name.startswith("package"))
        if not self.total:
            raise AbsentMeterError(
                "power meter rapl://: /sys/class/powercap shows no processor package",
                hint="`sudo modprobe intel_rapl_msr`; virtual machines and ARM boards have no RAPL",
            )
        self.counter_range_j = {
            name: require_number(file.parent / "max_energy_range_uj") * 1e-6 for name, file in self._files.items()
        }
        self._read()

    def _read(self) -> PowerSample:
        before = time.monotonic()
        joules = {name: require_number(file) * 1e-6 for name, file in self._files.items()}
        return PowerSample((before + time.monotonic()) / 2, joules=joules)


def _no_rails(text: str) -> DeviceError:
    if "VCHI" in text or "/dev/vc" in text:
        hint = "`sudo usermod -aG video $USER`, then log in again"
        return DeviceError("vcgencmd may not query the firmware", hint=hint)
    if "not registered" in text:
        absent = "this board has no power chip that vcgencmd reads (only the Raspberry Pi 5 has)"
        return AbsentMeterError(absent, hint=CONNECT)
    output = f"it printed {text.strip().splitlines()[0][:80]!r}" if text.strip() else "it printed nothing"
    hint = "update the firmware with `sudo rpi-eeprom-update -a`"
    return DeviceError(f"vcgencmd pmic_read_adc reported no rail ({output})", hint=hint)
