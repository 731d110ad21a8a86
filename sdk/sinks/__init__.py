"""Sinks by URI: finds the one that a URI or a file's suffix names; each sink lives in a module of its own."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from urllib.parse import unquote

from edgeloc.errors import UsageError
from edgeloc.sinks.base import Sink

__all__ = ["SINKS", "Sink", "open_sink"]

SINKS = {
    "window": "edgeloc.sinks.window:WindowSink",
    ".mp4": "edgeloc.sinks.video:VideoSink",
    ".jsonl": "edgeloc.sinks.jsonl:JsonLinesSink",
}
_EXAMPLES = "window, a path ending in .mp4, a path ending in .jsonl"


def open_sink(uri: str | os.PathLike[str]) -> Sink:
    """The sink that `uri` names, not opened yet: `run` opens it, and closes it.

    `window`, or the path of a file whose suffix tells its kind. UsageError names the known ones.
    """
    text = os.fspath(uri)
    key, argument = _split(text)
    if key not in SINKS:
        raise UsageError(f"sink {text or '(empty)'} is of no known kind; known are: {_EXAMPLES}")
    module, _, name = SINKS[key].partition(":")
    sink: Sink = getattr(importlib.import_module(module), name)(argument)
    return sink


def _split(text: str) -> tuple[str, str]:
    """A URI's entry in SINKS, and what to hand to the sink."""
    scheme, colon, rest = text.partition("://")
    if colon and scheme != "file":
        return scheme, text
    path = unquote(rest) if colon else text
    return ("window", path) if path == "window" else (Path(path).suffix.lower(), path)
