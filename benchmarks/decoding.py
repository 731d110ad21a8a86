"""Measures what a detector's frame costs beyond the invoke, against a careful decoder by hand and Ultralytics' own.

    python -m edgeloc.benchmarks.decoding

The output is that of a YOLOv8 of 80 classes and 640x640 pixels in int8, [1, 84, 8400], boxes in fractions: background
below the threshold, and some objects with a dozen overlapping boxes each. No network runs. All take turns frame by
frame, so that a change of the machine's speed meets each; Ultralytics takes part where it is installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.numbers import at_least_one
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EdgelocError, GateFailed
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, Selection
from edgeloc.model.file import ModelFile
from edgeloc.types import Box, Pixels

__all__ = ["LEVELS", "MOST_OF_BY_HAND", "MOST_OF_ULTRALYTICS", "contract", "main", "measure", "output"]

MOST_OF_BY_HAND = 0.5
MOST_OF_ULTRALYTICS = 0.3
_SIDE, _CLASSES, _ROWS = 640, 80, 8400
_FRAME_SIZE = (640, 480)
_SCALE, _ZERO_POINT = LEVELS = 1 / 255, -128
_THRESHOLD, _IOU = 0.25, 0.45
_WARM_UP = 20
_OBJECTS, _BOXES_EACH = 12, 12

Found = list[tuple[Box, float, int]]
Loop = Callable[[Pixels], Found]


class _Answers(Engine):
    """Answers one prepared output at once."""

    name = "prepared"
    version = "1"

    def __init__(self, raw: NDArray[np.int8]) -> None:
        self.inputs = {"image": TensorInfo("image", (1, _SIDE, _SIDE, 3), np.dtype(np.int8), _SCALE, _ZERO_POINT)}
        self.outputs = {"out": TensorInfo("out", raw.shape, raw.dtype, _SCALE, _ZERO_POINT)}
        self._raw = {"out": raw}

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> _Answers:
        raise NotImplementedError  # it is made with its answer

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return self._raw


def output(seed: int = 0) -> NDArray[np.int8]:
    """An int8 output (1, 84, 8400) with a dozen objects, and noise of scores up to 0.2."""
    rng = np.random.default_rng(seed)
    real = np.empty((4 + _CLASSES, _ROWS))
    real[:4] = rng.uniform(0.02, 0.98, (4, _ROWS))
    real[4:] = np.minimum(rng.exponential(0.01, (_CLASSES, _ROWS)), 0.2)
    for index in range(_OBJECTS):
        columns = rng.choice(_ROWS, _BOXES_EACH, replace=False)
        middle, size = rng.uniform(0.25, 0.75, 2), rng.uniform(0.05, 0.2, 2)
        real[:2, columns] = middle[:, None] + rng.normal(0, 0.004, (2, _BOXES_EACH))
        real[2:4, columns] = size[:, None]
        real[4 + index * 5, columns] = rng.uniform(0.4, 0.9, _BOXES_EACH)
    raw: NDArray[np.int8] = np.clip(np.rint(real / _SCALE) + _ZERO_POINT, -128, 127).astype(np.int8)[np.newaxis]
    return raw


def contract() -> Contract:
    """What that output means: boxes in fractions, and the scores of 80 classes."""
    return Contract(
        InputSpec("image", _SIDE, _SIDE, mean=(0.0,), std=(255.0,)),
        (OutputSpec("out", "detections", parts=("box", "class"), layout="channels-first"),),
        labels=tuple(map(str, range(_CLASSES))),
        thresholds=Thresholds(_THRESHOLD),
        detector=DetectorSpec(box=DetectorBox("cxcywh", "fraction"), selection=Selection("by-class", _IOU)),
    )


def edgeloc_loop(raw: NDArray[np.int8]) -> Loop:
    """The Localizer."""
    localizer = Localizer(ModelFile(Path("prepared"), b"", "tflite", contract=contract()), _Answers(raw))

    def run(frame: Pixels) -> Found:
        objects = localizer(frame).objects
        return [(one.box, one.score, int(one.label or 0)) for one in objects if one.box is not None]

    return run


def _letterbox(frame: Pixels) -> tuple[Pixels, float, int, int]:
    height, width = frame.shape[:2]
    scale = min(_SIDE / width, _SIDE / height)
    w, h = round(width * scale), round(height * scale)
    left, top = (_SIDE - w) // 2, (_SIDE - h) // 2
    small = frame if (w, h) == (width, height) else cv2.resize(frame, (w, h))
    pad = (114, 114, 114)
    image = cv2.copyMakeBorder(small, top, _SIDE - h - top, left, _SIDE - w - left, cv2.BORDER_CONSTANT, value=pad)
    return np.asarray(image, np.uint8), scale, left, top


def loop_by_hand(raw: NDArray[np.int8]) -> Loop:
    """What a careful user writes: one pass each, NumPy throughout, OpenCV's suppression."""
    minus, scale = np.float32(_ZERO_POINT), np.float32(_SCALE)

    def run(frame: Pixels) -> Found:
        image, ratio, left, top = _letterbox(frame)
        tensor = (cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.int16) - 128).astype(np.int8)[np.newaxis]
        assert tensor.shape == (1, _SIDE, _SIDE, 3)
        real = (raw[0].astype(np.float32) - minus) * scale
        classes = real[4:].argmax(axis=0)
        scores = real[4:][classes, np.arange(real.shape[1])]
        keep = scores >= _THRESHOLD
        boxes, scores, classes = real[:4, keep].T * _SIDE, scores[keep], classes[keep]
        boxes[:, :2] -= boxes[:, 2:] / 2
        apart: Any = boxes.copy()
        apart[:, :2] += classes[:, np.newaxis] * np.float32(2 * _SIDE)  # so that classes are no rivals
        kept = np.asarray(cv2.dnn.NMSBoxes(apart, scores, _THRESHOLD, _IOU), np.int64).ravel()
        height, width = frame.shape[:2]
        boxes = boxes[kept]
        boxes[:, 2:] += boxes[:, :2]
        boxes = (boxes - np.array([left, top, left, top], np.float32)) / np.float32(ratio)
        np.clip(boxes, 0, [width, height, width, height], out=boxes)
        rows = zip(boxes.tolist(), scores[kept].tolist(), classes[kept].tolist(), strict=True)
        return [(Box(*box), score, label) for box, score, label in rows]

    return run


def ultralytics_loop(raw: NDArray[np.int8]) -> Loop | None:
    """Ultralytics' own steps around a `.tflite`, in its functions; None where it is not installed."""
    try:
        import torch
        from ultralytics.data.augment import LetterBox
        from ultralytics.utils import nms, ops
    except ImportError:
        return None
    letterbox = LetterBox((_SIDE, _SIDE), auto=False)

    def run(frame: Pixels) -> Found:
        image = letterbox(image=frame)[..., ::-1]
        batch = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 255
        tensor = (batch.permute(0, 2, 3, 1).numpy() / _SCALE + _ZERO_POINT).astype(np.int8)
        assert tensor.shape == (1, _SIDE, _SIDE, 3)
        real = (raw.astype(np.float32) - _ZERO_POINT) * _SCALE
        real[:, [0, 2]] *= _SIDE
        real[:, [1, 3]] *= _SIDE
        (found,) = nms.non_max_suppression(torch.from_numpy(real), _THRESHOLD, _IOU)
        found[:, :4] = ops.scale_boxes((_SIDE, _SIDE), found[:, :4], frame.shape)
        return [(Box(*row[:4]), row[4], int(row[5])) for row in found.tolist()]

    return run


def measure(frames: int) -> dict[str, float]:
    """The median of each loop in microseconds a frame; GateFailed where they find different objects."""
    raw = output()
    loops = {"edgeloc": edgeloc_loop(raw), "by hand": loop_by_hand(raw), "ultralytics": ultralytics_loop(raw)}
    running = {name: loop for name, loop in loops.items() if loop is not None}
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (_FRAME_SIZE[1], _FRAME_SIZE[0], 3), np.uint8) for _ in range(8)]
    _compare({name: loop(images[0]) for name, loop in running.items()})
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(_WARM_UP + frames):
        order = list(running.items())
        for name, loop in order[number % len(order) :] + order[: number % len(order)]:
            start = time.perf_counter()
            loop(images[number % len(images)])
            times[name].append((time.perf_counter() - start) * 1e6)
    return {name: float(np.median(spent[_WARM_UP:])) for name, spent in times.items()}


def _compare(answers: dict[str, Found]) -> None:
    """All must find the same, or their times mean nothing."""
    expected = answers["edgeloc"]
    for name, found in answers.items():
        hits = [any(box.iou(other) > 0.99 and label == one for other, _, one in found) for box, _, label in expected]
        if len(found) != len(expected) or not all(hits):
            raise GateFailed(f"edgeloc finds {len(expected)} objects, {name} {len(found)}, and not the same")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when a ratio is over its limit."""
    parser = argparse.ArgumentParser(description="Time preprocessing, decoding and suppression of a detector.")
    parser.add_argument("--frames", type=at_least_one, default=300, help="frames for each (default: %(default)s)")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    try:
        medians = measure(arguments.frames)
    except EdgelocError as error:
        print(f"decoding: error: {error}", file=sys.stderr)
        return error.exit_status
    limits = {"by hand": MOST_OF_BY_HAND, "ultralytics": MOST_OF_ULTRALYTICS}
    print(f"{arguments.frames} frames of 640x480, an int8 output [1, 84, 8400], beyond the invoke, one core")
    print(f"{'median, us':<14}{'':>10}{'edgeloc is':>12}{'at most':>9}")
    over = False
    for name, median in medians.items():
        ratio = medians["edgeloc"] / median
        limit = limits.get(name)
        over |= limit is not None and ratio > limit
        print(f"{name:<14}{median:>10.0f}" + ("" if limit is None else f"{ratio:>12.3f}{limit:>9}"))
    if "ultralytics" not in medians:
        print("ultralytics is not installed")
    return GateFailed.exit_status if over else 0


if __name__ == "__main__":
    sys.exit(main())
