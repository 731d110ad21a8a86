"""Which engine, with how many threads, runs a model the fastest here: measured once, and remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeloc._support.files import atomic_path, made_cache_folder
from edgeloc._support.json import parse_json
from edgeloc.engines.base import Engine, noise_input
from edgeloc.engines.race import Outcome, race
from edgeloc.errors import EdgelocError, EngineError, OutputError
from edgeloc.findings import Finding, report

__all__ = ["Way", "choose", "thread_counts", "usable_cores"]

# All numbers of threads up to here are tried; beyond, a few more.
_EACH_UP_TO, _MORE = 8, (12, 16, 24, 32, 48, 64)
# Of which as much is left for timing as loading has not taken, but so much at least.
_BUDGET_S, _LEAST_S = 0.9, 0.3
_LONGEST_FILE = 4096

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """An engine by its name, and the number of its threads; None leaves that to it."""

    engine: str
    threads: int | None


def usable_cores() -> tuple[int, ...]:
    """The numbers of the cores that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def thread_counts(cores: int) -> list[int]:
    """The numbers of threads to try on so many cores: 1 to 8, a few of more, and all."""
    return sorted({*range(1, min(cores, _EACH_UP_TO) + 1), *(count for count in _MORE if count < cores), cores})


def choose(
    model: str,
    ways: Sequence[Way],
    opener: Callable[[Way], Engine],
    key: Sequence[str],
    passes: Callable[[Engine], None] | None = None,
    absent: Sequence[str] = (),
) -> Engine:
    """The engine that is the fastest of these ways and passes; which it is, is logged and remembered.

    Parameters:
        model: what messages call the model.
        ways: the preferred ones first; of equally fast ones the first is taken.
        opener: loads the model in one of these ways.
        key: what the choice depends on beside the ways, the cores and this machine.
        passes: raises EngineError for an engine whose answers are wrong; called once for each engine.
        absent: the engines that are not installed.

    Raises the first failure where no way works.
    """
    if len(ways) == 1 and passes is None:
        return opener(ways[0])
    path = _path(ways, key)
    for way in _remembered(path, ways):
        with suppress(EngineError):
            return opener(way)
    began_at = time.monotonic()
    engines, left_out = _opened(ways, opener, passes)
    budget_s = max(_LEAST_S, _BUDGET_S - (time.monotonic() - began_at))
    outcome = race([_timed(engine) for engine in engines.values()], budget_s)
    way, engine = list(engines.items())[outcome.best]
    left_out |= dict.fromkeys(absent, "it is not installed")
    report(logger, _finding(model, [_called(*one) for one in engines.items()], outcome, left_out))
    if outcome.decided:
        _remember(path, way)
    return engine


def _opened(
    ways: Sequence[Way], opener: Callable[[Way], Engine], passes: Callable[[Engine], None] | None
) -> tuple[dict[Way, Engine], dict[str, str]]:
    """The engines that work, and why each of the others is left out."""
    engines: dict[Way, Engine] = {}
    failures: dict[str, EdgelocError] = {}
    for way in ways:
        first = all(way.engine != other.engine for other in engines)
        if way.engine in failures:
            continue
        try:
            engine = opener(way)
            if passes is not None and first:
                passes(engine)
            _timed(engine)()
            engines[way] = engine
        except EdgelocError as error:
            failures[way.engine] = error
    if not engines:
        raise next(iter(failures.values()))
    return engines, {name: error.message or str(error) for name, error in failures.items()}


def _timed(engine: Engine) -> Callable[[], float]:
    """Runs the engine once on noise; returns the seconds that it took."""
    tensor = noise_input(next(iter(engine.inputs.values())))

    def run() -> float:
        began_at = time.perf_counter()
        engine.invoke(tensor)
        return time.perf_counter() - began_at

    return run


def _finding(model: str, ways: Sequence[str], outcome: Outcome, left_out: dict[str, str]) -> Finding:
    """What was chosen, and why."""
    best, times = ways[outcome.best], [f"{time_s * 1000:.2f} ms" for time_s in outcome.times_s]
    message = f"{model} runs on {best}, the only way there is"
    if len(ways) > 1:
        others = ", ".join(f"{way} {time}" for way, time in zip(ways, times, strict=True) if way != best)
        message = f"{model} runs on {best}, the fastest: {times[outcome.best]}; {others}"
    if not outcome.decided:
        message += "; they are too close to be sure, and are measured again the next time"
    for name, why in left_out.items():
        message += f"; {name} is left out: {why}"
    return Finding("engine-chosen", "note", message)


def _called(way: Way, engine: Engine) -> str:
    threads = {None: "", 1: " with one thread"}.get(way.threads, f" with {way.threads} threads")
    return f"{engine.name} {engine.version}{threads}"


def _path(ways: Sequence[Way], key: Sequence[str]) -> Path | None:
    """Where the choice is remembered; None where nothing can be."""
    cores = ",".join(map(str, usable_cores()))
    # A home folder may be shared by several machines.
    words = json.dumps([list(key), list(map(str, ways)), cores, os.uname().nodename, os.uname().machine])
    folder = made_cache_folder("engines")
    return None if folder is None else folder / f"{hashlib.sha256(words.encode()).hexdigest()}.json"


def _remembered(path: Path | None, ways: Sequence[Way]) -> Sequence[Way]:
    """The way that was chosen before; nothing for a file that holds none of these ways."""
    if path is None:
        return []
    with suppress(OSError, ValueError):
        with path.open("rb") as file:
            found = parse_json(file.read(_LONGEST_FILE))
        return [way for way in ways if dataclasses.asdict(way) == found]
    return []


def _remember(path: Path | None, way: Way) -> None:
    if path is not None:
        # On a full or a read-only disk it is measured again the next time.
        with suppress(OutputError, OSError), atomic_path(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(way)))
