"""Measures what the Localizer costs a frame beyond the invoke alone, against the shortest loop written by hand.

    python -m edgeloc.benchmarks.overhead MODEL

All loops share one interpreter and take turns frame by frame, so that a change of the machine's speed meets each. Where
the memory of a process comes to lie makes a loop some percent slower throughout, so that a run is made of several
processes, and its ratios are the medians of theirs. Each loop gets a frame that was just written, as a camera's is, so
that its pixels come out of the processor's caches. The model is one with a grid head, uint8 RGB pixels and a letterbox,
such as `edgeloc train` and `edgeloc convert` make. The Localizer runs twice: with a presence threshold of 0, where each
frame holds an object, and of 1, where none does. The loop by hand, which is the shortest, decodes every frame.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.engines.tflite import TfliteEngine
from edgeloc.errors import EdgelocError, GateFailed, UsageError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Thresholds
from edgeloc.types import Box, Pixels

__all__ = ["Overhead", "Row", "main", "measure", "measure_in_processes", "plan_by_hand", "rows"]

MOST_BEYOND_INVOKE = 0.7
MOST_WHOLE_FRAME = 0.97
MOST_WITHOUT_OBJECT = 0.5
_FRAME_SIZE = (640, 480)
_WARM_UP = 50
_ROLES = ("presence", "class", "grid-weights", "grid-distances")

ByHand = Callable[[Pixels], "tuple[float, int, Box]"]


class Overhead(NamedTuple):
    """Medians in microseconds a frame, of the Localizer and of the loop by hand.

    Attributes:
        beyond_us: all but the invoke, where the frame holds an object.
        beyond_by_hand_us: likewise.
        whole_us: the whole frame, where it holds an object.
        whole_by_hand_us: likewise.
        without_object_us: all but the invoke, where the frame holds none.
    """

    beyond_us: float
    beyond_by_hand_us: float
    whole_us: float
    whole_by_hand_us: float
    without_object_us: float


class Row(NamedTuple):
    """What several processes measured: medians in microseconds, and of the ratios the median, least and largest."""

    name: str
    edgeloc_us: float
    by_hand_us: float
    ratio: float
    lowest: float
    highest: float
    at_most: float

    @property
    def over(self) -> bool:
        """Whether the ratio is over its limit."""
        return self.ratio > self.at_most

    def __str__(self) -> str:
        medians = f"{self.name:<16}{self.edgeloc_us:>10.1f}{self.by_hand_us:>10.1f}{self.ratio:>8.3f}"
        return f"{medians}{f'{self.lowest:.3f} to {self.highest:.3f}':>18}{self.at_most:>9}"


_HEAD = f"{'median, us':<16}{'edgeloc':>10}{'by hand':>10}{'ratio':>8}{'of processes':>18}{'at most':>9}"


def rows(measured: Sequence[Overhead]) -> tuple[Row, ...]:
    """The three figures that have a limit, from what each process measured."""
    pairs = (
        ("beyond invoke", [(one.beyond_us, one.beyond_by_hand_us) for one in measured], MOST_BEYOND_INVOKE),
        ("whole frame", [(one.whole_us, one.whole_by_hand_us) for one in measured], MOST_WHOLE_FRAME),
        ("without object", [(one.without_object_us, one.beyond_by_hand_us) for one in measured], MOST_WITHOUT_OBJECT),
    )
    return tuple(_row(name, times, most) for name, times, most in pairs)


def _row(name: str, times: Sequence[tuple[float, float]], most: float) -> Row:
    ratios = [ours / by_hand for ours, by_hand in times]
    ours, by_hand = map(median, zip(*times, strict=True))
    return Row(name, ours, by_hand, median(ratios), min(ratios), max(ratios), most)


def measure_in_processes(
    model: str, engine: str = "auto", threads: int | None = None, *, frames: int = 500, processes: int = 5
) -> list[Overhead]:
    """Measure in so many fresh processes, one after the other.

    Parameters:
        model: path of the model, as for `Localizer`.
        engine, threads: likewise.
        frames: how many 640x480 frames each loop runs in each process.
        processes: how many.

    Raises UsageError for less than one of either.
    """
    for name, count in (("frames", frames), ("processes", processes)):
        if count < 1:
            raise UsageError(field=name, value=count, allowed="at least 1")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(_measure_in_process, (model, engine, threads, frames)) for _ in range(processes)]


def _measure_in_process(model: str, engine: str, threads: int | None, frames: int) -> Overhead:
    return measure(Localizer(model, engine, threads), frames)


class _Stopwatch:
    """An interpreter whose invoke() adds up the time it takes."""

    def __init__(self, interpreter: Any) -> None:
        self.set_tensor, self.get_tensor = interpreter.set_tensor, interpreter.get_tensor
        self.get_input_details, self.get_output_details = interpreter.get_input_details, interpreter.get_output_details
        self._invoke = interpreter.invoke
        self.seconds = 0.0

    def invoke(self) -> None:
        start = time.perf_counter()
        self._invoke()
        self.seconds += time.perf_counter() - start


def measure(localizer: Localizer, frames: int) -> Overhead:
    """Run the loops on frames of noise.

    Parameters:
        localizer: what is measured; its engine must have an interpreter that the loop by hand can use.
        frames: how many 640x480 frames each loop runs.

    Raises UsageError for a model of another kind, GateFailed when the loops disagree.
    """
    plan, engine = plan_by_hand(localizer), localizer.engine
    assert isinstance(engine, TfliteEngine)
    watch = engine._interpreter = _Stopwatch(engine._interpreter)
    loops: dict[str, Callable[[Pixels], Any]] = {
        "by hand": _loop_by_hand(plan, watch),
        "present": _with_threshold(localizer, 0.0),
        "absent": _with_threshold(localizer, 1.0),
    }
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (_FRAME_SIZE[1], _FRAME_SIZE[0], 3), np.uint8) for _ in range(8)]
    by_hand, present, absent = (loop(images[0]) for loop in loops.values())
    _compare(present, by_hand)
    if absent.present or absent.presence != present.presence:
        raise GateFailed(f"with another threshold the answer is {absent}, not {present}")
    return _time(loops, images, watch, frames)


def _with_threshold(localizer: Localizer, presence: float) -> Localizer:
    """The same model, in the same interpreter, with another presence threshold."""
    contract = dataclasses.replace(localizer.contract, thresholds=Thresholds(presence))
    return Localizer(localizer.model, localizer.engine, contract=contract)


def _time(loops: dict[str, Callable[[Pixels], Any]], images: list[Pixels], watch: _Stopwatch, frames: int) -> Overhead:
    beyond: dict[str, list[float]] = {name: [] for name in loops}
    whole: dict[str, list[float]] = {name: [] for name in loops}
    order = list(loops.items())
    frame = np.empty_like(images[0])
    for number in range(_WARM_UP + frames):
        turn = number % len(order)
        for name, loop in order[turn:] + order[:turn]:
            np.copyto(frame, images[number % len(images)])
            watch.seconds = 0.0
            start = time.perf_counter()
            loop(frame)
            seconds = time.perf_counter() - start
            whole[name].append(seconds * 1e6)
            beyond[name].append((seconds - watch.seconds) * 1e6)
    medians = {name: float(np.median(times[_WARM_UP:])) for name, times in beyond.items()}
    wholes = {name: float(np.median(times[_WARM_UP:])) for name, times in whole.items()}
    return Overhead(medians["present"], medians["by hand"], wholes["present"], wholes["by hand"], medians["absent"])


def _compare(result: Any, by_hand: tuple[float, int, Box]) -> None:
    """Both loops must do the same work, or their times mean nothing."""
    presence, label, box = by_hand
    same = abs(result.presence - presence) < 1e-3 and int(result.class_scores.argmax()) == label
    if not same or (result.box is not None and max(abs(a - b) for a, b in zip(result.box, box, strict=True)) > 0.5):
        raise GateFailed(f"the two loops disagree: {result} and {by_hand}")


def plan_by_hand(localizer: Localizer) -> dict[str, Any]:
    """The constants that a program by hand has for this one model.

    `outputs` are the index, scale and zero point of presence, classes, weights and distances; `image` is the index of
    the input, with its `width`, `height` and `pad`. Raises UsageError for a model of another kind.
    """
    contract, engine = localizer.contract, localizer.engine
    if not isinstance(engine, TfliteEngine):
        raise UsageError(f"the engine {engine.name} has no interpreter that a loop by hand could use")
    spec = contract.input
    tensors: dict[str, str] = {output.role: output.tensor for output in contract.outputs}
    if set(tensors) != set(_ROLES) or (spec.color, spec.resize, spec.interpolation) != ("rgb", "letterbox", "linear"):
        raise UsageError(f"{engine.name}: the loop by hand knows models with the outputs {', '.join(_ROLES)} only")
    if engine.inputs[spec.tensor].dtype != np.uint8:
        raise UsageError("the loop by hand knows models with a uint8 input only")
    indices, infos = engine._outputs, [engine.outputs[tensors[role]] for role in _ROLES]
    outputs = [(indices[info.name], info.scale, info.zero_point) for info in infos]
    sides = {"width": spec.width, "height": spec.height, "pad": spec.pad_value}
    return {"image": engine._input, "outputs": outputs, "cells": infos[-1].shape[1:3], **sides}


def _loop_by_hand(plan: dict[str, Any], interpreter: _Stopwatch) -> ByHand:
    """The loop that a careful user would write for this one model, with its constants at hand."""
    image_at, (rows, columns), pad = plan["image"], plan["cells"], (plan["pad"],) * 3
    side, tall = plan["width"], plan["height"]
    presence_of, classes_of, weights_of, distances_of = plan["outputs"]
    y, x = np.mgrid[:rows, :columns]
    centres = np.stack([(x.ravel() + 0.5) / columns, (y.ravel() + 0.5) / rows] * 2, axis=1).astype(np.float32)
    signs = np.array([-1, -1, 1, 1], np.float32)

    def real(index: int, scale: float | None, zero_point: int) -> NDArray[np.float32]:
        raw: NDArray[np.float32] = interpreter.get_tensor(index).astype(np.float32)
        return raw if scale is None else (raw - np.float32(zero_point)) * np.float32(scale)

    def localize(frame: Pixels) -> tuple[float, int, Box]:
        height, width = frame.shape[:2]
        scale = min(side / width, tall / height)
        w, h = round(width * scale), round(height * scale)
        left, top = (side - w) // 2, (tall - h) // 2
        small = cv2.cvtColor(cv2.resize(frame, (w, h)), cv2.COLOR_BGR2RGB)
        image = cv2.copyMakeBorder(small, top, tall - h - top, left, side - w - left, cv2.BORDER_CONSTANT, value=pad)
        interpreter.set_tensor(image_at, image[np.newaxis])
        interpreter.invoke()
        presence = 1 / (1 + np.exp(-real(*presence_of)[0, 0]))
        scores = real(*classes_of)[0]
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
        weights = real(*weights_of).ravel()
        share = np.exp(weights - weights.max())
        share /= share.sum()
        edges = np.log1p(np.exp(real(*distances_of).reshape(-1, 4)))
        box = share @ (centres + signs * edges) * side
        x1, x2 = np.clip((box[[0, 2]] - left) / scale, 0, width)
        y1, y2 = np.clip((box[[1, 3]] - top) / scale, 0, height)
        return float(presence), int(scores.argmax()), Box(float(x1), float(y1), float(x2), float(y2))

    return localize


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when a ratio is over its limit."""
    parser = argparse.ArgumentParser(description="Time the Localizer against the shortest hand-written loop.")
    parser.add_argument("model", help="an int8 .tflite file with a grid head and its contract")
    parser.add_argument("--frames", type=int, default=500, help="frames for each in a process (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=5, help="how many (default: %(default)s)")
    parser.add_argument("--engine", default="auto", help="inference engine (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the engine (default: the runtime's)")
    arguments = parser.parse_args(argv)
    model, engine, threads, frames = arguments.model, arguments.engine, arguments.threads, arguments.frames
    try:
        localizer = Localizer(model, engine, threads)
        plan_by_hand(localizer)
        measured = measure_in_processes(model, engine, threads, frames=frames, processes=arguments.processes)
    except EdgelocError as error:
        print(f"overhead: error: {error}", file=sys.stderr)
        return error.exit_status
    width, height = _FRAME_SIZE
    print(
        f"{frames} frames of {width}x{height} in each of {arguments.processes} processes on {localizer.engine.name} "
        f"{localizer.engine.version}"
    )
    figures = rows(measured)
    print(_HEAD, *figures, sep="\n")
    return GateFailed.exit_status if any(row.over for row in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
