"""Cameras by URI: finds the one that a URI names, and opens it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edgeloc._support.backend import Uri
from edgeloc._support.lookup import Registry
from edgeloc.cameras.base import Camera, flag, parse_uri, seconds
from edgeloc.cameras.reconnect import RECONNECT_S, ReconnectingCamera
from edgeloc.cameras.view import VIEW_OPTIONS, View
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
        "rtsp": "edgeloc.device.cameras.network:RtspCamera",
        "rtsps": "edgeloc.device.cameras.network:RtspCamera",
        "http": "edgeloc.device.cameras.network:HttpCamera",
        "https": "edgeloc.device.cameras.network:HttpCamera",
        "udp": "edgeloc.device.cameras.network:UdpCamera",
    },
    failure=CameraError,
)
_OF_IMAGES = ("images", "data")
_WATCHED = {"reconnect": seconds, "frozen": seconds, "dark": flag}
_EXAMPLES = (
    "v4l2:///dev/video0, picamera://0, csi://0, rtsp://HOST/STREAM, http://HOST/STREAM, udp://:5000, gst://PIPELINE,"
    " synthetic://?seed=1, fake://?disconnect=60:2, data://PATH?split=val, a video file, a folder of images"
)


def open_camera(uri: str | os.PathLike[str], *, size: tuple[int, int] | None = None, skip_bad: bool = False) -> Camera:
    """Open the camera that `uri` names; the caller closes it, best with a `with`.

    Parameters:
        uri: a URI with a scheme (`v4l2:///dev/video0?size=640x480&fps=30&format=MJPG`, `picamera://0`,
            `synthetic://?seed=1&fps=30&frames=300&live=0`, `data://PATH?split=val&frames=300`), or the path of a video,
            an image or a folder of images.
        size: the (width, height) in pixels that the model takes: a camera that scales by itself delivers no more than
            it needs to cover it, others ignore it. A size in the URI takes precedence.
        skip_bad: of a folder or a data set: leave damaged images and bad rows out, and count them in `findings`.

    A device or stream that goes away once it has given a frame is opened again for up to 30 s, or as many as
    `reconnect=SECONDS` in its URI (0: not at all). So is one that gives exactly the same picture for longer than
    `frozen=SECONDS` (0: never). Black pictures are left out, unless `dark=1`. `region=X,Y,WIDTH,HEIGHT`, `hflip=1`,
    `vflip=1` and `rotate=90` take a part of the picture and turn it, in this order.

    Raises UsageError for an unknown scheme, an unknown option or a path that is not there,
    DataError for a file that cannot be read, CameraError for a device that fails.
    """
    if not isinstance(uri, (str, os.PathLike)):
        raise UsageError(field="uri", value=uri, allowed="a path or a URI, such as v4l2:///dev/video0")
    parts = parse_uri(os.fspath(uri))
    scheme = _scheme(parts)
    kind = CAMERAS.find(scheme, parts.text, _EXAMPLES)
    if skip_bad and scheme not in _OF_IMAGES:
        raise UsageError(f"camera {parts.text} has no image that can be skipped: only a folder and a data set have")
    if skip_bad:
        parts = replace(parts, query=(*parts.without("skip_bad").query, ("skip_bad", "1")))
    if not kind.reconnects:
        camera = kind.from_uri(parts, size)
    else:
        options, view = _own(parts, _WATCHED), View(**_own(parts, VIEW_OPTIONS))
        camera = ReconnectingCamera(
            kind.from_uri(parts.without(*_WATCHED, *VIEW_OPTIONS), view.wanted(size)),
            options.get("reconnect", RECONNECT_S),
            frozen_s=options.get("frozen"),
            dark=options.get("dark", False),
            view=view,
        )
    camera.open()
    return camera


def _own(uri: Uri, parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The options that every device and stream has."""
    return replace(uri, query=tuple(pair for pair in uri.query if pair[0] in parsers)).options(parsers)


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
