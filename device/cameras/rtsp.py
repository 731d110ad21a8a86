"""RTSP streams of network cameras through OpenCV's FFmpeg, and why one does not open."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2

from edgeloc._support.backend import Uri
from edgeloc.cameras.base import Camera
from edgeloc.device.cameras.grab import Grabber
from edgeloc.errors import CameraError, UsageError, mask_credentials
from edgeloc.types import Frame

__all__ = ["RtspCamera"]

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_OPEN_MS, _READ_MS = 5000, 4000
_PORTS = {"rtsp": 554, "rtsps": 322}


class RtspCamera(Camera):
    """`rtsp://user:password@host:554/stream?transport=tcp`: a network camera, always at its newest frame.

    FFmpeg keeps no buffer, and a thread drains the stream. `captured_at` is when the
    frame was decoded here: how long the camera, its encoder and the network took before that is
    not known, and not in the frame's age. `transport` is tcp (whole frames) or udp (no waiting for
    lost packets); all other parameters of the query are the camera's own.
    """

    live = True
    reconnects = True
    # A compressed stream repeats a still scene exactly, up to the next key frame.
    still_s = 30.0

    def __init__(self, url: str, *, transport: str = "tcp") -> None:
        if transport not in ("tcp", "udp"):
            raise UsageError(
                f"camera {mask_credentials(url, one_uri=True)}: transport is {transport!r}: it must be tcp or udp"
            )
        _require_host(url)
        self.url, self._transport = url, transport
        self._grabber: Grabber | None = None

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> RtspCamera:
        """The camera of an rtsp:// URL; it has no scaler, so the model's size is ignored."""
        return cls(f"{uri.scheme}://{uri.path}", **uri.options({"transport": str}))

    @property
    def name(self) -> str:
        """The URL without its password."""
        return mask_credentials(self.url, one_uri=True)

    def _open(self) -> None:
        limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS)
        try:
            with _ffmpeg_options(f"rtsp_transport;{self._transport}|fflags;nobuffer|flags;low_delay"):
                self._grabber = Grabber(self.url, cv2.CAP_FFMPEG, self.name, limits)
        except CameraError as error:
            raise CameraError(f"camera {self.name} {_why(self.url)}") from error
        self.size, self.fps = self._grabber.size, self._grabber.fps

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._grabber is not None
        return self._grabber.read(timeout_s)

    def _close(self) -> None:
        if self._grabber is not None:
            self._grabber.close()
        self._grabber = None


@contextmanager
def _ffmpeg_options(options: str) -> Iterator[None]:
    """OpenCV takes FFmpeg's options from the environment and from nowhere else; a user's own are left as they are."""
    if _OPTIONS in os.environ:
        yield
        return
    os.environ[_OPTIONS] = options
    try:
        yield
    finally:
        os.environ.pop(_OPTIONS, None)


def _require_host(url: str) -> None:
    """UsageError where no server is named, or none can be at that port."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise UsageError(
            f"camera {mask_credentials(url, one_uri=True)} names no server",
            hint="write rtsp://HOST/STREAM or rtsp://HOST:PORT/STREAM",
        )


def _why(url: str) -> str:
    """What is wrong with a stream that does not open, by a request to its server; the end of a sentence."""
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
        with socket.create_connection(address, timeout=3) as connection:
            plain = url.replace(f"{parts.username}:{parts.password}@", "") if parts.username else url
            connection.sendall(f"DESCRIBE {plain} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
            answer = connection.recv(64).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        return f"is not there: {getattr(error, 'strerror', None) or error}: check host, port and network"
    return _answered(answer.partition(" ")[2][:3], bool(parts.username))


def _answered(status: str, has_user: bool) -> str:
    if status == "401":
        wrong = "its server does not accept this user and password" if has_user else "its server wants a password"
        return f"does not open: {wrong}: rtsp://USER:PASSWORD@HOST/STREAM, with %40 for an @ in it"
    if status == "404":
        return "is not there: its server knows no stream of that name: look the path up in the camera's manual"
    return f"does not open: its server answers {status or 'nothing'}: check its format, which must be H.264 or MJPEG"
