"""The process that opens hostile files: told one at a time on its standard input, it answers each with a line of JSON.

What a file must not do is end this process. Everything else that it must not do is reported as a `failure`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import random
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from models import engine_for
from mutations import Parts, make_file, take_apart

from edgeloc import EdgelocError, Localizer, Result, cli
from edgeloc.loop.draw import draw

__all__ = ["Report", "check_file", "make"]

# Characters that a terminal obeys, and those that turn the order of others.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LONGEST_ERROR = 3000
# How many of ten files are made of each model.
WEIGHTS = {"shipped": 4, "vector": 2, "ssd": 2, "onnx": 1, "open": 1}
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@dataclass
class Report:
    """What became of a file: the last step it came to, how that ended, what it cost, and what was wrong with that."""

    step: str = ""
    outcome: str = ""
    message: str = ""
    inspect: int | None = None
    seconds: float = 0.0
    memory_mb: float = 0.0
    failure: str = ""
    trace: str = ""


def check_file(path: Path, with_self_test: bool) -> Report:
    """Take one file through `inspect` (running its self-test too or not), the Localizer, a call and its self-test."""
    report = Report()
    before = _children_peak_mb()
    _forget_peak()
    start = time.perf_counter()
    _inspect(report, path, with_self_test)
    _localize(report, path)
    report.seconds = round(time.perf_counter() - start, 3)
    after = _children_peak_mb()
    # The system keeps the largest of all children: below an earlier one, this file's are not known.
    report.memory_mb = round(max(_peak_mb(), after if after > before else 0.0), 1)
    return report


def _inspect(report: Report, path: Path, with_self_test: bool) -> None:
    as_json = path.stat().st_size % 2 == 0
    line = ["inspect", str(path), *(() if with_self_test else ("--no-self-test",)), *(("--json",) if as_json else ())]
    out, err = io.StringIO(), io.StringIO()
    report.step = "inspect"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            report.inspect = cli.main(line)
        except BaseException:
            report.failure, report.trace = "inspect let an exception out", traceback.format_exc()
            return
    shown, told = out.getvalue(), err.getvalue()
    report.failure = _fault_of_output(report.inspect, shown, told, as_json)
    report.trace = told[:LONGEST_ERROR] if report.failure else ""
    if report.failure.startswith("internal"):
        report.trace = _again(lambda: cli.main([*line, "--verbose"]))


def _fault_of_output(status: int, shown: str, told: str, as_json: bool) -> str:
    if "internal error" in told or "not enough memory" in told or status not in (0, 1, 2, 3):
        return f"internal error of inspect: {told[:300]!r}"
    if CONTROL.search(shown + told):
        return f"inspect prints control characters: {CONTROL.search(shown + told)!r}"
    if len(told) > LONGEST_ERROR:
        return f"inspect tells an error in {len(told)} characters"
    if as_json and shown:
        try:
            json.loads(shown, parse_constant=_no_json)
        except ValueError as error:
            return f"inspect --json prints no JSON: {error}"
    return ""


def _no_json(name: str) -> NoReturn:
    raise ValueError(name)


def _again(run: Callable[[], Any]) -> str:
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        run()
    return err.getvalue()[-LONGEST_ERROR:]


def _localize(report: Report, path: Path) -> None:
    localizer: list[Localizer] = []
    steps: dict[str, Callable[[], Any]] = {
        "load": lambda: localizer.append(Localizer(path, engine_for(path))),
        "call": lambda: _show(localizer[0](IMAGE)),
        "self-test": lambda: localizer[0].self_test(),
    }
    try:
        for report.step, step in steps.items():
            step()
    except EdgelocError as error:
        report.outcome, report.message = f"{report.step}: {type(error).__name__}", str(error)[:300]
        if len(str(error)) > LONGEST_ERROR:
            _fail(report, f"an error of {len(str(error))} characters", "")
    except BaseException as error:
        report.outcome, report.message = "internal error", str(error)[:300]
        _fail(report, f"{report.step} raised {type(error).__name__}: {str(error)[:200]}", traceback.format_exc())
    else:
        report.step, report.outcome = "all", "passed"


def _fail(report: Report, failure: str, trace: str) -> None:
    """What inspect did wrong before stays the failure."""
    if not report.failure:
        report.failure, report.trace = failure, trace[-LONGEST_ERROR:]


def _show(result: Result) -> None:
    """A result must be finite, and fit to be drawn."""
    draw(IMAGE, result)
    numbers = [result.presence, *(result.box or ())]
    if not np.isfinite(numbers).all():
        raise AssertionError(f"a result of {numbers}")


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _children_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def make(bases: dict[str, Parts], seed: int, number: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write file `number` of `seed` into the folder; its path, and what was done to it."""
    rng = random.Random(f"edgeloc {seed} {number}")
    base = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    made = make_file(rng, bases[base])
    path = folder / f"{number}-{made.kind}.{bases[base].format}"
    path.write_bytes(made.data)
    if made.beside is not None:
        path.with_suffix(".json").write_bytes(made.beside)
    facts = {"file": number, "base": base, "kind": made.kind, "what": made.what[:300], "hash": made.hash}
    return path, {**facts, "self_test_by_inspect": rng.random() < 0.2}


def main(bases_folder: str, seed: str, folder: str) -> None:
    """Answer each number of a file on standard input, or each path, with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    log = os.open(Path(folder) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    faulthandler.enable()
    bases = {path.stem: take_apart(path.read_bytes()) for path in sorted(Path(bases_folder).iterdir())}
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        task = line.strip()
        if task.isdecimal():
            path, facts = make(bases, int(seed), int(task), Path(folder))
        else:
            path, facts = Path(task), {"file": task, "kind": "given", "self_test_by_inspect": True}
        print(json.dumps({"made": str(path), **facts}), file=answers, flush=True)
        report = check_file(path, facts["self_test_by_inspect"])
        print(json.dumps(asdict(report)), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
