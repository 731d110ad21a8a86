"""The facts that the doctor's checks judge: the board, its temperatures, and a self-test on each engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeloc.device.board import Board
from edgeloc.device.thermal import ThermalSnapshot
from edgeloc.model.sandbox import SelfTest, try_self_test
from edgeloc.models import SHIPPED_INT8

__all__ = ["RUNTIMES", "Facts", "able", "run_self_tests", "try_engine"]

# The engines that take the shipped model, by the package that brings each, in the order in which "auto" tries them.
# Accelerators need a model of their own, whose self-test `edgeloc inspect` runs.
RUNTIMES = {"ai-edge-litert": "litert", "tflite-runtime": "tflite-runtime", "tensorflow": "tensorflow"}
# Long: an emulated or loaded board takes minutes for what takes a second elsewhere.
_TIME_LIMIT_S = 120.0


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


@dataclass(frozen=True, slots=True)
class Facts:
    """A device under examination.

    `root`: where its proc, sys, etc and dev are found.
    `board`, `thermal`: what was read from there.
    `self_tests`: one for each engine that is installed.
    `may_use`: whether this process may read and write a device's file.
    """

    root: Path
    board: Board
    thermal: ThermalSnapshot
    self_tests: tuple[SelfTest, ...] = ()
    may_use: Callable[[Path], bool] = _may_use

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, and not a folder that looks like another."""
        return self.root == Path("/")


def run_self_tests(packages: Mapping[str, str]) -> tuple[SelfTest, ...]:
    """Try every engine whose package is among the installed `packages`, side by side."""
    engines = [engine for package, engine in RUNTIMES.items() if package in packages]
    if not engines:
        return ()
    with ThreadPoolExecutor(len(engines)) as pool:
        return tuple(pool.map(try_engine, engines))


def try_engine(engine: str, interpreter: Sequence[str] = ()) -> SelfTest:
    """Run the shipped model's self-test on one engine; never raises. `interpreter` runs a program given by -c."""
    return try_self_test(SHIPPED_INT8, engine, timeout_s=_TIME_LIMIT_S, interpreter=interpreter)


def able(tests: Iterable[SelfTest]) -> bool:
    """Whether engine="auto", which skips engines that do not load, arrives at one that passed."""
    return next((test.outcome == "passed" for test in tests if test.outcome != "not loaded"), False)
