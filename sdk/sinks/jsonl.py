"""Writes each observation as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgeloc.errors import OutputError
from edgeloc.sinks.base import FileSink
from edgeloc.types import Box, Detection, Observation, Pixels, Track

__all__ = ["JsonLinesSink", "as_record"]


class JsonLinesSink(FileSink):
    """One line for each observation, written as it comes: a reader of the file never sees half of one."""

    _whole = 0

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file; UsageError where there is one already, OutputError when it cannot be written."""
        self._begin()
        self._whole = 0

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append one line; OutputError when the disk is full, with the lines before kept whole."""
        assert self._file is not None
        line = (json.dumps(as_record(observation)) + "\n").encode()
        try:
            # Unbuffered: each line is out at once, and a full disk leaves nothing to be written again by close.
            written = self._file.write(line)
            # A pipe may take a line in parts.
            while 0 < written < len(line) and self._streams:
                written += self._file.write(line[written:])
            complete, reason = written == len(line), "the disk is full"
        except OSError as error:
            complete, reason = False, error.strerror or str(error)
        if not complete:
            with suppress(OSError):  # a pipe cannot be cut
                self._file.truncate(self._whole)
                self._file.seek(self._whole)
            raise OutputError(f"{self.path} cannot be written to: {reason}")
        self._whole += len(line)

    def close(self) -> None:
        """Close the file."""
        self._end()


def as_record(observation: Observation) -> dict[str, Any]:
    """An observation as JSON values: boxes as [x1, y1, x2, y2] in pixels of the frame, `objects` best first.

    `gap_s` is there after a gap only, `track` with tracking, `truth` where it is known.
    """
    frame, result = observation.frame, observation.result
    best = result.objects[0] if result.objects else None
    record: dict[str, Any] = {
        "sequence": frame.sequence,
        "captured_at": round(frame.captured_at, 6),
        "age_ms": round(observation.age_ms, 3),
        "stale": observation.stale,
        "dropped": observation.dropped,
        "engine": observation.engine,
        "presence": _rounded(result.presence),
        "present": result.present,
        "box": _corners(result.box),
        "label": result.label,
        "label_score": _rounded(best.label_score) if best else None,
        "objects": [_object(found) for found in result.objects],
    }
    if observation.gap_s:
        record["gap_s"] = round(observation.gap_s, 3)
    if observation.track is not None:
        record["track"] = _track(observation.track)
    if frame.has_truth:
        record["truth"] = {"box": _corners(frame.truth), "label": frame.truth_label}
    return record


def _object(found: Detection) -> dict[str, Any]:
    return {
        "box": _corners(found.box),
        "score": _rounded(found.score),
        "label": found.label,
        "label_score": _rounded(found.label_score),
    }


def _track(track: Track) -> dict[str, Any]:
    return {
        "id": track.id,
        "state": track.state,
        "box": _corners(track.box),
        "at": round(track.at, 6),
        "velocity": [round(value, 2) for value in track.velocity],
        "unseen_s": round(track.unseen_s, 3),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)


def _corners(box: Box | None) -> list[float] | None:
    return None if box is None else [round(float(value), 2) for value in box]
