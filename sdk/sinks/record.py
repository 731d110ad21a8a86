"""An observation as JSON: the one form in which every sink writes or sends it."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from typing import Any

from edgeloc.observation import Bearing, Observation, Track
from edgeloc.types import Box, Detection

__all__ = ["as_line", "as_record", "unix_time"]


def as_line(observation: Observation) -> bytes:
    """An observation as one line of JSON in UTF-8, with its end of line; see `as_record`."""
    return (json.dumps(as_record(observation)) + "\n").encode()


def as_record(observation: Observation) -> dict[str, Any]:
    """An observation as JSON values: boxes as [x1, y1, x2, y2] in pixels of the frame, `objects` best first.

    `file` is there for an image of a folder or a data set, `gap_s` after a gap only, `findings` after a fault, `track`
    and `tracks` with tracking, `bearing` and `distance_m` with the camera's geometry, `truth` where it is known.
    """
    frame, result = observation.frame, observation.result
    best = result.objects[0] if result.objects else None
    record: dict[str, Any] = {
        "sequence": frame.sequence,
        "time": _iso(unix_time(frame.captured_at)),
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
    if frame.file is not None:
        record["file"] = frame.file
    if observation.gap_s:
        record["gap_s"] = round(observation.gap_s, 3)
    if observation.findings:
        record["findings"] = [finding.to_dict() for finding in observation.findings]
    if observation.track is not None:
        record["track"] = _track(observation.track)
        record["tracks"] = [_track(track) for track in observation.tracks]
    if observation.bearing is not None:
        record["bearing"] = _bearing(observation.bearing)
        record["distance_m"] = None if observation.distance_m is None else round(observation.distance_m, 3)
    if frame.truth is not None:
        record["truth"] = [{"box": _corners(box), "label": label} for box, label in frame.truth]
    return record


def unix_time(captured_at: float) -> float:
    """A time of `time.monotonic()` as seconds since 1970, by the wall clock as it is now."""
    return time.time() - (time.monotonic() - captured_at)


def _iso(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


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
        "label": track.label,
        "score": _rounded(track.score),
        "box": _corners(track.box),
        "at": round(track.at, 6),
        "velocity": [round(value, 2) for value in track.velocity],
        "unseen_s": round(track.unseen_s, 3),
    }


def _bearing(bearing: Bearing) -> dict[str, Any]:
    return {
        "angle_x": round(bearing.angle_x, 6),
        "angle_y": round(bearing.angle_y, 6),
        "azimuth": round(bearing.azimuth, 6),
        "elevation": round(bearing.elevation, 6),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)


def _corners(box: Box | None) -> list[float] | None:
    return None if box is None else [round(float(value), 2) for value in box]
