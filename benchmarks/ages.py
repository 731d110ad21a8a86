"""Measures how old answers are: a 30 fps camera and a 60 ms model, in each mode, with slow sinks, against a queue.

    python -m edgeloc.benchmarks.ages

The model sleeps, and the camera is made up, so that the figures are those of the loop alone.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeloc import Box, Detection, Frame, GateFailed, Observation, Result, open_camera, run
from edgeloc.errors import EdgelocError
from edgeloc.loop.slot import Mode

__all__ = ["Ages", "main", "measure"]

FPS, INVOKE_MS, QUEUE, SLOW_S = 30.0, 60.0, 5, 5.0
# Of the p50 in either mode, and of fresh's p99, as multiples of the invoke.
MOST = {"newest": (1.35, None), "fresh": (1.05, 1.3)}
_CAMERA = f"synthetic://?seed=1&size=320x240&fps={FPS:g}"


class Ages(NamedTuple):
    """What one way of looping gave: ages of the answers in ms, answers a second, lines that the .jsonl lacks."""

    name: str
    p50_ms: float
    p99_ms: float
    rate: float
    lost: int = 0

    def __str__(self) -> str:
        """One row of the table."""
        ratios = f"{self.p50_ms / INVOKE_MS:>8.2f}{self.p99_ms / INVOKE_MS:>8.2f}"
        return f"{self.name:<34}{self.p50_ms:>8.1f}{self.p99_ms:>8.1f}{ratios}{self.rate:>9.1f}{self.lost:>6}"


def _localize(frame: Frame) -> Result:
    time.sleep(INVOKE_MS / 1000)
    return Result((Detection(Box(10, 10, 50, 50), 0.9),))


def _run(mode: Mode, seconds: float, *, sinks: bool) -> Ages:
    """One run; with sinks a .jsonl, one that takes 5 s a write, and a quick one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ages.jsonl"
        more: list[Callable[[Observation], object]] = [_slow, _nothing] if sinks else []
        with open_camera(_CAMERA) as camera:
            summary = run(camera, _localize, str(path), *more, mode=mode, frames=round(seconds * FPS / 2.2))
        lost = summary.frames - len(path.read_text().splitlines())
    name = f"{mode}, with a sink of {SLOW_S:g} s" if sinks else mode
    assert summary.age_ms_p50 is not None and summary.age_ms_p99 is not None
    return Ages(name, summary.age_ms_p50, summary.age_ms_p99, summary.fps, lost)


def _slow(observation: Observation) -> None:
    time.sleep(SLOW_S)


def _nothing(observation: Observation) -> None:
    pass


def _queue(seconds: float) -> Ages:
    """The usual loop: a thread puts frames in a queue of five, and waits where it is full."""
    frames: queue.Queue[Frame] = queue.Queue(QUEUE)
    stop = threading.Event()
    began_at = time.monotonic()
    thread = threading.Thread(target=_fill, args=(frames, stop), daemon=True)
    thread.start()
    ages = []
    while time.monotonic() - began_at < seconds:
        frame = frames.get()
        _localize(frame)
        ages.append(frame.age_ms)
    stop.set()
    p50, p99 = np.percentile(ages[QUEUE:], (50, 99))
    return Ages(f"a queue of {QUEUE}", float(p50), float(p99), len(ages) / (time.monotonic() - began_at))


def _fill(frames: queue.Queue[Frame], stop: threading.Event) -> None:
    with open_camera(_CAMERA) as camera:
        while not stop.is_set() and (frame := camera.read()) is not None:
            try:
                frames.put(frame, timeout=1)
            except queue.Full:
                continue


def measure(seconds: float) -> list[Ages]:
    """All ways, `seconds` each."""
    modes: tuple[Mode, ...] = ("newest", "fresh")
    return [*(_run(mode, seconds, sinks=sinks) for sinks in (False, True) for mode in modes), _queue(seconds)]


def check(measured: Sequence[Ages]) -> None:
    """GateFailed for an age over its limit, or a line that was lost."""
    for ages in measured:
        p50, p99 = MOST.get(ages.name.partition(",")[0], (None, None))
        if p50 is not None and ages.p50_ms > p50 * INVOKE_MS:
            raise GateFailed(f"{ages.name}: the median age is over {p50} times the invoke")
        if p99 is not None and ages.p99_ms > p99 * INVOKE_MS:
            raise GateFailed(f"{ages.name}: the 99th percentile of the age is over {p99} times the invoke")
        if ages.lost:
            raise GateFailed(f"{ages.name}: {ages.lost} results are missing in the .jsonl")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m edgeloc.benchmarks.ages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each way is measured (default: 30)")
    args = parser.parse_args(argv)
    print(f"{FPS:g} fps, {INVOKE_MS:g} ms invoke; age in ms, and as a multiple of the invoke")
    print(f"{'':<34}{'p50':>8}{'p99':>8}{'p50':>8}{'p99':>8}{'results/s':>9}{'lost':>6}")
    measured = measure(args.seconds)
    print("\n".join(map(str, measured)))
    try:
        check(measured)
    except EdgelocError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
