"""Tracking: constant-velocity Kalman filters that follow objects between frames and predict where they will be."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.numbers import finite
from edgeloc.errors import UsageError
from edgeloc.evaluation.figures import SIZES, size_of
from edgeloc.model.contract import Contract
from edgeloc.observation import Track, TrackState
from edgeloc.types import Box, Detection, Frame, Result

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

# The least IoU of an assignment, and that of a detection below the presence threshold: ByteTrack's.
_LEAST_OVERLAP, _LEAST_OVERLAP_BELOW = 0.2, 0.5
# What an overlap with a detection of another class counts.
_OTHER_LABEL = 0.7

_FARTHEST = 1e6
_TINY = 1e-9
# Boxes that are more exact than that cost little, less exact ones much.
_DEFAULT_NOISE = 0.1
_LEAST_NOISE, _MOST_NOISE = 0.02, 0.25
# Gaussian noise of `s` sides on centre and size leaves a mean IoU of exp(-3.4 s): within 4 % of `s` from 0.01 to 0.25.
_LOG_IOU_PER_NOISE = 3.4


_Seen = tuple[Box, Detection]


class Tracker:
    """Follows objects through a run: filters their boxes, bridges frames that miss them, predicts where they will be.

        tracker = Tracker(localizer.contract)
        track = tracker(frame, localizer(frame))

    What the localizer finds goes to the objects that are followed by its overlap with where they are predicted, in the
    two steps of ByteTrack (Zhang et al. 2022): first what is present, then, to the objects that are left, what is below
    the threshold (`Result.candidates`). What then is left may be an object that moved otherwise than predicted, if it
    is not too far from one; else it is another object, with a new `id`. The model of motion is constant velocity in
    the picture.

    It keeps to one object: the first one found, until that is lost, or until something new is found while that is not,
    which may be the same one elsewhere. Its track is what a call returns; those of the others are its `others`, from
    the second frame on that shows them.

    Parameters:
        contract: the model's; its figures on validation data give the noise of the boxes, see `box_noise`.
        noise: that noise instead: the standard deviation of a box's centre and size, as a share of its sides. Without
            either it is 0.1.
        bridge_s: for how many seconds an object that no frame shows is predicted before it is lost.
        predict_ms: for how many milliseconds from now a track's box holds; None for when the frame was captured.

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
        # The one that it keeps to, and the one whose track was returned last.
        self._own: _Object | None = None
        self._shown: _Object | None = None
        self._beside: set[_Object] = set()
        self._objects: list[_Object] = []
        self._now = math.nan
        self._interval = 0.0
        self._frames = self._ids = 0

    def __call__(self, frame: Frame, result: Result, *, seconds: float | None = None) -> Track:
        """The track after one more frame, in the order of capture.

        Parameters:
            frame: the frame; its `captured_at` counts.
            result: what the localizer answered on it.
            seconds: when the frame was taken, for a source such as a video file, whose frames are read faster or
                slower than they were taken; None for `captured_at`.
        """
        before, self._now = self._now, frame.captured_at if seconds is None else seconds
        self._frames += 1
        # Another recording's clock may go backwards.
        self._keep(lambda one: self._now >= before and self._now - one.seen_at <= self._bridge_s)
        self._interval = self._now - before if self._objects else 0.0
        for one in self._objects:
            one.filter.predict(self._interval)
        self._measure(_usable(result.objects), _usable(result.candidates), frame.pixels.shape[1], frame.pixels.shape[0])
        lead_s = self._predict_s or 0.0
        if self._predict_s is not None and seconds is None:
            lead_s += time.monotonic() - frame.captured_at
        return self._answer(frame.captured_at, lead_s)

    @property
    def next_box(self) -> Box | None:
        """Where the object will be in the next frame, in pixels, if that comes after the same time as the last one did.

        It may reach out of the frame. None while the object is lost.
        """
        return None if self._shown is None else _moved(*self._shown.filter.state(), self._interval)

    def _keep(self, wanted: Callable[[_Object], bool]) -> None:
        self._objects = [one for one in self._objects if wanted(one)]
        if self._own not in self._objects:
            self._own = None

    def _measure(self, found: list[_Seen], candidates: list[_Seen], width: int, height: int) -> None:
        """Correct each object by what shows it, and begin another with each detection that is left."""
        for one in self._objects:
            one.noise = self._noise[size_of(one.filter.state()[0], width, height)]
        alone = len(self._objects) == len(found) == 1
        free, new = self._take(self._objects, found, None if alone else _LEAST_OVERLAP)
        free, _ = self._take(free, candidates, _LEAST_OVERLAP_BELOW)
        _, new = self._take(free, new, None)
        # What one frame alone has shown was a false alarm.
        self._keep(lambda one: one.hits > 1 or one.seen == self._frames or one in (self._own, self._shown))
        for box, detection in new:
            one = _Object(box, self._noise[size_of(box, width, height)])
            one.note(detection, self._frames, self._now)
            self._objects.append(one)

    def _take(
        self, objects: list[_Object], found: list[_Seen], least: float | None
    ) -> tuple[list[_Object], list[_Seen]]:
        """Correct objects by the detections that are assigned to them; return those of both that are left.

        They are assigned by their overlap, which is `least` or more, or without that by how likely they are.
        """
        if not objects or not found:
            return objects, found
        boxes = np.array([box for box, _ in found])
        misfits = np.array([one.filter.misfits(boxes, one.noise) for one in objects])
        if least is None:
            pairs = _assign(misfits, _OTHER_NIS)
        else:
            pairs = _assign(np.where(misfits > _OTHER_NIS, 1.0, 1 - _overlaps(objects, found, boxes)), 1 - least)
        for row, column in pairs.items():
            box, detection = found[column]
            objects[row].filter.correct(box, objects[row].noise, float(misfits[row, column]))
            objects[row].note(detection, self._frames, self._now)
        taken = set(pairs.values())
        return (
            [one for row, one in enumerate(objects) if row not in pairs],
            [one for column, one in enumerate(found) if column not in taken],
        )

    def _choose(self) -> _Object | None:
        """The object whose track is the answer."""
        seen = [one for one in self._objects if one.seen == self._frames]
        if not seen and self._shown in self._objects:
            return self._shown
        if self._own is None:
            self._own, self._beside = next(iter(seen or self._objects), None), set()
        elif self._own not in seen:
            # What was never seen beside it may be the same one, that moved otherwise than predicted.
            other = next((one for one in seen if one not in self._beside or self._own.hits == 1), self._own)
            if other.hits == 1:
                return other
            if other is not self._own:
                self._own, self._beside = other, set()
        if self._own in seen:
            self._beside = self._beside.intersection(self._objects).union(seen)
        return self._own

    def _answer(self, captured_at: float, lead_s: float) -> Track:
        self._shown = self._choose()
        if self._shown is None:
            return Track("lost", captured_at + lead_s)
        track = self._track(self._shown, captured_at, lead_s)
        others = [one for one in self._objects if one.hits > 1 and one is not self._shown]
        if not others:
            return track
        return dataclasses.replace(track, others=tuple(self._track(one, captured_at, lead_s) for one in others))

    def _track(self, one: _Object, captured_at: float, lead_s: float) -> Track:
        if one.id is None:
            self._ids += 1
            one.id = self._ids
        state: TrackState = "measured" if one.seen == self._frames else "predicted"
        box, velocity = one.filter.state()
        at, unseen_s = captured_at + lead_s, self._now - one.seen_at
        return Track(state, at, _moved(box, velocity, lead_s), velocity, unseen_s, one.id, one.label, one.score)


class _Object:
    """One object that is followed: its filter, and what is known of it.

    `seen` is the number of the frame that showed it last, `hits` is how many have shown it, `noise` that of a box of
    its size.
    """

    def __init__(self, box: Box, noise: float) -> None:
        self.filter, self.noise = _BoxFilter(box, noise), noise
        self.id: int | None = None
        self.label: str | None = None
        self.seen = self.hits = 0
        self.seen_at = self.score = 0.0
        self._votes: dict[str, float] = {}

    def note(self, found: Detection, frame: int, seconds: float) -> None:
        """A frame has shown it."""
        self.seen, self.seen_at, self.score = frame, seconds, found.score
        self.hits += 1
        if found.label is not None:
            self._votes[found.label] = self._votes.get(found.label, 0.0) + found.score
            self.label = max(self._votes, key=self._votes.__getitem__)


def _usable(detections: Sequence[Detection]) -> list[_Seen]:
    """Those whose boxes are numbers, as another's localizer need not see to."""
    return [(one.box, one) for one in detections if one.box is not None and all(abs(at) < _FARTHEST for at in one.box)]


def _overlaps(objects: Sequence[_Object], found: Sequence[_Seen], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The IoU (objects, detections) of each object's predicted box with each detection's; less for another class."""
    predicted = np.array([one.filter.state()[0] for one in objects])[:, None]
    low, high = np.maximum(predicted[..., :2], boxes[:, :2]), np.minimum(predicted[..., 2:], boxes[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    own, other = (np.maximum(one[..., 2:] - one[..., :2], 0).prod(axis=-1) for one in (predicted, boxes))
    overlaps = np.asarray(shared / np.maximum(own + other - shared, _TINY), np.float64)
    for row, one in enumerate(objects):
        for column, (_, detection) in enumerate(found):
            if None is not one.label != detection.label is not None:
                overlaps[row, column] *= _OTHER_LABEL
    return overlaps


def _assign(costs: NDArray[np.float64], limit: float) -> dict[int, int]:
    """The assignment of rows to columns with the least sum of costs, where being left costs `limit`.

    Moving one unit from each row to a column is a transportation problem, which OpenCV solves for the earth mover's
    distance (Rubner et al. 2000): its solutions move whole units.
    """
    # Of a number that is none fmin takes the limit.
    clipped = np.fmax(np.fmin(costs, limit), 0).astype(np.float32)
    if clipped.size == 1:
        moved = np.ones_like(clipped)
    else:
        rows, columns = (np.ones((length, 1), np.float32) for length in clipped.shape)
        moved = np.asarray(cv2.EMD(rows, columns, cv2.DIST_USER, clipped)[2], np.float32)
    pairs = zip(*np.nonzero((moved > 0.5) & (costs < limit)), strict=True)
    return {int(row): int(column) for row, column in pairs}


def _moved(box: Box, velocity: tuple[float, float], seconds: float) -> Box:
    right, down = (speed * seconds for speed in velocity)
    return Box(box.x1 + right, box.y1 + down, box.x2 + right, box.y2 + down)


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

    def misfits(self, boxes: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
        """How unlikely each of measured boxes (n, 4) is: its centre's normalized innovation squared (NIS)."""
        x, y, width, height, _, _ = self._state()
        across, down = (boxes[:, :2] + boxes[:, 2:]).T / 2 - ((x,), (y,))
        (xx, xy), (_, yy) = self._kalman.errorCovPost[:2, :2].tolist()
        xx, yy = xx + (noise * width) ** 2, yy + (noise * height) ** 2
        squared = across * across * yy - 2 * across * down * xy + down * down * xx
        return np.asarray(squared / (xx * yy - xy * xy), np.float64)

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


def _at(values: object, path: Sequence[str]) -> object:
    """What lies at the end of a path of keys; None where it breaks off."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
