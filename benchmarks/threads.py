"""Holds `threads="auto"` against a full sweep: on this machine with a model, and on simulated boards.

    python -m edgeloc.benchmarks.threads [MODEL]

Auto chooses several times, each time without its memory; then every number of threads is timed in turn, for much longer
than auto takes. The boards are simulated by their times alone, with noise, interruptions and a clock that drifts: fast
and slow cores (big.LITTLE), a bus that is full, work that splits unevenly.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edgeloc import GateFailed, UsageError, open_engine
from edgeloc._support.numbers import at_least_one
from edgeloc.engines.base import Engine, noise_input
from edgeloc.engines.choice import thread_counts, usable_cores
from edgeloc.engines.race import race
from edgeloc.errors import EdgelocError
from edgeloc.models import SHIPPED_INT8

__all__ = ["Choice", "main", "simulate", "sweep"]

MOST_LOSS = 0.03
"""By how much the chosen number of threads may be slower than the best, as a share."""

# Milliseconds by the number of threads.
BOARDS = {
    "2 equal cores": (4.0, 2.3),
    "4 equal cores": (30.0, 17.0, 12.5, 10.5),
    "2 fast + 4 slow": (10.0, 5.8, 6.9, 6.2, 6.6, 7.4),
    "4 fast + 4 slow": (8.0, 4.4, 3.3, 2.9, 4.1, 3.8, 3.7, 4.6),
    "a full bus": (9.0, 5.2, 4.4, 4.3),
    "an uneven split": (8.0, 4.2, 4.25, 2.4, 2.5),
    "threads only cost": (3.0, 3.6, 4.1, 4.4),
}
_BUDGET_S = 0.8


class Choice(NamedTuple):
    """What auto chose on one board, several times: how often, its losses against the best, the longest choice."""

    name: str
    choices: int
    losses: Sequence[float]
    longest_s: float

    def __str__(self) -> str:
        """One row of the table."""
        over = sum(loss > MOST_LOSS for loss in self.losses)
        worst = max(self.losses)
        return f"{self.name:<24}{self.choices:>8}{over:>10}{worst * 100:>9.1f} %{self.longest_s:>11.2f} s"


HEAD = f"{'':<24}{'choices':>8}{'over 3 %':>10}{'worst':>11}{'longest':>13}"


def simulate(times_ms: Sequence[float], repeats: int, seed: int = 0, name: str = "") -> Choice:
    """Let auto choose `repeats` times on a board that takes so many milliseconds with 1, 2, ... threads."""
    losses, spent = [], []
    for repeat in range(repeats):
        rng, clock = random.Random(f"{seed} {name} {repeat}"), [0.0, 1.0]
        best = race([_simulated(time_ms / 1000, rng, clock) for time_ms in times_ms], _BUDGET_S).best
        losses.append(times_ms[best] / min(times_ms) - 1)
        spent.append(clock[0])
    return Choice(name, repeats, losses, max(spent))


def _simulated(seconds: float, rng: random.Random, clock: list[float]) -> Callable[[], float]:
    """3 % of noise, one run in ten interrupted, and a clock that drifts by up to a third."""

    def run() -> float:
        clock[1] = min(max(clock[1] * rng.gauss(1, 0.01), 0.75), 1.33)
        taken_s = seconds * clock[1] * rng.gauss(1, 0.03) * (rng.uniform(1.5, 6) if rng.random() < 0.1 else 1)
        clock[0] += taken_s
        return taken_s

    return run


def sweep(engines: Sequence[Engine], rounds: int) -> list[float]:
    """The median ms of each engine, timed in turn in each round, the second of two runs."""
    tensor = noise_input(next(iter(engines[0].inputs.values())))
    times: list[list[float]] = [[] for _ in engines]
    for number in range(rounds):
        for at in range(len(engines)) if number % 2 else reversed(range(len(engines))):
            engines[at].invoke(tensor)
            began_at = time.perf_counter()
            engines[at].invoke(tensor)
            times[at].append((time.perf_counter() - began_at) * 1000)
    return [statistics.median(each) for each in times]


def _on_this_machine(model: str, engine: str, repeats: int, rounds: int) -> tuple[Choice, list[float]]:
    """Auto's choices, and what each number of threads takes."""
    chosen, longest_s = [], 0.0
    for _ in range(repeats):
        began_at = time.perf_counter()
        chosen.append(_without_memory(model, engine))
        longest_s = max(longest_s, time.perf_counter() - began_at)
    counts = thread_counts(len(usable_cores()))
    times_ms = sweep([open_engine(engine, model, count) for count in counts], rounds)
    losses = [times_ms[counts.index(count)] / min(times_ms) - 1 for count in chosen]
    return Choice("this machine", repeats, losses, longest_s), times_ms


def _without_memory(model: str, engine: str) -> int:
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            threads = open_engine(engine, model, "auto").threads
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
    if threads is None:
        raise UsageError(f"the engine {engine} takes no number of threads")
    return threads


def check(choices: Sequence[Choice]) -> None:
    """GateFailed where a choice was over 3 % slower than the best."""
    for choice in choices:
        if max(choice.losses) > MOST_LOSS:
            raise GateFailed(f"{choice.name}: a choice was {max(choice.losses):.1%} slower than the best")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where a choice was over 3 % slower than the best."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeloc.benchmarks.threads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default=str(SHIPPED_INT8), help="default: the shipped model")
    parser.add_argument("--engine", default="auto", help="inference engine (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=at_least_one, default=5, help="choices on this machine (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=at_least_one, default=300, help="rounds of the sweep (default: %(default)s)")
    parser.add_argument(
        "--simulations", type=at_least_one, default=200, help="choices on each board (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        open_engine(args.engine, args.model)  # before minutes of simulations
        print(HEAD)
        choices = [simulate(times_ms, args.simulations, name=name) for name, times_ms in BOARDS.items()]
        print("\n".join(map(str, choices)), flush=True)
        here, times_ms = _on_this_machine(args.model, args.engine, args.repeats, args.rounds)
        print(here)
        print("its sweep, ms:", ", ".join(f"{ms:.2f}" for ms in times_ms))
        check([*choices, here])
    except EdgelocError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
