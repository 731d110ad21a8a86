"""A password in a URI or a pipeline is shown nowhere: not in messages, logs, tracebacks, results or a printed unit."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from edgeloc import cli, open_camera, open_sink
from edgeloc._support.backend import Uri
from edgeloc.cameras import CAMERAS
from edgeloc.cameras.base import Camera
from edgeloc.device.cameras.gstreamer import GstCamera
from edgeloc.errors import CameraError, EdgelocError, mask_credentials
from edgeloc.findings import Finding
from edgeloc.models import SHIPPED_INT8
from edgeloc.testing.cameras import FakeCamera

SECRET = "S3cr3t"
URIS = [
    f"rtsp://user:{SECRET}@host/stream",
    f"rtsp://user:a@{SECRET}@host/stream",
    f"rtsp://user:a {SECRET}@host",
    f"rtsp://user:{SECRET}/b@host/stream",
    f"rtsp://user:{SECRET}?b@host/stream",
    f"mqtt://user:{SECRET}@host:1883/boxes",
    f"http://user:{SECRET}@host/video",
    f"http://{SECRET}@host/video",
    f"other+tls://:{SECRET}@[::1]:9/x",
    f"http://[{SECRET}@host/video",
    f"http://host/video?password={SECRET}&channel=1",
    f"http://host/video?channel=1&access_token=a {SECRET}",
    f"srt://host:9000?passphrase={SECRET}",
    f"fake://?frames=1&password={SECRET}",
]
PIPELINES = [
    f"rtspsrc location=rtsp://user:{SECRET}@host/stream ! decodebin",
    f"rtspsrc location=rtsp://host/stream user-id=me user-pw={SECRET} ! decodebin",
    f'rtspsrc location="rtsp://user:a {SECRET}@host/x" user-pw="a {SECRET}" ! decodebin',
    f'souphttpsrc extra-headers="headers,Authorization=(string)\\"Basic {SECRET}\\"" proxy-pw={SECRET} ! jpegdec',
]


@pytest.mark.parametrize("text", URIS)
def test_a_uri_is_shown_without_its_password(text: str) -> None:
    shown = mask_credentials(text, one_uri=True)
    assert SECRET not in shown and "***" in shown
    assert mask_credentials(shown, one_uri=True) == shown


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_is_shown_without_its_passwords(pipeline: str) -> None:
    name = GstCamera(pipeline).name
    assert SECRET not in name and "***" in name
    assert SECRET not in Uri(f"gst://{pipeline}", "gst", pipeline).text


@pytest.mark.parametrize(
    "text", ["v4l2:///dev/video0?size=640x480", "data:///a/b@c?split=val", "monkey=3 tokenizer=5 bypass=3", "a@b: c"]
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert mask_credentials(text) == mask_credentials(text, one_uri=True) == text


@pytest.mark.parametrize(
    "text", ["@" + "://a:" * 100_000, "://" * 100_000 + "@", "token=" * 100_000, '"a://' * 99_999 + "@"]
)
def test_a_long_text_is_masked_in_no_time(text: str) -> None:
    began_at = time.monotonic()
    mask_credentials(text)
    mask_credentials(text, one_uri=True)
    assert time.monotonic() - began_at < 1


def test_errors_and_findings_hold_no_password() -> None:
    error = EdgelocError(f"no stream at rtsp://u:{SECRET}@h", hint=f"try http://u:{SECRET}@h")
    by_field = EdgelocError(field="camera", value=f"rtsp://u:{SECRET}@h", allowed="a file")
    finding = Finding("camera-away", "warning", f"rtsp://u:{SECRET}@h was away", fix=f"try rtsp://u:{SECRET}@h")
    assert SECRET not in f"{error} {error.args} {vars(error)} {by_field} {vars(by_field)} {finding} {finding.to_dict()}"


@pytest.mark.parametrize("uri", [*URIS[6:], *(f"gst://{pipeline}" for pipeline in PIPELINES)])
def test_a_camera_or_sink_that_does_not_open_names_no_password(
    uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(SHIPPED_INT8)
    assert cli.main(["-v", "run", model, "--camera", uri, "--sink", "out.jsonl"]) in (2, 3)
    assert cli.main(["-v", "run", model, "--camera", "fake://?frames=1", "--sink", uri]) in (2, 3)
    assert cli.main(["-v", "install-service", model, "--camera", "fake://", "--sink", uri, "--print"]) in (2, 3)
    assert " " in uri or cli.main(["-v", "run", model, "--camera", "fake://", "--source", uri]) == 2
    for open_one in (open_camera, open_sink):
        with pytest.raises(EdgelocError) as caught:
            open_one(uri)
        print(caught.value)
    out, err = capfd.readouterr()
    assert SECRET not in out + err
    assert not any(SECRET in path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


class Secretive(FakeCamera):
    """A network camera whose own messages name its address."""

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> Camera:
        camera = cls(size=(64, 48), fps=100, frames=200, disconnect={10: 0.1})
        camera.address = f"{uri.scheme}://{uri.path}"
        return camera

    @property
    def name(self) -> str:
        return self.address

    address = ""

    def _open(self) -> None:
        try:
            super()._open()
        except CameraError as error:
            raise CameraError(f"connecting to {self.address} failed") from error


def test_a_whole_run_and_its_files_name_no_password(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(CAMERAS.own, "secretive", f"{__name__}:Secretive")
    uri, sink = f"secretive://me:a@{SECRET}@host/stream", str(tmp_path / "out.jsonl")
    with caplog.at_level(logging.DEBUG):
        assert cli.main(["-v", "run", str(SHIPPED_INT8), "--camera", uri, "--sink", sink, "--json"]) == 0
        unit = ["install-service", str(SHIPPED_INT8), "--camera", f"rtsp://me:{SECRET}@host/stream", "--print"]
        assert cli.main(unit) == 2
        bench = ["bench", str(SHIPPED_INT8), "--camera", uri, "--frames", "3", "--warmup", "1", "--power", "none"]
    assert cli.main([*bench, "--out", str(tmp_path / "result.json")]) == 0
    out, err = capfd.readouterr()
    assert "camera-gaps" in out and "rtsp://me:***@host/stream" in err and "@FILE" in err
    assert SECRET not in out + err + caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 1
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
