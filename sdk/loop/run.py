"""The run loop: camera -> newest-frame slot -> localizer -> sinks, with the age of every frame and a summary."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from edgeloc._support.interrupt import Interrupt, graceful_interrupt
from edgeloc.cameras import Camera, open_camera
from edgeloc.cameras.base import PathCamera, parse_uri
from edgeloc.errors import CameraError, DataError, DeviceError, EdgelocError, EngineError, OutputError, UsageError
from edgeloc.findings import report
from edgeloc.loop.ages import Ages
from edgeloc.loop.draw import draw
from edgeloc.loop.outlets import Outlets
from edgeloc.loop.slot import LiveCapture, Mode
from edgeloc.loop.summary import EndedBy, RunSummary
from edgeloc.sinks import FileSink, Sink, open_sink
from edgeloc.types import Frame, Observation, Pixels, Result

if TYPE_CHECKING:
    from edgeloc.loop.tracking import Tracker

__all__ = ["Mode", "keep_apart", "run"]

Localize = Callable[[Frame], Result]
# At which a folder of images counts as taken.
_FPS = 30.0

# A camera's clock may be a little ahead.
_CLOCK_SLACK_S = 1.0

logger = logging.getLogger(__name__)


def run(
    camera: Camera | str,
    localizer: Localize,
    *sinks: Sink | str,
    mode: Mode = "newest",
    budget_ms: float | None = None,
    frames: int | None = None,
    overwrite: bool = False,
    tracker: Tracker | None = None,
) -> RunSummary:
    """Localize what the camera sees and hand each observation to the sinks, until something ends the run.

    A live camera is read by a thread of its own; frames that the localizer is too slow for are dropped and counted.
    Any other camera gives every frame in order. The run ends with the source, after `frames` results, by Ctrl-C,
    SIGTERM or SIGHUP (in the main thread), or by a sink (see `Sink.ended`). A camera from a URI that goes away is
    opened again (see `open_camera`). A sink that fails is given up, and the run goes on while there is another.

    Parameters:
        camera: an object, which stays open for its owner, or a URI, whose camera is closed at the end.
        localizer: a Localizer, or any function from a Frame to a Result.
        sinks: objects or URIs; they are opened before the first frame, and closed whatever happens, with what was
            written kept.
        mode: for a live camera: "newest" (the newest frame there is: most results) or "fresh" (a frame whose exposure
            began after the last result: youngest results).
        budget_ms: the frame age above which a result is marked stale.
        frames: the number of results to end after.
        overwrite: whether files that sinks given as a path or URI name are emptied if they are there already.
        tracker: follows the object from frame to frame, for `Observation.track`; a file's frames in its own time.

    What a user should know of how the source and the sinks did is logged, and in the summary's `findings`.

    Raises CameraError when the camera goes away for good, CameraTimeout when it stalls, DataError for a damaged image
    of a folder, OutputError when the last sink fails, EngineError for an answer that is no number, UsageError for a bad
    argument or a file that is there already, and whatever the localizer raises. Exit statuses are those of failures
    while running (3) once there was a result.
    """
    _check(localizer, mode, budget_ms, frames)
    outlets = [open_sink(sink, overwrite=overwrite) if isinstance(sink, str) else sink for sink in sinks]
    keep_apart(camera, outlets)
    if isinstance(camera, str):
        with open_camera(camera, size=_input_size(localizer)) as opened:
            return run(opened, localizer, *outlets, mode=mode, budget_ms=budget_ms, frames=frames, tracker=tracker)
    camera.open()
    tally = _Tally(camera, localizer, budget_ms)
    try:
        with graceful_interrupt() as interrupt, Outlets(outlets, camera, interrupt) as opened_outlets:
            try:
                ended_by = _loop(camera, localizer, opened_outlets, mode, frames, tally, interrupt, tracker)
            except KeyboardInterrupt:
                ended_by = _by_signal(interrupt)
    except EdgelocError as error:
        if not tally.frames:
            raise
        raise _while_running(error, opened_outlets.results) from error
    except OSError as error:
        # Of a driver, or of a localizer of one's own.
        if not tally.frames:
            raise
        raise DeviceError(f"the run failed: {error.strerror or error}{_kept(opened_outlets.results)}") from error
    for finding in camera.findings:
        report(logger, finding)
    return tally.summary(ended_by, opened_outlets)


def _by_signal(interrupt: Interrupt) -> EndedBy:
    return "terminated" if interrupt.terminated else "interrupt"


def _while_running(error: EdgelocError, results: int) -> EdgelocError:
    """The error as one that came after results: bad input before anything ran has another exit status."""
    if isinstance(error, (CameraError, DataError, OutputError)):
        what = error.message or str(error)
        error = type(error)(f"{what}{_kept(results)}", hint=error.hint)
    error.exit_status = DeviceError.exit_status
    return error


def _kept(results: int) -> str:
    return f" ({results} results before that are kept)" if results else ""


def _check(localizer: Localize, mode: str, budget_ms: float | None, frames: int | None) -> None:
    if mode not in ("newest", "fresh"):
        raise UsageError(field="mode", value=mode, allowed="newest or fresh")
    if not callable(localizer):
        raise UsageError(f"the localizer is {localizer!r}", hint="give a Localizer, such as Localizer('model.tflite')")
    if budget_ms is not None and not budget_ms > 0:
        raise UsageError(field="budget_ms", value=budget_ms, allowed="above 0")
    if frames is not None and frames < 1:
        raise UsageError(field="frames", value=frames, allowed="at least 1")


def keep_apart(camera: Camera | str, sinks: Sequence[Sink]) -> None:
    """UsageError where a sink would write over the camera's own file, or two would write one file."""
    path = parse_uri(camera).path if isinstance(camera, str) else camera.path if isinstance(camera, PathCamera) else ""
    written: set[str] = set()
    for sink in sinks:
        if not isinstance(sink, FileSink):
            continue
        target = os.path.realpath(sink.path)
        if target == os.path.realpath(path):
            raise UsageError(f"sink {sink.name} is the file the frames come from", hint="give another name")
        if target in written:
            raise UsageError(f"sink {sink.name} is given twice")
        written.add(target)


def _input_size(localizer: Localize) -> tuple[int, int] | None:
    """What the model takes, where the localizer is one with a contract and not a plain function."""
    contract = getattr(localizer, "contract", None)
    return (contract.input.width, contract.input.height) if contract is not None else None


def _loop(
    camera: Camera,
    localizer: Localize,
    outlets: Outlets,
    mode: Mode,
    frames: int | None,
    tally: _Tally,
    interrupt: Interrupt,
    tracker: Tracker | None,
) -> EndedBy:
    """Frame by frame; returns why it ended."""
    capture = LiveCapture(camera, mode, interrupt) if camera.live else None
    with capture or nullcontext():
        interrupt.at("the camera", breakable=True)
        for frame in capture or camera:
            interrupt.at("the localizer", breakable=True)
            result = localizer(frame)
            interrupt.at("the loop")
            observation = tally.observe(frame, result)
            if tracker is not None:
                track = tracker(frame, result, seconds=None if camera.live else frame.sequence / (camera.fps or _FPS))
                observation = dataclasses.replace(observation, track=track)
            outlets.write(observation, _Drawing(observation, tally.rate))
            if frames is not None and tally.frames >= frames:
                return "frames"
            if outlets.ended:
                return "sink"
            if interrupt.asked:
                break
            interrupt.at("the camera", breakable=True)
    return _by_signal(interrupt) if interrupt.asked else "camera"


class _Tally:
    """Makes each frame's observation, and counts for the summary.

    The name of the `localizer`'s engine is read frame by frame: an engine may fall back to another one.
    """

    def __init__(self, camera: Camera, localizer: Localize, budget_ms: float | None) -> None:
        self._camera = camera
        self._engine: Any = getattr(localizer, "engine", None)
        self._budget_ms = float("inf") if budget_ms is None else budget_ms
        self._began_at = time.monotonic()
        self._ages = Ages()
        self._recent: deque[float] = deque(maxlen=31)
        # The number of the frame before; a camera may have been read before the run.
        self._number, self._last_at = camera._given, float("-inf")
        self._dropped = self._stale = self._present = 0

    @property
    def frames(self) -> int:
        """How many results there were."""
        return self._ages.count

    @property
    def rate(self) -> float | None:
        """Results a second over the last 30 of them."""
        if len(self._recent) < 2 or self._recent[-1] <= self._recent[0]:
            return None
        return (len(self._recent) - 1) / (self._recent[-1] - self._recent[0])

    def observe(self, frame: Frame, result: Result) -> Observation:
        """The result with what happened to its frame."""
        _require_numbers(result)
        now = time.monotonic()
        self._require_order(frame, now)
        age_ms = (now - frame.captured_at) * 1000
        stale = age_ms > self._budget_ms
        dropped = frame.sequence - self._number - 1
        gap_s = self._away_s(frame) if self._camera.gaps else 0.0
        self._number, self._last_at = frame.sequence, frame.captured_at
        self._ages.add(age_ms)
        self._recent.append(now)
        self._dropped += dropped
        self._stale += stale
        self._present += result.present
        engine = "" if self._engine is None else self._engine.name
        return Observation(frame, result, age_ms, stale, dropped, gap_s, engine)

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

    def summary(self, ended_by: EndedBy, outlets: Outlets) -> RunSummary:
        """The figures of the whole run."""
        seconds = time.monotonic() - self._began_at
        return RunSummary(
            frames=self.frames,
            dropped=self._dropped,
            stale=self._stale,
            present=self._present,
            seconds=seconds,
            fps=self.frames / seconds if seconds > 0 else 0.0,
            age_ms_p50=self._ages.percentile(50),
            age_ms_p90=self._ages.percentile(90),
            age_ms_p99=self._ages.percentile(99),
            live=self._camera.live,
            ended_by=ended_by,
            findings=(*self._camera.findings, *outlets.findings),
            sinks=tuple(outlets.lost),
        )


def _require_numbers(result: Result) -> None:
    """EngineError for an answer that cannot be drawn or flown by; a localizer of one's own may give any."""
    if not isinstance(result, Result):
        raise UsageError(f"the localizer gave {type(result).__name__}", hint="return an edgeloc.Result")
    for found in result.objects:
        label_score = found.label_score
        if not math.isfinite(found.score + (label_score or 0.0) + (0.0 if found.box is None else sum(found.box))):
            scores = f"score {found.score}, label score {label_score}"
            raise EngineError(f"the localizer's answer is no number: box {found.box}, {scores}")
    if not math.isfinite(result.presence):
        raise EngineError(f"the localizer's answer is no number: presence {result.presence}")


class _Drawing:
    """The annotated copy of a frame, drawn when the first sink needs it."""

    def __init__(self, observation: Observation, fps: float | None) -> None:
        self._observation, self._fps = observation, fps
        self._image: Pixels | None = None

    def __call__(self) -> Pixels:
        if self._image is None:
            seen = self._observation
            self._image = draw(
                seen.frame.pixels, seen.result, age_ms=seen.age_ms, stale=seen.stale, fps=self._fps, track=seen.track
            )
        return self._image
