"""Makes each frame's observation in a run, watches over frames and answers, and counts for the summary."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable
from types import NoneType
from typing import TYPE_CHECKING, Any

from edgeloc.cameras.base import Camera
from edgeloc.errors import CameraError, EngineError, UsageError, mask_credentials
from edgeloc.findings import Finding
from edgeloc.loop.draw import BlurWhere, blur
from edgeloc.loop.faults import Faults
from edgeloc.loop.outlets import Outlets
from edgeloc.loop.summary import Ages, EndedBy, RunSummary
from edgeloc.observation import Observation, Track
from edgeloc.types import Box, Frame, Result

if TYPE_CHECKING:
    from edgeloc.geometry import CameraGeometry
    from edgeloc.loop.tracking import Tracker

__all__ = ["MOST_FAILURES", "Tally"]

# So many frames in a row without an answer end a run.
MOST_FAILURES = 10
# At which a folder of images counts as taken.
_FPS = 30.0
# A camera's clock may be a little ahead.
_CLOCK_SLACK_S = 1.0


class Tally:
    """Takes one frame's answer after the other; used in a `with`, in which camera and engine report their faults here.

    The name of the `localizer`'s engine is read frame by frame: an engine may fall back to another one.
    """

    def __init__(
        self,
        camera: Camera,
        localizer: Callable[[Frame], Result],
        budget_ms: float | None = None,
        tracker: Tracker | None = None,
        geometry: CameraGeometry | None = None,
        object_width_m: float | None = None,
        blur: BlurWhere | None = None,
    ) -> None:
        self._camera, self._tracker = camera, tracker
        self._geometry, self._object_width_m, self._blur = geometry, object_width_m, blur
        self._engine: Any = getattr(localizer, "engine", None)
        self.budget_ms = float("inf") if budget_ms is None else budget_ms
        self.faults = Faults()
        self.outlets: Outlets | None = None
        self._began_at, self._ended_at = time.monotonic(), math.inf
        self._ages = Ages()
        self._recent: deque[float] = deque(maxlen=31)
        # The number of the frame before; a camera may have been read before the run.
        self._number, self._last_at = camera._given, float("-inf")
        self._dropped = self._stale = self._present = self._failed = self._failed_in_row = 0

    def __enter__(self) -> Tally:
        # The camera's own findings, which the summary has, are the sum of what it reports.
        self._camera.notify = self.faults.pass_on
        if self._engine is not None:
            self._engine.notify = self.faults.notice
        return self

    def __exit__(self, *_: object) -> None:
        self._camera.notify = None
        if self._engine is not None:
            self._engine.notify = None

    @property
    def frames(self) -> int:
        """How many results there were."""
        return self._ages.count

    @property
    def rate(self) -> float | None:
        """Results a second over the last 30 of them."""
        recent = tuple(self._recent)
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return None
        return (len(recent) - 1) / (recent[-1] - recent[0])

    def observe(self, frame: Frame, answer: Callable[[], Result]) -> Observation | None:
        """The answer with what happened to its frame; None where the localizer failed on it.

        `answer` is called for it.

        Raises the last of `MOST_FAILURES` failures in a row.
        """
        try:
            result = answer()
            _require_numbers(result)
        except EngineError as error:
            self._skip(error)
            return None
        if self._failed_in_row:
            message = f"the localizer answers again after {_inferences(self._failed_in_row)} that failed"
            self.faults.notice(Finding("inference-back", "note", message))
            self._failed_in_row = 0
        return self._observation(frame, result)

    def end(self) -> None:
        """The last frame was localized; raise the failure where none had an answer."""
        self._ended_at = time.monotonic()
        if self._failed and not self.frames:
            raise self._failure

    def _skip(self, error: EngineError) -> None:
        self._failed += 1
        self._failed_in_row += 1
        if self._failed_in_row >= MOST_FAILURES:
            raise error
        # Its traceback would hold the frame.
        self._failure = error.with_traceback(None)
        if self._failed_in_row == 1:
            self.faults.notice(
                Finding("inference-failed", "problem", f"{error.message or error}; the frame is skipped")
            )

    def _observation(self, frame: Frame, result: Result) -> Observation:
        now = time.monotonic()
        self._require_order(frame, now)
        age_ms = (now - frame.captured_at) * 1000
        stale = age_ms > self.budget_ms
        dropped = frame.sequence - self._number - 1
        gap_s = self._away_s(frame) if self._camera.gaps else 0.0
        self._number, self._last_at = frame.sequence, frame.captured_at
        self._ages.add(age_ms)
        self._recent.append(now)
        self._dropped += dropped
        self._stale += stale
        self._present += result.present
        track = None if self._tracker is None else self._track(self._tracker, frame, result)
        aim = {} if self._geometry is None else self._aim(self._geometry, frame, track.box if track else result.box)
        if self._blur is not None:
            frame = _blurred(frame, result, track, self._blur)
        return Observation(
            frame, result, age_ms, stale, dropped, gap_s, self._engine_name, track, self.faults.take(), **aim
        )

    @property
    def _engine_name(self) -> str:
        return "" if self._engine is None else self._engine.name

    def _track(self, tracker: Tracker, frame: Frame, result: Result) -> Track:
        seconds = None if self._camera.live else frame.sequence / (self._camera.fps or _FPS)
        return tracker(frame, result, seconds=seconds)

    def _aim(self, geometry: CameraGeometry, frame: Frame, box: Box | None) -> dict[str, Any]:
        """The direction, angular size and distance of a box, as fields of an observation."""
        height, width = frame.pixels.shape[:2]
        if geometry.size != (width, height):
            geometry = self._geometry = geometry.for_size((width, height))
        if box is None:
            return {}
        x, y = box.center
        left, top, right, bottom = (
            geometry.bearing(*at) for at in ((box.x1, y), (x, box.y1), (box.x2, y), (x, box.y2))
        )
        size = right.angle_x - left.angle_x, bottom.angle_y - top.angle_y
        across_m = self._object_width_m
        distance_m = None if across_m is None else geometry.distance_m(box, width_m=across_m)
        return {"bearing": geometry.bearing(x, y), "angular_size": size, "distance_m": distance_m}

    def _require_order(self, frame: Frame, now: float) -> None:
        """CameraError for a time or a number that no age and no count can be made of; a camera of one's own may err."""
        if not -math.inf < frame.captured_at <= now + _CLOCK_SLACK_S:
            fault = f"gave a frame captured at {frame.captured_at} s, and now is {now:.3f} s"
            raise CameraError(f"camera {self._camera.name} {fault}", hint="give seconds of time.monotonic()")
        if frame.sequence <= self._number:
            fault = f"gave frame {frame.sequence} after frame {self._number}"
            raise CameraError(f"camera {self._camera.name} {fault}", hint="let the sequence grow with each frame")

    def _away_s(self, frame: Frame) -> float:
        """For how many seconds the camera was away between the last frame and this one."""
        return sum((gap.seconds for gap in self._camera.gaps if self._last_at < gap.ended_at <= frame.captured_at), 0.0)

    def summary(self, ended_by: EndedBy | None = None) -> RunSummary:
        """The figures so far, from any thread."""
        seconds = min(time.monotonic(), self._ended_at) - self._began_at
        p50, p90, p99 = self._ages.percentiles(50, 90, 99)
        return RunSummary(
            frames=self.frames,
            dropped=self._dropped,
            stale=self._stale,
            present=self._present,
            seconds=seconds,
            fps=self.frames / seconds if seconds > 0 else 0.0,
            age_ms_p50=p50,
            age_ms_p90=p90,
            age_ms_p99=p99,
            live=self._camera.live,
            ended_by=ended_by,
            failed=self._failed,
            last_at=self._recent[-1] if self._recent else None,
            camera=mask_credentials(self._camera.name),
            engine=self._engine_name,
            sinks=() if self.outlets is None else self.outlets.summary,
            findings=(*self._camera.findings, *self.faults.summary),
        )


def _blurred(frame: Frame, result: Result, track: Track | None, where: BlurWhere) -> Frame:
    boxes = [found.box for found in result.objects if found.box is not None]
    if where == "inside" and len(boxes) < len(result.objects):
        # The model does not say where its object is: it may be anywhere.
        height, width = frame.pixels.shape[:2]
        boxes = [Box(0, 0, width, height)]
    # Where a track is in this picture; its own box may be one that is predicted for later.
    tracks = () if track is None else (track, *track.others)
    boxes += [box for box in (one.box_at(frame.captured_at) for one in tracks) if box is not None]
    return dataclasses.replace(frame, pixels=blur(frame.pixels, boxes, where))


def _require_numbers(result: Result) -> None:
    """EngineError for an answer that cannot be drawn or flown by; a localizer of one's own may give any."""
    if not isinstance(result, Result):
        raise UsageError(f"the localizer gave {type(result).__name__}", hint="return an edgeloc.Result")
    answers: tuple[Any, ...] = (*result.objects, *result.candidates)
    for found in answers:
        label_score = found.label_score
        if not isinstance(found.box, (Box, NoneType)) or not isinstance(found.label, (str, NoneType)):
            answer = f"box {found.box!r}, label {found.label!r}"
            raise UsageError(f"the localizer gave {answer}", hint="give an edgeloc.Box or None, and a text or None")
        if not math.isfinite(found.score + (label_score or 0.0) + (0.0 if found.box is None else sum(found.box))):
            scores = f"score {found.score}, label score {label_score}"
            raise EngineError(f"the localizer's answer is no number: box {found.box}, {scores}")
    if not math.isfinite(result.presence):
        raise EngineError(f"the localizer's answer is no number: presence {result.presence}")


def _inferences(count: int) -> str:
    return "one inference" if count == 1 else f"{count} inferences"
