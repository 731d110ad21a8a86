"""The run loop: camera -> newest-frame slot -> localizer -> sinks, with the age of every frame; no stage lives here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from edgeloc._support.interrupt import Interrupt, graceful_interrupt
from edgeloc.cameras import Camera, open_camera
from edgeloc.errors import CameraError, CameraTimeout, DataError, EdgelocError, OutputError, UsageError
from edgeloc.loop.draw import draw
from edgeloc.loop.slot import NewestSlot
from edgeloc.loop.tally import EndedBy, RunSummary, Tally
from edgeloc.sinks import Sink, open_sink
from edgeloc.types import Frame, Pixels, Result

__all__ = ["EndedBy", "Mode", "RunSummary", "run"]

Mode = Literal["newest", "fresh"]
Localize = Callable[[Frame], Result]

# How often the loop looks up from waiting, and how long it believes in a camera whose read() never returns.
_POLL_S = 0.1
_HANG_S = 10.0
_JOIN_S = 5.0


def run(
    camera: Camera | str,
    localizer: Localize,
    *sinks: Sink | str,
    mode: Mode = "newest",
    budget_ms: float | None = None,
    frames: int | None = None,
) -> RunSummary:
    """Localize what the camera sees and hand each result to the sinks, until something ends it.

    A live camera is read by a thread of its own, and the localizer gets the newest frame there is
    (`mode="newest"`, most results) or one whose exposure began after it was ready (`"fresh"`,
    youngest results); frames in between are dropped and counted. Any other camera gives every
    frame in order. A result older than `budget_ms` is marked stale. The run ends with the source,
    after `frames` results, by Ctrl-C or SIGTERM (in the main thread), or when a sink asks for it.

    Sinks are opened before the first frame and closed whatever happens, with what was written
    kept. A camera given as an object stays the caller's; one given as a URI is closed here.

    A camera from a URI that goes away is tried again (see `open_camera`): its gaps are in the summary's note.

    Raises CameraError when the camera goes away for good, CameraTimeout when it stalls, DataError for a damaged
    image of a folder, OutputError when a sink fails, UsageError for a bad argument, and whatever the localizer raises.
    """
    _check(localizer, mode, budget_ms, frames)
    outlets = [open_sink(sink) if isinstance(sink, str) else sink for sink in sinks]
    if isinstance(camera, str):
        with open_camera(camera, size=_input_size(localizer)) as opened:
            return run(opened, localizer, *outlets, mode=mode, budget_ms=budget_ms, frames=frames)
    camera.open()
    tally = Tally(budget_ms)
    with graceful_interrupt() as interrupt, _opened(outlets, camera):
        try:
            ended_by = _loop(camera, localizer, outlets, mode, frames, tally, interrupt)
        except KeyboardInterrupt:
            ended_by = "interrupt"
        except (CameraError, DataError) as error:
            if not tally.frames:
                raise
            raise type(error)(f"{error} ({tally.frames} results before that are kept)") from error
    return tally.summary(camera.live, ended_by, camera.note)


def _input_size(localizer: Localize) -> tuple[int, int] | None:
    """What the model takes, where the localizer is one with a contract and not a plain function."""
    contract = getattr(localizer, "contract", None)
    return (contract.input.width, contract.input.height) if contract is not None else None


def _check(localizer: Localize, mode: str, budget_ms: float | None, frames: int | None) -> None:
    if mode not in ("newest", "fresh"):
        raise UsageError(f"mode is {mode!r}: it must be newest or fresh")
    if not callable(localizer):
        raise UsageError(f"the localizer is {localizer!r}: give a Localizer, such as Localizer('model.tflite')")
    if budget_ms is not None and not budget_ms > 0:
        raise UsageError(f"budget_ms is {budget_ms}: it must be above 0")
    if frames is not None and frames < 1:
        raise UsageError(f"frames is {frames}: it must be at least 1")


def _loop(
    camera: Camera,
    localizer: Localize,
    sinks: list[Sink],
    mode: Mode,
    frames: int | None,
    tally: Tally,
    interrupt: Interrupt,
) -> EndedBy:
    """Frame by frame; returns why it ended."""
    last_at = float("-inf")
    with _source(camera, mode, interrupt, tally) as source:
        for frame in source:
            result = replace(tally.mark(frame, localizer(frame)), gap_s=_away_s(camera, last_at, frame.captured_at))
            last_at = frame.captured_at
            drawn = _Drawing(frame, result, tally.rate)
            for sink in sinks:
                _write(sink, frame, drawn, result)
            if frames is not None and tally.frames >= frames:
                return "frames"
            if any(sink.ended for sink in sinks):
                return "sink"
            if interrupt.asked:
                break
    return "interrupt" if interrupt.asked else "camera"


def _away_s(camera: Camera, after: float, until: float) -> float:
    """For how many seconds the camera was away between two captures."""
    return sum((gap.seconds for gap in camera.gaps if after < gap.ended_at <= until), 0.0)


@contextmanager
def _source(camera: Camera, mode: Mode, interrupt: Interrupt, tally: Tally) -> Iterator[Iterator[Frame]]:
    """The frames to localize: straight from the camera, or through the slot that a thread fills."""
    if not camera.live:
        yield iter(camera)
        return
    slot, stop = NewestSlot(), threading.Event()
    thread = threading.Thread(target=_capture, args=(camera, slot, stop), name="edgeloc-capture", daemon=True)
    thread.start()
    try:
        yield _newest(camera, slot, mode, interrupt, tally)
    finally:
        stop.set()
        slot.close()
        thread.join(_JOIN_S)


def _capture(camera: Camera, slot: NewestSlot, stop: threading.Event) -> None:
    """What the capture thread does: read, put, until the end, a failure or `stop`."""
    try:
        while not stop.is_set():
            try:
                frame = camera.read()
            except CameraTimeout:
                if not camera.reconnecting:
                    raise
                continue
            if frame is None:
                return slot.end()
            slot.put(frame)
    except BaseException as error:
        slot.fail(error)


def _newest(camera: Camera, slot: NewestSlot, mode: Mode, interrupt: Interrupt, tally: Tally) -> Iterator[Frame]:
    """Frames out of the slot, until the stream ends or the user wants it to."""
    while not interrupt.asked:
        wanted_at = time.monotonic()
        frame = _take(camera, slot, wanted_at, wanted_at if mode == "fresh" else float("-inf"), interrupt)
        if frame is None:
            return
        tally.dropped_before_first = slot.dropped if tally.frames == 0 else 0
        yield frame


def _take(camera: Camera, slot: NewestSlot, began_at: float, after: float, interrupt: Interrupt) -> Frame | None:
    """One frame; looks up now and then, so that a signal ends the wait, and a hung driver does not last for ever."""
    while not interrupt.asked:
        try:
            return slot.take(_POLL_S, after=after)
        except CameraTimeout:
            raise
        except TimeoutError:
            if camera.reconnecting:
                began_at = time.monotonic()
            if time.monotonic() - began_at > _HANG_S:
                raise CameraTimeout(f"camera {camera.name} hangs: nothing came from it for {_HANG_S:g} s") from None
    return None


class _Drawing:
    """The annotated copy of a frame, drawn when the first sink asks for it."""

    def __init__(self, frame: Frame, result: Result, fps: float | None) -> None:
        self._frame, self._result, self._fps = frame, result, fps
        self._image: Pixels | None = None

    def __call__(self) -> Pixels:
        if self._image is None:
            self._image = draw(self._frame.pixels, self._result, fps=self._fps)
        return self._image


def _write(sink: Sink, frame: Frame, drawn: _Drawing, result: Result) -> None:
    try:
        sink.write(frame, drawn, result)
    except EdgelocError:
        raise
    except OSError as error:
        raise OutputError(f"{sink.name} cannot be written on: {error.strerror or error}") from error


@contextmanager
def _opened(sinks: list[Sink], camera: Camera) -> Iterator[None]:
    """Open every sink, and close each of them again; an error of the run goes before one of closing."""
    opened: list[Sink] = []
    failure: BaseException | None = None
    try:
        for sink in sinks:
            opened.append(sink)
            sink.open(fps=camera.fps, live=camera.live)
        yield
    except BaseException as error:
        failure = error
    for sink in opened:
        try:
            sink.close()
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure
