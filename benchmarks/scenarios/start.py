"""The scenario cold-start: fresh processes, from their start to the first result, and the memory that they take."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import monotonic

from edgeloc._support.children import program_line
from edgeloc.benchmarks.environment import Memory
from edgeloc.benchmarks.latency import FrameSource, LatencyRecorder
from edgeloc.benchmarks.result import START_STAGES, LatencyRun
from edgeloc.errors import EngineError
from edgeloc.localizer import Localizer

__all__ = ["StartRecorder"]

# A process that loads TensorFlow from a slow card takes a minute.
_TIMEOUT_S = 300.0
_SIZE = (640, 480)
# Marks are of the system's monotonic clock, which all processes share. Nothing is imported before it is needed.
_PROGRAM = """
from time import monotonic
marks = [monotonic()]
import sys
model, engine, threads, contract, width, height = sys.argv[1:]
from edgeloc import Localizer
marks.append(monotonic())
localizer = Localizer(model, engine, int(threads) if threads else None, contract or None)
marks.append(monotonic())
import numpy as np
localizer(np.full((int(height), int(width), 3), 128, np.uint8))
marks.append(monotonic())
import json
lines = dict(line.split(":", 1) for line in open("/proc/self/status")) if sys.platform == "linux" else {}
peak = lines.get("VmHWM", "").split()
print(json.dumps([marks, int(peak[0]) / 1024 if peak else None]))
"""


class StartRecorder(LatencyRecorder):
    """Times fresh processes instead of frames; each finds the files in memory that the one before it read.

    The stages are START_STAGES.

    Parameters:
        localizer: the same model, open here, for the inferences under a power meter.
        model, engine, contract: what the process's Localizer takes.
    """

    def __init__(
        self,
        localizer: Localizer,
        source: FrameSource,
        warmup: int,
        threads: int | None,
        model: str | Path,
        engine: str,
        contract: str | Path | None,
    ) -> None:
        super().__init__(localizer, source, warmup, threads)
        given = ("" if value is None else str(value) for value in (model, engine, threads, contract, *_SIZE))
        self._line = program_line(_PROGRAM, *given)
        self._peaks: list[float] = []

    @property
    def memory(self) -> Memory | None:
        """What the processes took at most, those of the warm-up left out; None where the system does not say."""
        peaks = self._peaks[self.warmup :]
        return Memory(round(median(peaks), 2), tuple(round(peak, 2) for peak in peaks)) if peaks else None

    def run(self) -> LatencyRun:
        """How the samples came about."""
        what = "a fresh process, its files in the system's memory, and a plain frame"
        return replace(super().run(), source=what, capture="not a part of a start")

    def each(self, turns: Iterable[object]) -> Iterator[None]:
        """One process for each of `turns`."""
        for _ in turns:
            began = monotonic()
            marks, peak_mib = self._started()
            ends = [began, *marks]
            spent = [(after - before) * 1000 for before, after in zip(ends, marks, strict=False)]
            self._peaks += [] if peak_mib is None else [peak_mib]
            self.keep(began, dict(zip(START_STAGES, (*spent, (marks[-1] - began) * 1000), strict=True)), _SIZE)
            yield

    def _started(self) -> tuple[list[float], float | None]:
        """Run one process; when it was ready, had imported, had loaded and had its result, and its peak in MiB."""
        try:
            done = subprocess.run(self._line, capture_output=True, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"a fresh process had no result in {_TIMEOUT_S:g} s") from error
        if done.returncode:
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise EngineError(f"a fresh process ended with status {done.returncode} before its first result: {last}")
        marks, peak_mib = json.loads(done.stdout.splitlines()[-1])
        return marks, peak_mib
