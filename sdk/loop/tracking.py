"""Tracking: a constant-velocity Kalman filter that follows the object between frames and predicts where it will be."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.numbers import finite
from edgeloc.errors import UsageError
from edgeloc.evaluation.figures import SIZES, size_of
from edgeloc.model.contract import Contract
from edgeloc.types import Box, Frame, Result, Track, TrackState

__all__ = ["Tracker", "box_noise"]

# The numbers of the filter are measured in docs/measurements/tracking.md: deviations in sides of the box, and a frame
# of 1/30 s.
_RATE = 30.0
_POSITION_NOISE = 1 / 40
_VELOCITY_NOISE = 1 / 120
_FIRST_VELOCITY = 1 / 10
# Of the centre's normalized innovation squared (NIS): from where the object moved otherwise than predicted (the 99 %
# quantile of chi-squared with two degrees of freedom is 9.2), and from where it is another object.
_JUMP_NIS = 9.0
_OTHER_NIS = 50.0
_JUMPING = np.ix_((0, 1, 4, 5), (0, 1, 4, 5))

_FARTHEST = 1e6
# Boxes that are more exact than that cost little, less exact ones much.
_DEFAULT_NOISE = 0.1
_LEAST_NOISE, _MOST_NOISE = 0.02, 0.25
# Gaussian noise of `s` sides on centre and size leaves a mean IoU of exp(-3.4 s): within 4 % of `s` from 0.01 to 0.25.
_LOG_IOU_PER_NOISE = 3.4


class Tracker:
    """Follows one object through a run: filters its box, bridges frames that miss it, predicts where it will be.

        tracker = Tracker(localizer.contract)
        track = tracker(frame, localizer(frame))

    It takes what the localizer calls present: among several objects the one that fits its prediction best, else the
    first. An object too far from the prediction to be the same one begins a new track, with a new `id`. The model of
    motion is constant velocity in the picture.

    Parameters:
        contract: the model's; its figures on validation data give the noise of the boxes, see `box_noise`.
        noise: that noise instead: the standard deviation of a box's centre and size, as a share of its sides. Without
            either it is 0.1.
        bridge_s: for how many seconds an object that no frame shows is predicted before it is lost.
        predict_ms: for how many milliseconds from now the track's box holds; None for when the frame was captured.

    Not for use from two threads at once. Raises UsageError for a value out of range.
    """

    def __init__(
        self,
        contract: Contract | None = None,
        *,
        noise: float | None = None,
        bridge_s: float = 1.0,
        predict_ms: float | None = None,
    ) -> None:
        if noise is not None and not 0.001 <= noise <= 1:
            raise UsageError(field="noise", value=noise, allowed="0.001 to 1")
        if not 0 < bridge_s < math.inf:
            raise UsageError(field="bridge_s", value=bridge_s, allowed="above 0")
        if predict_ms is not None and not 0 <= predict_ms < math.inf:
            raise UsageError(field="predict_ms", value=predict_ms, allowed="at least 0")
        self._noise = {size: box_noise(contract, size) if noise is None else noise for size in SIZES}
        self._bridge_s = bridge_s
        self._predict_s = None if predict_ms is None else predict_ms / 1000
        # The seam for several objects: a filter for each, and `_measure` assigns the boxes to them.
        self._filter: _BoxFilter | None = None
        self._now = self._seen_at = math.nan
        self._interval = 0.0
        self._id = 0

    def __call__(self, frame: Frame, result: Result, *, seconds: float | None = None) -> Track:
        """The track after one more frame, in the order of capture.

        Parameters:
            frame: the frame; its `captured_at` counts.
            result: what the localizer answered on it.
            seconds: when the frame was taken, for a source such as a video file, whose frames are read faster or
                slower than they were taken; None for `captured_at`.
        """
        before, self._now = self._now, frame.captured_at if seconds is None else seconds
        # Another recording's clock may go backwards.
        if not (self._now >= before and self._now - self._seen_at <= self._bridge_s):
            self._filter = None
        self._interval = 0.0 if self._filter is None else self._now - before
        if self._filter is not None:
            self._filter.predict(self._interval)
        boxes = [found.box for found in result.objects if found.box is not None and _usable(found.box)]
        if boxes:
            self._measure(boxes, frame.pixels.shape[1], frame.pixels.shape[0])
        lead_s = self._predict_s or 0.0
        if self._predict_s is not None and seconds is None:
            lead_s += time.monotonic() - frame.captured_at
        return self._track(bool(boxes), frame.captured_at, lead_s)

    @property
    def next_box(self) -> Box | None:
        """Where the object will be in the next frame, in pixels, if that comes after the same time as the last one did.

        It may reach out of the frame. None while the object is lost.
        """
        if self._filter is None:
            return None
        (x1, y1, x2, y2), velocity = self._filter.state()
        right, down = (speed * self._interval for speed in velocity)
        return Box(x1 + right, y1 + down, x2 + right, y2 + down)

    def _measure(self, boxes: Sequence[Box], width: int, height: int) -> None:
        """Take the box that fits best into the filter, or begin another filter with the first."""
        if self._filter is not None:
            noise = self._noise[size_of(self._filter.state()[0], width, height)]
            misfit, box = min((self._filter.misfit(box, noise), box) for box in boxes)
            if misfit <= _OTHER_NIS:
                self._filter.correct(box, noise, misfit)
            else:
                self._filter = None
        if self._filter is None:
            self._filter = _BoxFilter(boxes[0], self._noise[size_of(boxes[0], width, height)])
            self._id += 1
        self._seen_at = self._now

    def _track(self, measured: bool, captured_at: float, lead_s: float) -> Track:
        if self._filter is None:
            return Track("lost", captured_at + lead_s)
        state: TrackState = "measured" if measured else "predicted"
        box, velocity = self._filter.state()
        track = Track(state, captured_at, box, velocity, self._now - self._seen_at, self._id)
        return dataclasses.replace(track, box=track.box_at(captured_at + lead_s), at=captured_at + lead_s)


class _BoxFilter:
    """The Kalman filter of one box: the centre's x and y, width, height in pixels; the centre's velocity, a second.

    Everywhere `noise` is the standard deviation of a measured centre or size, as a share of the box's sides.
    """

    def __init__(self, box: Box, noise: float) -> None:
        self._kalman = cv2.KalmanFilter(6, 4, 0, cv2.CV_64F)
        self._transition = np.eye(6)
        self._kalman.measurementMatrix = np.eye(4, 6)
        x, y, width, height = _centre_and_size(box)
        self._kalman.statePost = _column(x, y, width, height, 0, 0)
        speed = _FIRST_VELOCITY * _RATE
        self._kalman.errorCovPost = _variances(
            noise * width, noise * height, noise * width, noise * height, speed * width, speed * height
        )

    def state(self) -> tuple[Box, tuple[float, float]]:
        """The box in pixels, and its centre's velocity in pixels a second."""
        x, y, width, height, right, down = self._state()
        return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2), (right, down)

    def _state(self) -> tuple[float, ...]:
        x, y, width, height, right, down = self._kalman.statePost[:, 0].tolist()
        return x, y, max(width, 1.0), max(height, 1.0), right, down

    def predict(self, seconds: float) -> None:
        """Move on in time."""
        self._transition[0, 4] = self._transition[1, 5] = seconds
        _, _, width, height, _, _ = self._state()
        frames = math.sqrt(seconds * _RATE)
        place, speed = _POSITION_NOISE * frames, _VELOCITY_NOISE * _RATE * frames
        self._kalman.transitionMatrix = self._transition
        self._kalman.processNoiseCov = _variances(
            place * width, place * height, place * width, place * height, speed * width, speed * height
        )
        self._kalman.predict()

    def misfit(self, box: Box, noise: float) -> float:
        """How unlikely a measured box is: its centre's normalized innovation squared (NIS)."""
        x, y, width, height, _, _ = self._state()
        across, down = box.center[0] - x, box.center[1] - y
        (xx, xy), (_, yy) = self._kalman.errorCovPost[:2, :2].tolist()
        xx, yy = xx + (noise * width) ** 2, yy + (noise * height) ** 2
        misfit: float = (across * across * yy - 2 * across * down * xy + down * down * xx) / (xx * yy - xy * xy)
        return misfit

    def correct(self, box: Box, noise: float, misfit: float) -> None:
        """Take in a measured box; from one that jumped, forget what was known of centre and velocity."""
        _, _, width, height, _, _ = self._state()
        self._kalman.measurementNoiseCov = _variances(noise * width, noise * height, noise * width, noise * height)
        if misfit > _JUMP_NIS:
            covariance = np.asarray(self._kalman.errorCovPre, np.float64)
            covariance[_JUMPING] *= misfit / 2
            self._kalman.errorCovPre = covariance
        self._kalman.correct(_column(*_centre_and_size(box)))
        # Rounding makes the covariance lopsided, and each jump would multiply that.
        after = self._kalman.errorCovPost
        self._kalman.errorCovPost = (after + after.T) / 2


def _variances(*deviations: float) -> NDArray[np.float64]:
    """The covariance of independent quantities of these standard deviations."""
    matrix = np.zeros((len(deviations), len(deviations)))
    matrix.flat[:: len(deviations) + 1] = [one * one for one in deviations]
    return matrix


def _column(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64).reshape(-1, 1)


def _centre_and_size(box: Box) -> tuple[float, float, float, float]:
    """Centre x and y, width, height; a side of nothing counts as a pixel."""
    return *box.center, max(box.width, 1.0), max(box.height, 1.0)


def box_noise(contract: Contract | None, size: str) -> float:
    """The standard deviation of the centre and the size of a model's boxes, as a share of their sides.

    It follows from the mean IoU that the contract reports of the quantized model's validation, for objects of this
    `size` (a name in `edgeloc.evaluation.figures.SIZES`) or for all, else of the network's training; 0.1 without any.
    """
    measured: object = contract.measured if contract is not None else {}
    for path in (
        ("quantization", "by_size", size, "mean_iou_quantized"),
        ("quantization", "mean_iou_quantized"),
        ("training", "validation", "box_iou"),
    ):
        with suppress(ValueError):
            mean_iou = finite(_at(measured, path))
            if 0 < mean_iou <= 1:
                return min(max(-math.log(mean_iou) / _LOG_IOU_PER_NOISE, _LEAST_NOISE), _MOST_NOISE)
    return _DEFAULT_NOISE


def _usable(box: Box) -> bool:
    """Whether the numbers are numbers, as another's localizer need not see to."""
    return all(abs(value) < _FARTHEST for value in box)


def _at(values: object, path: Sequence[str]) -> object:
    """What lies at the end of a path of keys; None where it breaks off."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
