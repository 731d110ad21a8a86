"""What a run makes of a frame: where the object moves, in which direction it lies, and all of it for the sinks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeloc.types import Box, Frame, Result

if TYPE_CHECKING:
    from edgeloc.findings import Finding

__all__ = ["Bearing", "Observation", "Track", "TrackState"]

TrackState = Literal["measured", "predicted", "lost"]


@dataclass(frozen=True, slots=True)
class Track:
    """Where an object is that a `Tracker` follows.

    Parameters:
        state: "measured" (this frame shows the object), "predicted" (it does not, but frames shortly before did) or
            "lost" (there is nothing to follow).
        at: the time for which the box holds, seconds of `time.monotonic()`.
        box: in pixels of the full frame; it may reach out of it. None when lost.
        velocity: that of the box's centre to the right and down, in pixels a second.
        unseen_s: how many seconds before this frame the object was seen last.
        id: the track's number in the run, from 1; None when lost. An object that was lost or that is suddenly
            elsewhere gets another.
        label: the class that most of its detections had, weighted by their scores; None without any.
        score: that of the detection that it was seen in last, 0 to 1.
        others: beside the track that a `Tracker` returns, those of the other objects that it follows, by `id`.
    """

    state: TrackState
    at: float
    box: Box | None = None
    velocity: tuple[float, float] = (0.0, 0.0)
    unseen_s: float = 0.0
    id: int | None = None
    label: str | None = None
    score: float = 0.0
    others: tuple[Track, ...] = ()

    def box_at(self, seconds: float) -> Box | None:
        """Where the box is, or will be, at another time, seconds of `time.monotonic()`; None when lost."""
        if self.box is None:
            return None
        right, down = ((seconds - self.at) * speed for speed in self.velocity)
        x1, y1, x2, y2 = self.box
        return Box(x1 + right, y1 + down, x2 + right, y2 + down)


@dataclass(frozen=True, slots=True)
class Bearing:
    """The direction of a pixel, in radians.

    Parameters:
        angle_x: in the camera, from the optical axis to the right in the picture.
        angle_y: in the camera, from the optical axis down in the picture.
        direction: the unit vector in the body: forward, right, down (FRD).
    """

    angle_x: float
    angle_y: float
    direction: tuple[float, float, float]

    @property
    def azimuth(self) -> float:
        """In the body, from forward to the right, -pi to pi."""
        return math.atan2(self.direction[1], self.direction[0])

    @property
    def elevation(self) -> float:
        """In the body, above its horizontal plane, -pi/2 to pi/2."""
        forward, right, down = self.direction
        return math.atan2(-down, math.hypot(forward, right))

    @property
    def landing_angles(self) -> tuple[float, float]:
        """In the body, from straight down to the right and to the back: angle_x and angle_y of LANDING_TARGET."""
        forward, right, down = self.direction
        return math.atan2(right, down), math.atan2(-forward, down)


@dataclass(frozen=True, slots=True)
class Observation:
    """One frame of a run: the frame, the model's answer, and what happened to the frame on its way.

    Parameters:
        age_ms: the time from the frame's capture until its result was ready.
        stale: whether that is over the run's age budget.
        dropped: how many frames were dropped since the observation before; at a sink that skipped some, since the one
            that it got before.
        gap_s: how long the camera was away since then, in seconds without a frame; 0 if it was not.
        engine: the name of the engine that computed the result; "" where the localizer has none.
        track: where the tracker has the object, among several the one that it keeps to; None in a run without tracking.
        findings: the faults since the observation before: of the camera, the localizer, the sinks.
        bearing: in a run with the camera's geometry, the direction of the middle of the track's box, or without a
            tracker of the best object's; None where there is no box.
        angular_size: how wide and high that box is, in radians.
        distance_m: how far away it is, where the object's true size is known and the frame does not cut it.
    """

    frame: Frame
    result: Result
    age_ms: float = 0.0
    stale: bool = False
    dropped: int = 0
    gap_s: float = 0.0
    engine: str = ""
    track: Track | None = None
    findings: tuple[Finding, ...] = ()
    bearing: Bearing | None = None
    angular_size: tuple[float, float] | None = None
    distance_m: float | None = None

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Every object that is followed, first that of `track`; empty when it is lost and without tracking."""
        return () if self.track is None or self.track.id is None else (self.track, *self.track.others)

    @property
    def sequence(self) -> int:
        """The frame's number in the camera's count."""
        return self.frame.sequence

    @property
    def captured_at(self) -> float:
        """When the frame's exposure began, seconds of `time.monotonic()`."""
        return self.frame.captured_at
