"""Sinks by URI: finds the one that a URI or a file's suffix names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from edgeloc._support.backend import Uri, split_uri
from edgeloc._support.lookup import Registry
from edgeloc.errors import OutputError, UsageError
from edgeloc.observation import Observation
from edgeloc.sinks.base import CallbackSink, FileSink, Sink

__all__ = ["SINKS", "FileSink", "Sink", "as_sink", "open_sink"]

# By scheme, or by the suffix of a file's name.
SINKS: Registry[type[Sink]] = Registry(
    "sink",
    "edgeloc.sinks",
    {
        "window": "edgeloc.sinks.window:WindowSink",
        "-": "edgeloc.sinks.lines:StdoutSink",
        "http": "edgeloc.sinks.web:HttpSink",
        "udp": "edgeloc.sinks.lines:UdpSink",
        "tcp": "edgeloc.sinks.lines:TcpSink",
        "unix": "edgeloc.sinks.unix:UnixSink",
        "shm": "edgeloc.sinks.shm:ShmSink",
        ".mp4": "edgeloc.sinks.video:Mp4Sink",
        ".avi": "edgeloc.sinks.video:AviSink",
        ".jsonl": "edgeloc.sinks.jsonl:JsonLinesSink",
        ".mcap": "edgeloc.sinks.mcap:McapSink",
        "ros2": "edgeloc.sinks.ros2:Ros2Sink",
        "mqtt": "edgeloc.sinks.mqtt.sink:MqttSink",
        "mqtts": "edgeloc.sinks.mqtt.sink:MqttSink",
        "mavlink": "edgeloc.sinks.mavlink:MavlinkSink",
    },
    failure=OutputError,
)
_WORDS = ("window", "-")
_EXAMPLES = (
    "window, - (standard output), http://127.0.0.1:8080, mqtt://HOST, mavlink://HOST:PORT, udp://HOST:PORT,"
    " tcp://HOST:PORT, unix:///run/edgeloc.sock, shm://NAME, ros2://, a path ending in .mp4, .avi, .jsonl or .mcap"
)


def open_sink(uri: str | os.PathLike[str], *, overwrite: bool = False) -> Sink:
    """The sink that `uri` names, not opened yet: `run` opens it, and closes it.

    `window`, the path of a file whose suffix names its kind, or a URI of another package's sink. Raises UsageError
    with the known ones for anything else, OutputError where the sink does not load.

    `overwrite` is whether a file of that name may be emptied; without it, opening the sink refuses one.
    """
    text = os.fspath(uri)
    name, parts = _split(text)
    if not name:
        raise UsageError(f"sink {text or '(empty)'} is of no known kind; known are: {_EXAMPLES}")
    if "\0" in parts.path:
        raise UsageError(f"sink {text!r} holds a NUL, which no file's name can hold")
    sink = SINKS.find(name, parts.text, _EXAMPLES).from_uri(parts)
    if isinstance(sink, FileSink):
        sink.overwrite = overwrite
    return sink


def as_sink(sink: Sink | str | Callable[[Observation], object], *, overwrite: bool = False) -> Sink:
    """A sink as it is, that of a URI, or one that calls a function with each observation."""
    if isinstance(sink, Sink):
        return sink
    if isinstance(sink, (str, os.PathLike)):
        return open_sink(sink, overwrite=overwrite)
    if not callable(sink):
        raise UsageError(f"the sink is {sink!r}", hint="give a URI, a Sink, or a function that takes an observation")
    return CallbackSink(sink)


def _split(text: str) -> tuple[str, Uri]:
    """The name of the sink that a URI or a path means, "" for none, and the URI taken apart."""
    scheme, colon, rest = text.partition("://")
    if colon and scheme != "file":
        parts = split_uri(text, "sink")
        return parts.scheme, parts
    if not colon and text in _WORDS:
        return text, Uri(text, "", "", kind="sink")
    # A question mark may also be a part of a file's name.
    named = re.fullmatch(r"(.*\.\w+)\?(\w+=.*)", rest if colon else text)
    path, query = named.groups() if named else (rest if colon else text, "")
    path = unquote(path) if colon else path
    return Path(path).suffix.lower(), Uri(text, "", path, tuple(parse_qsl(query, keep_blank_values=True)), "sink")
