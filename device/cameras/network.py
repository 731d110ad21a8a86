"""Streams of the network (RTSP, MJPEG by HTTP, MPEG-TS by UDP) through OpenCV's FFmpeg; why one does not open."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import SplitResult, unquote, urlsplit

import cv2

from edgeloc._support.backend import Uri
from edgeloc.cameras.base import Camera
from edgeloc.device.cameras.grab import Grabber
from edgeloc.errors import CameraError, UsageError, mask_credentials
from edgeloc.types import Frame

__all__ = ["HttpCamera", "RtspCamera", "UdpCamera"]

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# A stream may begin late, and its first picture too: a drone that is not sending yet, a key frame every ten seconds.
_LATEST_MS = 15000
_PORTS = {"rtsp": 554, "rtsps": 322}


class _StreamCamera(Camera):
    """A stream that FFmpeg opens, always at its newest frame: no buffer, and a thread that drains it.

    `captured_at` is when the frame was decoded here: how long the camera, its encoder and the network took before that
    is not known, and not in the frame's age.
    """

    live = True
    reconnects = True
    # A compressed stream repeats a still scene exactly, up to the next key frame.
    still_s = 30.0

    def __init__(self, url: str, options: str) -> None:
        self.url, self._options = url, options
        self._grabber: Grabber | None = None

    @property
    def name(self) -> str:
        """The URL without its password."""
        return mask_credentials(self.url, one_uri=True)

    def _open(self) -> None:
        limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _LATEST_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _LATEST_MS)
        try:
            with _ffmpeg_options(f"{self._options}fflags;nobuffer|flags;low_delay"):
                self._grabber = Grabber(self.url, cv2.CAP_FFMPEG, self.name, limits)
        except CameraError as error:
            raise CameraError(f"camera {self.name} {self._why()}") from error
        self.size, self.fps = self._grabber.size, self._grabber.fps

    @abstractmethod
    def _why(self) -> str:
        """What is wrong with a stream that does not open; the end of a sentence."""

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._grabber is not None
        return self._grabber.read(timeout_s)

    def _close(self) -> None:
        if self._grabber is not None:
            self._grabber.close()
        self._grabber = None


class RtspCamera(_StreamCamera):
    """`rtsp://user:password@host:554/stream?transport=tcp`: a network camera.

    `transport` is tcp (whole frames) or udp (no waiting for lost packets); all other parameters of the query are the
    camera's own.
    """

    def __init__(self, url: str, *, transport: str = "tcp") -> None:
        if transport not in ("tcp", "udp"):
            raise UsageError(
                f"camera {mask_credentials(url, one_uri=True)}: transport is {transport!r}: it must be tcp or udp"
            )
        _require_host(url)
        super().__init__(url, f"rtsp_transport;{transport}|")

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> RtspCamera:
        """The camera of an rtsp:// URL; it has no scaler, so the model's size is ignored."""
        return cls(f"{uri.scheme}://{uri.path}", **uri.options({"transport": str}))

    def _why(self) -> str:
        return _why(self.url)


class HttpCamera(_StreamCamera):
    """`http://user:password@host/video.mjpg`: MJPEG as most network cameras, phones and edgeloc's own page send it.

    All parameters of the query are the camera's own but for those of every live camera. Cameras sign their certificates
    themselves, so https:// keeps others from listening, and does not tell who answers.
    """

    def __init__(self, url: str) -> None:
        _require_host(url)
        super().__init__(url, "")

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> HttpCamera:
        """The camera of an http:// or https:// URL."""
        uri.options({})
        return cls(f"{uri.scheme}://{uri.path}")

    def _why(self) -> str:
        parts, headers = urlsplit(self.url), {}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        connection = _connection(parts)
        try:
            connection.request("GET", f"{parts.path or '/'}?{parts.query}".rstrip("?"), headers=headers)
            answer = connection.getresponse()
        except OSError as error:
            return f"is not there: {error.strerror or error}: check host, port and network"
        except (http.client.HTTPException, ValueError):
            # What they quote may be a password.
            return "does not open: what answers is no HTTP server, or its address holds what no address can"
        finally:
            connection.close()
        if answer.status == 200:
            kind = answer.headers.get("Content-Type", "nothing that is known")
            if kind.startswith(("multipart/", "video/", "image/")):
                return f"does not open: it is a stream, and sent no picture that can be read in {_LATEST_MS / 1000:g} s"
            return f"does not open: it sends {kind}, which must be a stream such as MJPEG"
        return _answered(str(answer.status), parts.username is not None).replace("rtsp://", f"{parts.scheme}://")


class UdpCamera(_StreamCamera):
    """`udp://:5000`: MPEG-TS that a drone or an encoder sends to this port; `udp://239.0.0.1:5000` for multicast."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        # What the reader does not take in time is lost, and not an error.
        shown = f"[{host}]" if ":" in host else host
        super().__init__(f"udp://{shown}:{port}", "overrun_nonfatal;1|fifo_size;50000|")

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> UdpCamera:
        """The port to listen at, and the address where it is a multicast one."""
        uri.options({})
        place = uri.host_and_port()
        if place is None:
            raise UsageError(f"camera {uri.text} names no port", hint="write udp://:5000 or udp://239.0.0.1:5000")
        return cls(*place)

    def _why(self) -> str:
        within = f"{_LATEST_MS / 1000:g} s"
        return f"sent nothing that can be read in {within}: send MPEG-TS to port {self._port} of this machine"


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


def _connection(parts: SplitResult) -> http.client.HTTPConnection:
    """To the server of an http:// or https:// URL; of a certificate it takes what FFmpeg does: any."""
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=3)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, parts.port, timeout=3, context=trusting)


def _require_host(url: str) -> None:
    """UsageError where no server is named, or none can be at that port."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    scheme = url.partition("://")[0]
    if not named:
        raise UsageError(
            f"camera {mask_credentials(url, one_uri=True)} names no server",
            hint=f"write {scheme}://HOST/STREAM or {scheme}://HOST:PORT/STREAM",
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
