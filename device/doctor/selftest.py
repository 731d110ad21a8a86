"""The shipped model's golden image through each engine that is installed, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from edgeloc._support.children import Crash, try_program

__all__ = ["RUNTIMES", "Outcome", "SelfTest", "able", "run_self_tests", "try_engine"]

Outcome = Literal["passed", "not loaded", "failed", "crashed"]


# The engines that take the shipped model, by the package that brings each, in the order "auto" tries them.
# Accelerators need a model of their own: `edgeloc inspect` runs the self-test of such a file.
RUNTIMES = {"ai-edge-litert": "litert", "tflite-runtime": "tflite-runtime", "tensorflow": "tensorflow"}


_PROGRAM = """
import json, sys
outcome = "not loaded"
try:
    from edgeloc.localizer import Localizer
    from edgeloc.models import SHIPPED_INT8
    localizer = Localizer(SHIPPED_INT8, engine=sys.argv[1])
    outcome = "failed"
    localizer.self_test()
    outcome, said = "passed", ""
except Exception as error:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not type(error).__module__.startswith("edgeloc."):
        said = type(error).__name__ + ": " + said
    if type(error).__name__ in ("ModelError", "ContractError"):
        outcome = "failed"
print("\\n" + json.dumps([outcome, said]))
"""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What became of the self-test on one engine; `detail` is empty where it passed.

    "not loaded": the engine does not work here, and engine="auto" goes on to the next. "failed":
    it computes something else than the converter's did, or refuses the model. "crashed": it ends
    the process, or never ends.
    """

    engine: str
    outcome: Outcome
    detail: str = ""


def run_self_tests(packages: Mapping[str, str]) -> tuple[SelfTest, ...]:
    """Try every engine whose package is among the installed `packages`, side by side."""
    engines = [engine for package, engine in RUNTIMES.items() if package in packages]
    if not engines:
        return ()
    with ThreadPoolExecutor(len(engines)) as pool:
        return tuple(pool.map(try_engine, engines))


def try_engine(engine: str, command: Sequence[str] = ()) -> SelfTest:
    """Run the self-test on one engine; never raises. `command` runs a program given by -c."""
    try:
        outcome, detail = try_program(_PROGRAM, engine, command=command)
    except Crash as error:
        return SelfTest(engine, "crashed", str(error))
    return SelfTest(engine, outcome, detail)


def able(tests: Iterable[SelfTest]) -> bool:
    """Whether engine="auto", which passes over engines that do not load, comes to one that passed."""
    return next((test.outcome == "passed" for test in tests if test.outcome != "not loaded"), False)
