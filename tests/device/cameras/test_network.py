"""MJPEG by HTTP and MPEG-TS by UDP, from real senders on this machine."""

from __future__ import annotations

import base64
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc import Camera, UsageError, open_camera
from edgeloc.device.cameras.network import HttpCamera, UdpCamera
from edgeloc.errors import CameraError, CameraTimeout
from edgeloc.testing import CameraSuite

if not any(cv2.videoio_registry.getBackendName(one) == "FFMPEG" for one in cv2.videoio_registry.getStreamBackends()):
    pytest.skip("this OpenCV has no FFmpeg", allow_module_level=True)


class Handler(BaseHTTPRequestHandler):
    """`/video` is MJPEG at 30 fps, `/guarded` the same with a password, `/once` half a second of it.

    `/late` begins after a second, `/never` sends no picture at all, and `/page` is none.
    """

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        wanted = "Basic " + base64.b64encode(b"me:p@ss").decode()
        if path == "/guarded" and self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
        elif path in ("/video", "/guarded") and "deny" not in query:
            self._stream()
        elif path == "/once":
            self._stream(15)
        elif path == "/late":
            self._stream(delay_s=1)
        elif path == "/never":
            self._stream(0)
        elif path == "/page":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html></html>")
        else:
            self.send_error(404)

    def _stream(self, frames: int | None = None, delay_s: float = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        self.wfile.flush()
        time.sleep(delay_s)
        rng = np.random.default_rng(0)
        try:
            for _ in itertools.count() if frames is None else range(frames):
                if self.server.stopped:  # type: ignore[attr-defined]
                    return
                picture = rng.integers(0, 256, (48, 64, 3), np.uint8)
                data = cv2.imencode(".jpg", picture)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(1 / 30)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    yield from serve()


def serve(context: ssl.SSLContext | None = None) -> Iterator[str]:
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.stopped = False  # type: ignore[attr-defined]
    serving.daemon_threads = True
    if context is not None:
        serving.socket = context.wrap_socket(serving.socket, server_side=True)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"127.0.0.1:{serving.server_port}"
    serving.stopped = True  # type: ignore[attr-defined]
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.fixture
def secure_server(tmp_path: Path) -> Iterator[str]:
    """The same behind TLS, with a certificate that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=camera"
    subprocess.run([*new.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    yield from serve(context)


class TestHttpCamera(CameraSuite):
    finite = False

    @pytest.fixture
    def camera(self, server: str) -> Camera:
        return HttpCamera(f"http://{server}/video")


def test_a_page_of_our_own_is_a_camera(tmp_path: Any) -> None:
    pytest.importorskip("tornado", reason="tornado is not installed (extra web)")
    from edgeloc import Result, run
    from edgeloc.sinks.web import HttpSink

    sink, sizes = HttpSink("127.0.0.1", 0), []

    def watch() -> None:
        while not sink.port:
            time.sleep(0.05)
        time.sleep(0.3)
        with open_camera(f"{sink.name}/stream") as camera:
            frame = camera.read(5)
            assert frame is not None
            sizes.append(frame.pixels.shape)

    thread = threading.Thread(target=watch)
    thread.start()
    run("synthetic://?seed=1&fps=30&size=320x240&frames=150", lambda frame: Result(), sink)
    thread.join()
    assert sizes == [(240, 320, 3)]


def test_a_password_is_used_and_not_shown(server: str) -> None:
    with open_camera(f"http://me:p%40ss@{server}/guarded") as camera:
        assert camera.read(5) is not None
        assert "p%40ss" not in camera.name and "***@" in camera.name
    with pytest.raises(CameraError, match=r"does not accept this user and password: http://USER"):
        open_camera(f"http://me:wrong@{server}/guarded")
    with pytest.raises(CameraError, match="its server wants a password"):
        open_camera(f"http://{server}/guarded")


def test_why_a_stream_does_not_open_is_said(server: str) -> None:
    with pytest.raises(CameraError, match="knows no stream of that name"):
        open_camera(f"http://{server}/nothing")
    with pytest.raises(CameraError, match=r"it sends text/html, which must be a stream such as MJPEG"):
        open_camera(f"http://{server}/page")
    with pytest.raises(CameraError, match="is not there: Connection refused"):
        open_camera("http://127.0.0.1:9/video")
    with pytest.raises(UsageError, match="names no server: write http://HOST/STREAM"):
        open_camera("http:///video")
    with pytest.raises(CameraError, match=r"does not open: it is a stream, and sent no picture that can be read in"):
        open_camera(f"http://{server}/never")


def test_options_of_the_cameras_own_go_to_it(server: str) -> None:
    with pytest.raises(CameraError, match="knows no stream"):
        open_camera(f"http://{server}/video?deny=1&rotate=90")
    # One that has the name of ours is written otherwise, and means the same to the camera.
    for query, shape in (("rotate=90", (64, 48, 3)), ("%72otate=90", (48, 64, 3))):
        with open_camera(f"http://{server}/video?{query}") as camera:
            frame = camera.read(5)
        assert frame is not None and frame.pixels.shape == shape


def test_a_stream_that_begins_late_is_reported_meanwhile(
    server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeloc.cameras.reconnect._LATE_S", 0.2)
    with open_camera(f"http://{server}/late") as camera:
        assert camera.read(5) is not None
    assert caplog.text.count("has not opened yet") == 1


def test_a_certificate_of_the_cameras_own_is_taken(secure_server: str) -> None:
    with open_camera(f"https://{secure_server}/video") as camera:
        assert camera.read(5) is not None
    with pytest.raises(CameraError, match="knows no stream of that name"):
        open_camera(f"https://{secure_server}/nothing")


def test_a_stream_that_ends_is_opened_again(server: str) -> None:
    with open_camera(f"http://{server}/once?reconnect=60") as camera:
        numbers = []
        while len(camera.gaps) < 2:
            with suppress(CameraTimeout):
                frame = camera.read(5)
                assert frame is not None
                numbers.append(frame.sequence)
    assert numbers == sorted(set(numbers))
    assert "its stream ended or its network failed" in camera.gaps[0].reason


class Sender:
    """MPEG-TS by UDP, as a drone sends it."""

    def __init__(self, port: int) -> None:
        self._port, self._stop = port, threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        import av

        with av.open(f"udp://127.0.0.1:{self._port}?pkt_size=1316", "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency"})
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 10
            rng = np.random.default_rng(0)
            while not self._stop.wait(1 / 30):
                picture = rng.integers(0, 256, (48, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def sent_to() -> Iterator[int]:
    """The port that a drone sends to."""
    pytest.importorskip("av", reason="PyAV is not installed (extra video)")
    sender = Sender(port := free_port())
    yield port
    sender.stop()


def test_a_sender_that_starts_after_us_is_waited_for() -> None:
    pytest.importorskip("av", reason="PyAV is not installed (extra video)")
    port, senders = free_port(), list[Sender]()
    later = threading.Timer(6, lambda: senders.append(Sender(port)))
    later.start()
    try:
        with open_camera(f"udp://127.0.0.1:{port}") as camera:
            assert camera.read(5) is not None
    finally:
        later.join()
        senders[0].stop()


class TestUdpCamera(CameraSuite):
    finite = False

    @pytest.fixture
    def camera(self, sent_to: int) -> Camera:
        return UdpCamera("127.0.0.1", sent_to)


def test_a_stream_that_is_sent_to_us_can_be_turned(sent_to: int) -> None:
    with open_camera(f"udp://127.0.0.1:{sent_to}?vflip=1&rotate=90") as camera:
        first, second = camera.read(5), camera.read(5)
    assert first is not None and second is not None
    assert first.pixels.shape == (64, 48, 3) and second.sequence > first.sequence


@pytest.mark.skipif(int(cv2.__version__.split(".")[0]) < 5, reason="FFmpeg in OpenCV 4 listens at every address")
def test_with_an_address_only_what_is_sent_to_it_is_heard(sent_to: int) -> None:
    with (
        open_camera(f"udp://127.0.0.1:{sent_to}"),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour,
    ):
        # The port of this machine's other addresses is not taken.
        neighbour.bind(("127.0.0.2", sent_to))


@pytest.mark.parametrize("uri", ["udp://", "udp://host", "udp://:0", "udp://a/b:5000", "udp://:99999"])
def test_what_is_no_port_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"names no port: write udp://:5000"):
        open_camera(uri)


def test_nothing_sent_is_said_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.device.cameras.network._LATEST_MS", 300)
    port = free_port()
    with pytest.raises(CameraError, match=f"sent nothing that can be read in 0.3 s: send MPEG-TS to port {port}"):
        UdpCamera("", port).open()
