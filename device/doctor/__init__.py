"""What this device has, lacks and how to mend it, as findings; every check is fenced, and lives in a module beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeloc._version import __version__
from edgeloc.device.board import Board, read_board
from edgeloc.device.doctor import hardware as doctor_hardware
from edgeloc.device.doctor import software as doctor_software
from edgeloc.device.doctor.findings import Case, Finding
from edgeloc.device.doctor.selftest import SelfTest, able, run_self_tests
from edgeloc.device.sysfs import Run
from edgeloc.device.thermal import ThermalReader, ThermalSnapshot
from edgeloc.errors import first_line

__all__ = ["CHECKS", "SCHEMA_VERSION", "DoctorReport", "Finding", "examine"]

SCHEMA_VERSION = 1

Check = Callable[[Case], Iterable[Finding]]
# In the order in which a reader wants them: what it is, what it runs, what hangs on it.
CHECKS: dict[str, Check] = {
    "board": doctor_hardware.board,
    "memory": doctor_hardware.memory,
    "disk": doctor_hardware.disk,
    "clocks": doctor_hardware.clocks,
    "heat": doctor_hardware.heat,
    "python": doctor_software.python,
    "opencv": doctor_software.opencv,
    "runtimes": doctor_software.runtimes,
    "self-test": doctor_software.self_tests,
    "cameras": doctor_hardware.cameras,
    "accelerators": doctor_hardware.accelerators,
    "power": doctor_hardware.power,
    "permissions": doctor_hardware.permissions,
}


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All that was found; `able` is whether the main job can run: the shipped model on the engine "auto" takes."""

    able: bool
    board: Board
    heat: ThermalSnapshot
    self_tests: tuple[SelfTest, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON; these keys stay."""
        return {"schema_version": SCHEMA_VERSION, "edgeloc": __version__, **asdict(self)}


def examine(root: Path = Path("/"), run: Run | None = None) -> DoctorReport:
    """Look at everything, and change nothing.

    `root` is where proc, sys, etc and dev are; `run` gives what a board's own tool prints. Engines
    and packages are always those of the running Python. Whatever it finds, it does not raise: a
    check that fails is a finding itself.
    """
    board = read_board(root)
    case = Case(root, board, ThermalReader(root, run).read(), run_self_tests(board.packages))
    findings = [finding for name, check in CHECKS.items() for finding in _fenced(name, check, case)]
    return DoctorReport(able(case.self_tests), board, case.heat, case.self_tests, tuple(findings))


def _fenced(name: str, check: Check, case: Case) -> list[Finding]:
    """The check's findings, and its own failure as one of them."""
    found: list[Finding] = []
    try:
        found.extend(check(case))
    except Exception as error:
        what = f"this check itself failed: {type(error).__name__}: {first_line(error)}"
        found.append(Finding(name, "warning", what, "please report it: it is a fault of edgeloc"))
    return found
