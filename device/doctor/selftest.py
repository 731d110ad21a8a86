"""The shipped model's golden image through each engine that is installed, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from edgeloc.model.selftest import SelfTest, try_self_test
from edgeloc.models import SHIPPED_INT8

__all__ = ["RUNTIMES", "SelfTest", "able", "run_self_tests", "try_engine"]

# The engines that take the shipped model, by the package that brings each, in the order "auto" tries them.
# Accelerators need a model of their own: `edgeloc inspect` runs the self-test of such a file.
RUNTIMES = {"ai-edge-litert": "litert", "tflite-runtime": "tflite-runtime", "tensorflow": "tensorflow"}
# Long: an emulated or loaded board takes minutes for what takes a second elsewhere.
_TIME_LIMIT_S = 120.0


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
    """Whether engine="auto", which passes over engines that do not load, comes to one that passed."""
    return next((test.outcome == "passed" for test in tests if test.outcome != "not loaded"), False)
