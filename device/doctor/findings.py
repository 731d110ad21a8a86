"""What the doctor's checks are given and what they give back; no check lives here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeloc.device.board import Board
from edgeloc.device.doctor.selftest import SelfTest
from edgeloc.device.thermal import ThermalSnapshot

__all__ = ["Case", "Finding", "Status"]

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: which check, how it stands, what was seen, and how to mend it (None: nothing to mend).

    A problem keeps something from working, a warning makes it worse or leaves a part of it unused.
    """

    check: str
    status: Status
    what: str
    mend: str | None = None

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.mend is None):
            raise ValueError(
                f"the finding {self.check!r} is {self.status}: all but ok say how to mend it, and only they"
            )


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


@dataclass(frozen=True, slots=True)
class Case:
    """A device under examination; `may_use` is whether this process may read and write a device's file."""

    root: Path
    board: Board
    heat: ThermalSnapshot
    self_tests: tuple[SelfTest, ...] = ()
    may_use: Callable[[Path], bool] = _may_use

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, and not a folder that looks like another."""
        return self.root == Path("/")
