"""What this device has, what it lacks, and how to fix it; a check that fails is itself a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeloc._version import __version__
from edgeloc.device.board import Board, read_board
from edgeloc.device.doctor import hardware, software
from edgeloc.device.doctor.facts import Facts, able, run_self_tests
from edgeloc.device.sysfs import Run
from edgeloc.device.thermal import ThermalReader, ThermalSnapshot
from edgeloc.errors import first_line
from edgeloc.findings import Finding
from edgeloc.model.sandbox import SelfTest

__all__ = ["CHECKS", "SCHEMA_VERSION", "DoctorReport", "examine"]

SCHEMA_VERSION = 2

Check = Callable[[Facts], Iterable[Finding]]
# In the order in which a reader wants them: the machine, its software, what is connected to it.
CHECKS: dict[str, Check] = {
    "board": hardware.board,
    "memory": hardware.memory,
    "disk": hardware.disk,
    "clocks": hardware.clocks,
    "thermal": hardware.thermal,
    "python": software.python,
    "opencv": software.opencv,
    "runtimes": software.runtimes,
    "self-test": software.self_tests,
    "cameras": hardware.cameras,
    "accelerators": hardware.accelerators,
    "power": hardware.power,
    "permissions": hardware.permissions,
}


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What an examination found.

    Parameters:
        able: whether the main job can run: the shipped model on the engine that "auto" takes.
        board: the board and its software.
        thermal: its temperatures and clocks.
        self_tests: the shipped model's self-test on each engine that is installed.
        checks: the findings of each check, by its name.
    """

    able: bool
    board: Board
    thermal: ThermalSnapshot
    self_tests: tuple[SelfTest, ...]
    checks: dict[str, tuple[Finding, ...]]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all checks, in their order."""
        return tuple(finding for found in self.checks.values() for finding in found)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON; each finding names its check."""
        plain = asdict(self)
        del plain["checks"]
        findings = [{"check": name, **finding.to_dict()} for name, found in self.checks.items() for finding in found]
        return {"schema_version": SCHEMA_VERSION, "edgeloc": __version__, **plain, "findings": findings}


def examine(root: Path = Path("/"), run: Run | None = None) -> DoctorReport:
    """Look at everything and change nothing; a check that fails is itself a finding.

    Parameters:
        root: where proc, sys, etc and dev are; engines and packages are always those of the running Python.
        run: returns what a board's own tool prints, None for the tools of this machine.
    """
    board = read_board(root)
    facts = Facts(root, board, ThermalReader(root, run).read(), run_self_tests(board.packages))
    checks = {name: _fenced(name, check, facts) for name, check in CHECKS.items()}
    return DoctorReport(able(facts.self_tests), board, facts.thermal, facts.self_tests, checks)


def _fenced(name: str, check: Check, facts: Facts) -> tuple[Finding, ...]:
    """The check's findings, and its own failure as one of them."""
    found: list[Finding] = []
    try:
        found.extend(check(facts))
    except Exception as error:
        message = f"the check {name} itself failed: {type(error).__name__}: {first_line(error)}"
        found.append(Finding("check-failed", "warning", message, "please report it: this is a bug in edgeloc"))
    return tuple(found)
