"""The run loop: camera -> newest-frame slot -> localizer -> tracker -> sinks, with the age of every frame."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from edgeloc._support.interrupt import Interrupt, graceful_interrupt
from edgeloc.cameras import Camera, open_camera
from edgeloc.cameras.base import PathCamera, parse_uri
from edgeloc.errors import CameraError, DataError, DeviceError, EdgelocError, OutputError, UsageError
from edgeloc.findings import report
from edgeloc.loop.draw import BlurWhere, draw
from edgeloc.loop.outlets import Outlets
from edgeloc.loop.slot import Capture, Captured, Mode, Prepare
from edgeloc.loop.summary import EndedBy, RunSummary
from edgeloc.loop.tally import Tally
from edgeloc.observation import Observation
from edgeloc.sinks import FileSink, Sink, as_sink
from edgeloc.types import Frame, Pixels, Result

if TYPE_CHECKING:
    from edgeloc.geometry import CameraGeometry
    from edgeloc.loop.tracking import Tracker

__all__ = ["Mode", "keep_apart", "run", "stream"]

Localize = Callable[[Frame], Result]
AnySink = Sink | str | Callable[[Observation], object]

logger = logging.getLogger(__name__)


def run(
    camera: Camera | str,
    localizer: Localize,
    *sinks: AnySink,
    mode: Mode = "newest",
    pipeline: bool = False,
    budget_ms: float | None = None,
    frames: int | None = None,
    overwrite: bool = False,
    tracker: Tracker | None = None,
    geometry: CameraGeometry | None = None,
    object_width_m: float | None = None,
    blur: BlurWhere | None = None,
) -> RunSummary:
    """Localize what the camera sees and hand each observation to the sinks, until something ends the run.

    A live camera is read by a thread of its own; frames that the localizer is too slow for are dropped and counted.
    Each sink has a thread of its own too, and skips what it is too slow for. Any other camera gives every frame in
    order, and waits for the sinks. The run ends with the source, after `frames` results, by Ctrl-C, SIGTERM or SIGHUP
    (in the main thread), or by a sink (see `Sink.ended`). A camera from a URI that goes away is opened again (see
    `open_camera`). A sink that fails is tried again with a live camera, and given up with a file, and the run goes on
    while there is another. A frame on which the localizer fails (EngineError, an answer that is no number) is skipped
    and counted, until ten in a row have failed.

    Parameters:
        camera: an object, which stays open for its owner, or a URI, whose camera is closed at the end.
        localizer: a Localizer, or any function from a Frame to a Result.
        sinks: objects, URIs, or functions that take an observation; they are opened before the first frame, and closed
            whatever happens, with what was written kept.
        mode: for a live camera: "newest" (the newest frame there is: most results) or "fresh" (a frame whose exposure
            began after the last result: youngest results).
        pipeline: for more results a second where a core is free: the next frame is captured and preprocessed while the
            network is busy with this one. A file is then read one frame ahead, and its results are older. Of a
            localizer of one's own, and of a Follower, only the capture is ahead.
        budget_ms: the frame age above which a result is marked stale, at the result and at each sink.
        frames: the number of results to end after.
        overwrite: whether files that sinks given as a path or URI name are emptied if they are there already.
        tracker: follows objects from frame to frame, for `Observation.track` and `tracks`; those of a file in its own
            time.
        geometry: how the camera sees and is mounted, for `Observation.bearing`; frames may have another size of the
            same shape.
        object_width_m: with it, how wide the object really is, in metres, for `Observation.distance_m`.
        blur: "inside" or "outside": what is inside or outside of the boxes is blurred beyond recognition in every frame
            that leaves the loop.

    What a user should know of how the source, the localizer and the sinks did is logged when it happens, goes out with
    the next observation, and is summed up in the summary's `findings`.

    Raises CameraError when the camera goes away for good, CameraTimeout when it stalls, DataError for a damaged image
    of a folder, OutputError when the last sink fails, EngineError when the localizer fails again and again, UsageError
    for a bad argument or a file that is there already, and whatever else the localizer raises. Exit statuses are those
    of failures while running (3) once there was a result.
    """
    loop = _Loop(
        camera, localizer, sinks, mode, pipeline, budget_ms, frames, overwrite, tracker, geometry, object_width_m, blur
    )
    with graceful_interrupt() as interrupt:
        for _ in loop.observations(interrupt):
            pass
    return loop.summary()


def stream(
    camera: Camera | str,
    localizer: Localize,
    *sinks: AnySink,
    mode: Mode = "newest",
    pipeline: bool = False,
    budget_ms: float | None = None,
    frames: int | None = None,
    overwrite: bool = False,
    tracker: Tracker | None = None,
    geometry: CameraGeometry | None = None,
    object_width_m: float | None = None,
    blur: BlurWhere | None = None,
) -> Iterator[Observation]:
    """The same as a generator, for code that acts on each observation itself.

        for observation in edgeloc.stream("v4l2:///dev/video0", localizer):
            steer(observation)

    While the loop's body works, a live camera is read on, and the next observation is that of the newest frame. What
    was opened is closed when the loop is left, by its end, a `break` or an exception; signals are left to the program.
    Parameters and errors are those of `run`.
    """
    loop = _Loop(
        camera, localizer, sinks, mode, pipeline, budget_ms, frames, overwrite, tracker, geometry, object_width_m, blur
    )
    return loop.observations(None)


class _Loop:
    """One run: its arguments, checked before anything is opened, and its frames one by one."""

    def __init__(
        self,
        camera: Camera | str,
        localizer: Localize,
        sinks: Sequence[AnySink],
        mode: Mode,
        pipeline: bool,
        budget_ms: float | None,
        frames: int | None,
        overwrite: bool,
        tracker: Tracker | None,
        geometry: CameraGeometry | None,
        object_width_m: float | None,
        blur: BlurWhere | None,
    ) -> None:
        _check(localizer, mode, budget_ms, frames)
        if object_width_m is not None and (geometry is None or not object_width_m > 0):
            raise UsageError(field="object_width_m", value=object_width_m, allowed="above 0, with {geometry}")
        if blur not in (None, "inside", "outside"):
            raise UsageError(field="blur", value=blur, allowed="inside or outside")
        self._sinks = [as_sink(sink, overwrite=overwrite) for sink in sinks]
        keep_apart(camera, self._sinks)
        for sink in self._sinks:
            if sink.needs_geometry and geometry is None:
                fix = "give a CameraGeometry, or {hfov} or {calibration} on the command line"
                raise UsageError(f"sink {sink.name} needs the camera's geometry", hint=fix)
        self._camera, self._localizer, self._mode, self._frames = camera, localizer, mode, frames
        self._pipeline = pipeline
        self._stages = partial(
            Tally,
            localizer=localizer,
            budget_ms=budget_ms,
            tracker=tracker,
            geometry=geometry,
            object_width_m=object_width_m,
            blur=blur,
        )
        self._tally: Tally | None = None
        self._ended_by: EndedBy = "camera"

    def summary(self) -> RunSummary:
        """What the run did, once it is over."""
        assert self._tally is not None
        return self._tally.summary(self._ended_by)

    def observations(self, interrupt: Interrupt | None) -> Iterator[Observation]:
        """Open everything, yield each observation once the sinks have it, close what was opened.

        `interrupt` is where signals leave their number; None where they raise KeyboardInterrupt as everywhere.
        """
        with self._opened() as camera, self._stages(camera) as tally:
            self._tally = tally
            asked = interrupt or Interrupt()
            tally.outlets = outlets = Outlets(self._sinks, camera, asked, tally.faults, tally.summary, tally.budget_ms)
            try:
                with outlets:
                    try:
                        yield from self._each(camera, tally, outlets, asked)
                    except KeyboardInterrupt:
                        if interrupt is None:
                            raise
                        self._ended_by = _by_signal(interrupt)
                    tally.end()
            except EdgelocError as error:
                if not tally.frames:
                    raise
                raise _while_running(error, outlets.results) from error
            except OSError as error:
                # Of a driver, or of a localizer of one's own.
                if not tally.frames:
                    raise
                raise DeviceError(f"the run failed: {error.strerror or error}{_kept(outlets.results)}") from error
            for finding in camera.findings:
                report(logger, finding)

    def _each(self, camera: Camera, tally: Tally, outlets: Outlets, interrupt: Interrupt) -> Iterator[Observation]:
        """Frame by frame."""
        prepare = self._prepare()
        capture = Capture(camera, self._mode, interrupt, prepare) if camera.live or self._pipeline else None
        with capture or nullcontext():
            interrupt.at("the camera", breakable=True)
            for frame, answer in capture or map(prepare, camera):
                interrupt.at("the localizer", breakable=True)
                observation = tally.observe(frame, answer)
                interrupt.at("the loop")
                if observation is not None:
                    outlets.write(observation, _Drawing(observation, tally.rate))
                    yield observation
                    if self._frames is not None and tally.frames >= self._frames:
                        self._ended_by = "frames"
                        return
                if outlets.ended:
                    self._ended_by = "sink"
                    return
                if interrupt.asked:
                    break
                interrupt.at("the camera", breakable=True)
        if interrupt.asked:
            self._ended_by = _by_signal(interrupt)

    def _prepare(self) -> Prepare:
        """What is done with each frame where it is captured."""
        if not self._pipeline:
            return lambda frame: Captured(frame, partial(self._localizer, frame))
        from edgeloc.loop.pipeline import prepared_ahead  # a function of one's own runs without any engine

        return prepared_ahead(self._localizer)

    @contextmanager
    def _opened(self) -> Iterator[Camera]:
        """The camera, open; one from a URI is closed at the end."""
        if isinstance(self._camera, str):
            with open_camera(self._camera, size=_input_size(self._localizer)) as opened:
                yield opened
        else:
            self._camera.open()
            yield self._camera


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


class _Drawing:
    """The annotated copy of a frame, drawn when the first sink needs it, in whichever thread that is."""

    def __init__(self, observation: Observation, fps: float | None) -> None:
        self._observation, self._fps = observation, fps
        self._lock = threading.Lock()
        self._image: Pixels | None = None

    def __call__(self) -> Pixels:
        with self._lock:
            if self._image is None:
                seen = self._observation
                self._image = draw(
                    seen.frame.pixels,
                    seen.result,
                    age_ms=seen.age_ms,
                    stale=seen.stale,
                    fps=self._fps,
                    track=seen.track,
                )
            return self._image
