"""Measures a start, from a fresh process to its first result, against LiteRT and OpenCV by hand: time and memory.

    python -m edgeloc.benchmarks.cold_start MODEL

Both programs load the model, read one picture and print what they found. They take turns, each in a process of its own,
so that a change of the machine's speed meets both. Files come from the system's memory, and modules are compiled
before, as `pip install` leaves them. The model is one that `python -m edgeloc.benchmarks.overhead` takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np

from edgeloc._support.children import program_line
from edgeloc._support.numbers import at_least_one
from edgeloc.benchmarks.overhead import plan_by_hand
from edgeloc.errors import EdgelocError, EngineError, GateFailed, UsageError
from edgeloc.localizer import Localizer

__all__ = ["MOST_MEMORY", "MOST_TIME", "Start", "main", "measure"]

MOST_TIME, MOST_MEMORY = 1.2, 1.15
_FRAME_SIZE = (640, 480)
_WARM_UP = 2
_TIMEOUT_S = 300.0

_EDGELOC = """
import cv2
from edgeloc import Localizer
result = Localizer({model!r}, "litert")(cv2.imread({picture!r}))
print(f"{{result.presence:.3f}} {{result.class_scores.argmax()}}")
"""
_BY_HAND = """
import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter({model!r})
interpreter.allocate_tensors()
def real(index, scale, zero):
    raw = interpreter.get_tensor(index).astype(np.float32)
    return raw if scale is None else (raw - np.float32(zero)) * np.float32(scale)
frame = cv2.imread({picture!r})
height, width = frame.shape[:2]
scale = min({width} / width, {height} / height)
w, h = round(width * scale), round(height * scale)
left, top = ({width} - w) // 2, ({height} - h) // 2
small = cv2.cvtColor(cv2.resize(frame, (w, h)), cv2.COLOR_BGR2RGB)
image = cv2.copyMakeBorder(
    small, top, {height} - h - top, left, {width} - w - left, cv2.BORDER_CONSTANT, value=({pad},) * 3
)
interpreter.set_tensor({image}, image[np.newaxis])
interpreter.invoke()
presence, scores, weights, distances = (real(*output) for output in {outputs})
presence = 1 / (1 + np.exp(-presence[0, 0]))
rows, columns = distances.shape[1:3]
y, x = np.mgrid[:rows, :columns]
centres = np.stack([(x.ravel() + 0.5) / columns, (y.ravel() + 0.5) / rows] * 2, axis=1).astype(np.float32)
share = np.exp(weights.ravel() - weights.max())
edges = np.log1p(np.exp(distances.reshape(-1, 4))) * np.array([-1, -1, 1, 1], np.float32)
box = share @ (centres + edges) / share.sum() * {width}
box = np.clip((box - [left, top, left, top]) / scale, 0, [width, height, width, height])
print(f"{{presence:.3f}} {{scores[0].argmax()}}")
"""


class Start(NamedTuple):
    """Medians of one program's processes: milliseconds from start to end, and MiB at their peak."""

    time_ms: float
    peak_mib: float


def measure(localizer: Localizer, starts: int) -> tuple[Start, Start]:
    """Start both programs in turn, and give edgeloc's medians and those of the program by hand.

    Parameters:
        localizer: the model, open.
        starts: how many processes of each.

    Raises UsageError for a model of another kind, EngineError when a process fails, GateFailed when the programs find
    different things.
    """
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder, "picture.png"))
        pixels = np.random.default_rng(1).integers(0, 256, (_FRAME_SIZE[1], _FRAME_SIZE[0], 3), np.uint8)
        cv2.imwrite(picture, pixels)
        plan = {**plan_by_hand(localizer), "model": str(localizer.model.path), "picture": picture}
        lines = [program_line(program.format(**plan)) for program in (_EDGELOC, _BY_HAND)]
        # The environment may forbid to keep compiled modules, and an installed package has them.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder, "compiled"))}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        samples: tuple[list[Start], list[Start]] = ([], [])
        for number in range(_WARM_UP + starts):
            answers = {}
            for which in (0, 1) if number % 2 else (1, 0):
                sample, answers[which] = _start(lines[which], environment)
                samples[which].append(sample)
            if answers[0] != answers[1]:
                raise GateFailed(f"the two programs disagree: {answers[0]} and {answers[1]}")
    ours, by_hand = (Start(*map(median, zip(*each[_WARM_UP:], strict=True))) for each in samples)
    return ours, by_hand


def _start(line: Sequence[str], environment: dict[str, str]) -> tuple[Start, str]:
    """Run one process: what it took, and what it printed."""
    began = time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        printed = process.stdout.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        spent_ms = (time.monotonic() - began) * 1000
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = (process.stderr.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise EngineError(f"a fresh process ended with status {process.returncode}: {last}")
    return Start(spent_ms, used.ru_maxrss / 1024), printed.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when a ratio is over its limit."""
    parser = argparse.ArgumentParser(description="Time a fresh process against LiteRT and OpenCV by hand.")
    parser.add_argument("model", help="an int8 .tflite file with a grid head and its contract")
    parser.add_argument("--starts", type=at_least_one, default=40, help="processes of each (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        if sys.platform != "linux":
            raise UsageError("a process's memory is measured on Linux only")
        ours, by_hand = measure(Localizer(arguments.model, "litert"), arguments.starts)
    except EdgelocError as error:
        print(f"cold_start: error: {error}", file=sys.stderr)
        return error.exit_status
    rows = (
        ("time, ms", ours.time_ms, by_hand.time_ms, MOST_TIME),
        ("peak memory, MiB", ours.peak_mib, by_hand.peak_mib, MOST_MEMORY),
    )
    print(f"{arguments.starts} processes of each, to the first result on a 640x480 picture")
    print(f"{'median':<18}{'edgeloc':>10}{'by hand':>10}{'ratio':>8}{'at most':>9}")
    for name, a, b, most in rows:
        print(f"{name:<18}{a:>10.1f}{b:>10.1f}{a / b:>8.3f}{most:>9}")
    return GateFailed.exit_status if any(a / b > most for _, a, b, most in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
