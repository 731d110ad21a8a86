"""Writes each result as one line of JSON; reading them back is left to whoever wants them."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import FileIO
from typing import Any

from edgeloc.errors import OutputError
from edgeloc.sinks.base import FileSink
from edgeloc.types import Box, Frame, Pixels, Result

__all__ = ["JsonLinesSink", "as_record"]


class JsonLinesSink(FileSink):
    """One line a result, flushed as it comes; the lines of a run that ends early are kept."""

    _file: FileIO | None = None
    _whole = 0

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Make the file."""
        self._file = FileIO(self._begin(), "w")
        self._whole = 0

    def write(self, frame: Frame, drawn: Callable[[], Pixels], result: Result) -> None:
        """Append one line; OutputError when the disk is full, with the whole lines kept."""
        assert self._file is not None
        line = (json.dumps(as_record(frame, result)) + "\n").encode()
        try:
            # Unbuffered: each line is out at once, and a full disk leaves nothing to be written again by close.
            complete = self._file.write(line) == len(line)
            reason = "the disk is full"
        except OSError as error:
            complete, reason = False, error.strerror or str(error)
        if not complete:
            self._file.truncate(self._whole)
            raise OutputError(f"{self.path} cannot be written on: {reason}; the lines before are kept")
        self._whole += len(line)

    def close(self) -> None:
        """Give the file its name."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self._keep()


def as_record(frame: Frame, result: Result) -> dict[str, Any]:
    """A result as JSON values: boxes as [x1, y1, x2, y2] in pixels of the frame; gap and truth where there are."""
    scored = result.label is not None and result.class_scores.size > 0
    record: dict[str, Any] = {
        "sequence": result.sequence,
        "captured_at": round(result.captured_at, 6),
        "age_ms": round(result.age_ms, 3),
        "stale": result.stale,
        "dropped": result.dropped,
        "engine": result.engine,
        "presence": round(float(result.presence), 5),
        "present": result.present,
        "box": _corners(result.box),
        "label": result.label,
        "score": round(float(result.class_scores.max()), 5) if scored else None,
    }
    if result.others:
        record["others"] = [
            {"presence": round(float(one.presence), 5), "box": _corners(one.box), "label": one.label}
            for one in result.others
        ]
    if result.gap_s:
        record["gap_s"] = round(result.gap_s, 3)
    if frame.has_truth:
        record["truth"] = {"box": _corners(frame.truth), "label": frame.truth_label}
    return record


def _corners(box: Box | None) -> list[float] | None:
    return None if box is None else [round(float(value), 2) for value in box]
