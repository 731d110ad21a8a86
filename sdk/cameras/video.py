"""A video file as a camera: every frame, in order; live streams are not read here."""

from __future__ import annotations

import os
import time

import cv2
import numpy as np

from edgeloc.cameras.base import PathCamera
from edgeloc.errors import DataError, UsageError
from edgeloc.files import utf8_path
from edgeloc.quiet import quiet_opencv
from edgeloc.types import Frame, Pixels

__all__ = ["VideoCamera"]

_FULL_ENOUGH = 0.95


class VideoCamera(PathCamera):
    """Every frame of a video file in order, as fast as it is read; `captured_at` is when it was decoded.

    The file is read by OpenCV's FFmpeg where it has one: MP4, AVI, MKV, MOV, WebM.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._capture: cv2.VideoCapture | None = None
        self._first: Pixels | None = None
        self._next = 0

    def _open(self) -> None:
        if not self.path.exists():
            raise UsageError(f"video {self.path} is not there")
        with quiet_opencv():
            self._capture = cv2.VideoCapture(utf8_path(self.path), _backend())
        if not self._capture.isOpened():
            raise DataError(f"video {self.path} cannot be read: it is damaged, cut short or of an unknown format")
        # The first frame is decoded now, so that a video without any fails before a run has begun.
        self._first, self._next = self._decode(self._capture), 0
        if self._first is None:
            raise DataError(f"video {self.path} holds no frame that can be read")
        self.size = (self._first.shape[1], self._first.shape[0])
        self.note = ""
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else None

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._capture is not None
        pixels, self._first = self._first, None
        if pixels is None:
            pixels = self._decode(self._capture)
        if pixels is None:
            self.note = _shortfall(self._next, self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
            return None
        frame = Frame(pixels, time.monotonic(), self._next)
        self._next += 1
        return frame

    @staticmethod
    def _decode(capture: cv2.VideoCapture) -> Pixels | None:
        found, pixels = capture.read()
        return np.asarray(pixels, np.uint8) if found else None

    def _close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = self._first = None


def _shortfall(given: int, announced: float) -> str:
    """What to say of a video that ended early; some containers only estimate how many frames they hold."""
    if given >= announced * _FULL_ENOUGH:
        return ""
    return f"the video gave {given} of the {announced:.0f} frames it announces: it is cut short or damaged"


def _backend() -> int:
    """FFmpeg where OpenCV has it: other back ends take "%" in a name for a pattern and count frames differently."""
    return cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends() else cv2.CAP_ANY
