"""Writes annotated frames as a video that plays up to its last second, whatever ends the program."""

from __future__ import annotations

import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from edgeloc._support.files import utf8_path
from edgeloc.errors import MissingExtra, OutputError
from edgeloc.observation import Observation
from edgeloc.sinks.base import FileSink
from edgeloc.types import Pixels

__all__ = ["AviSink", "Mp4Sink", "VideoSink", "fit"]

LIVE_FPS = 30.0
IMAGES_FPS = 10.0
LEAST_FREE_BYTES = 2**20
# Of an .avi: OpenCV refuses fewer pictures a second, and counts its bytes in 31 bits.
LEAST_FPS, MOST_BYTES = 1.0, 2_000_000_000
# A picture is held in an .avi for no longer than this.
LONGEST_HOLD_S = 10.0
_TICKS_PER_S = 90_000
# Each second begins a fragment of its own, so no more than this is lost when the program is killed.
_FRAGMENT_S = 1.0
_MP4 = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
_H264 = {"preset": "ultrafast", "tune": "zerolatency"}


class VideoSink(FileSink):
    """A video that plays at the speed at which things happened.

    From a file or folder each result is one picture; from a live camera a picture is shown until the next result's
    time of capture. The video takes the size of the first frame; a later one of another size is scaled to fit, with
    black bars.
    """

    capacity = 8

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        super().__init__(path, overwrite=overwrite)
        self._fps, self._live = LIVE_FPS, False
        self._size = (0, 0)
        self._written = 0
        self._began_at = 0.0

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file, so that an unwritable place shows before the run; the encoder waits for the first frame.

        Raises UsageError where the file is there already, OutputError when it cannot be written.
        """
        utf8_path(self.path)
        self._begin()
        if self._streams:
            self._end()
            raise OutputError(f"{self.path} is no file, and a video is not written in one go", hint="use a .jsonl")
        # A link may lead to another disk.
        self._folder = os.path.dirname(os.path.realpath(self.path))
        self._fps, self._live = fps or (LIVE_FPS if live else IMAGES_FPS), live
        self._written = 0

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append the annotated frame; OutputError when the disk is full or the video cannot be encoded."""
        picture = drawn()
        if not self._written:
            height, width = picture.shape[:2]
            # The encoder halves the colour's resolution.
            self._size = (width + width % 2, height + height % 2)
            self._began_at = observation.captured_at
            self._start()
        # Neither encoder reports each failed write.
        if shutil.disk_usage(self._folder).free < LEAST_FREE_BYTES:
            raise OutputError(f"{self.path}: the disk is full (under 1 MB free)")
        at_s = observation.captured_at - self._began_at if self._live else self._written / self._fps
        self._encode(fit(picture, self._size), at_s)
        self._written += 1

    def close(self) -> None:
        """Finish the video; without a frame none is left. OutputError where its end could not be written."""
        try:
            self._finish()
        finally:
            self._end()

    @abstractmethod
    def _start(self) -> None:
        """Make the encoder for pictures of `_size`; OutputError where it cannot be made."""

    @abstractmethod
    def _encode(self, picture: Pixels, at_s: float) -> None:
        """Append a picture that was taken `at_s` seconds after the first."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what the encoder holds back; may be called without a start."""


class Mp4Sink(VideoSink):
    """H.264 in an MP4 of one-second fragments: browsers play it, and a killed program loses the last second at most.

    Needs PyAV, the extra `video`.
    """

    _container: Any = None
    _stream: Any = None

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file; MissingExtra without PyAV."""
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise MissingExtra("av", "video", "writing .mp4 (writing .avi does not)") from error
        super().open(fps=fps, live=live)

    def _start(self) -> None:
        import av

        with self._reported():
            # FFmpeg takes what stands before a colon in a name for a protocol.
            self._container = av.open(f"file:{self.path}", "w", format="mp4", options=_MP4)
            stream = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1001))
            stream.width, stream.height = self._size
            stream.pix_fmt, stream.options = "yuv420p", _H264
            stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        self._stream, self._key_at, self._tick = stream, -_FRAGMENT_S, -1

    def _encode(self, picture: Pixels, at_s: float) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        # Two frames of one time of capture keep their order.
        self._tick = max(self._tick + 1, round(at_s * _TICKS_PER_S))
        frame.pts, frame.time_base = self._tick, Fraction(1, _TICKS_PER_S)
        if at_s >= self._key_at + _FRAGMENT_S:
            self._key_at = at_s
            frame.pict_type = av.video.frame.PictureType.I
        with self._reported():
            self._container.mux(self._stream.encode(frame))

    def _finish(self) -> None:
        container, stream, self._container, self._stream = self._container, self._stream, None, None
        if container is None:
            return
        with self._reported():
            try:
                if stream is not None:
                    container.mux(stream.encode(None))
            finally:
                container.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"{self.path} cannot be written to: {reason}") from error


class AviSink(VideoSink):
    """Motion JPEG in an AVI, by OpenCV alone: each picture is whole in itself, so what is in the file plays.

    It has one rate, the camera's, and at least 1 a second: a picture is repeated until the next one's time. The kind of
    file ends at 2 GB: what follows is in files with the time of their start in their names.
    """

    _writer: cv2.VideoWriter | None = None
    _last: Pixels | None = None
    _rate = LIVE_FPS
    # How many pictures the video holds by its time; after a long gap it holds fewer.
    _place = 0

    def _start(self) -> None:
        fourcc = cv2.VideoWriter.fourcc(*"MJPG")
        self._rate = max(LEAST_FPS, self._fps)
        # OpenCV's own writer: FFmpeg's keeps pictures back until the end.
        self._writer = cv2.VideoWriter(str(self.path), cv2.CAP_OPENCV_MJPEG, fourcc, self._rate, self._size)
        if not self._writer.isOpened():
            raise OutputError(f"{self.path}: this OpenCV cannot encode Motion JPEG", hint="pip install opencv-python")
        self._last, self._place = None, 0

    def _encode(self, picture: Pixels, at_s: float) -> None:
        assert self._writer is not None
        place = round(at_s * self._rate)
        if place < self._place:
            return
        if self._taken >= MOST_BYTES:
            self._start_next(place)
        if self._last is not None:
            for _ in range(min(place - self._place, round(LONGEST_HOLD_S * self._rate))):
                self._writer.write(self._last)
        self._writer.write(picture)
        self._last, self._place = picture, place + 1

    def _start_next(self, place: int) -> None:
        """Begin another file: OpenCV ends the whole process when one of more than 2 GB is closed."""
        self._finish()
        self._go_on()
        self._start()
        self._place = place

    def _finish(self) -> None:
        writer, self._writer, self._last = self._writer, None, None
        if writer is not None:
            writer.release()


def fit(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture scaled down or up to fit in `size` (width, height), its shape kept, with black bars."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    # An odd row or column is only filled up.
    scale = min(size[0] / width, size[1] / height)
    if not (0 <= size[0] - width <= 1 and 0 <= size[1] - height <= 1):
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    right, bottom = size[0] - width, size[1] - height
    sides = (bottom // 2, bottom - bottom // 2, right // 2, right - right // 2)
    return np.asarray(cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0)), np.uint8)
