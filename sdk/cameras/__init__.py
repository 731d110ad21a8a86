"""Cameras by URI: finds the one that a URI names, and opens it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from edgeloc._support.backend import Uri
from edgeloc._support.lookup import Registry
from edgeloc.cameras.base import Camera, flag, parse_uri, seconds
from edgeloc.cameras.reconnect import RECONNECT_S, ReconnectingCamera
from edgeloc.data.images import IMAGE_SUFFIXES
from edgeloc.errors import CameraError, UsageError

__all__ = ["CAMERAS", "Camera", "open_camera"]

CAMERAS: Registry[type[Camera]] = Registry(
    "camera",
    "edgeloc.cameras",
    {
        "video": "edgeloc.cameras.files:VideoCamera",
        "images": "edgeloc.cameras.files:ImageCamera",
        "data": "edgeloc.cameras.files:DatasetCamera",
        "synthetic": "edgeloc.testing.cameras:SyntheticCamera",
        "fake": "edgeloc.testing.cameras:FakeCamera",
        "v4l2": "edgeloc.device.cameras.v4l2:V4l2Camera",
        "picamera": "edgeloc.device.cameras.picamera:PicameraCamera",
        "csi": "edgeloc.device.cameras.gstreamer:CsiCamera",
        "gst": "edgeloc.device.cameras.gstreamer:GstCamera",
        "rtsp": "edgeloc.device.cameras.rtsp:RtspCamera",
        "rtsps": "edgeloc.device.cameras.rtsp:RtspCamera",
    },
    failure=CameraError,
)
_WATCHED = {"reconnect": seconds, "frozen": seconds, "dark": flag}
_EXAMPLES = (
    "v4l2:///dev/video0, picamera://0, csi://0, rtsp://HOST/STREAM, gst://PIPELINE, synthetic://?seed=1,"
    " fake://?disconnect=60:2, data://PATH?split=val, a video file, a folder of images"
)


def open_camera(uri: str | os.PathLike[str], *, size: tuple[int, int] | None = None) -> Camera:
    """Open the camera that `uri` names; the caller closes it, best with a `with`.

    Parameters:
        uri: a URI with a scheme (`v4l2:///dev/video0?size=640x480&fps=30&format=MJPG`, `picamera://0`,
            `synthetic://?seed=1&fps=30&frames=300&live=0`, `data://PATH?split=val&frames=300`), or the path of a video,
            an image or a folder of images.
        size: the (width, height) in pixels that the model takes: a camera that scales by itself delivers no more than
            it needs to cover it, others ignore it. A size in the URI takes precedence.

    A device or stream that goes away once it has given a frame is opened again for up to 30 s, or as many as
    `reconnect=SECONDS` in its URI (0: not at all). So is one that gives exactly the same picture for longer than
    `frozen=SECONDS` (0: never). Black pictures are left out, unless `dark=1`.

    Raises UsageError for an unknown scheme, an unknown option or a path that is not there,
    DataError for a file that cannot be read, CameraError for a device that fails.
    """
    parts = parse_uri(os.fspath(uri))
    kind = CAMERAS.find(_scheme(parts), parts.text, _EXAMPLES)
    if not kind.reconnects:
        camera = kind.from_uri(parts, size)
    else:
        options = _watched(parts)
        limit_s = options.pop("reconnect", RECONNECT_S)
        camera = kind.from_uri(parts.without(*_WATCHED), size)
        camera = ReconnectingCamera(camera, limit_s, **options) if limit_s else camera
    camera.open()
    return camera


def _watched(uri: Uri) -> dict[str, Any]:
    """The options of every device and stream, which `ReconnectingCamera` takes."""
    own = tuple(pair for pair in uri.query if pair[0] in _WATCHED)
    options = replace(uri, query=own).options(_WATCHED)
    return {"frozen_s" if name == "frozen" else name: value for name, value in options.items()}


def _scheme(uri: Uri) -> str:
    """The entry of CAMERAS that a URI or a path stands for."""
    if uri.scheme not in ("", "file"):
        return uri.scheme
    if uri.path.startswith("/dev/video"):
        return "v4l2"
    if not os.path.exists(uri.path):
        raise UsageError(f"camera {uri.text} is not there", hint=f"give one of {_EXAMPLES}")
    if os.path.isdir(uri.path) or uri.path.lower().endswith(IMAGE_SUFFIXES):
        return "images"
    return "video"
