"""What a line of JSON holds, and how a .jsonl goes on in other files."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edgeloc.errors import OutputError, UsageError
from edgeloc.findings import Finding
from edgeloc.observation import Bearing, Track
from edgeloc.sinks import Sink, open_sink
from edgeloc.sinks.jsonl import JsonLinesSink
from edgeloc.sinks.record import as_record, unix_time
from edgeloc.testing import example_frame, example_observation
from edgeloc.types import Box, LabelledBox


def write(sink: Sink, *numbers: int) -> None:
    for number in numbers:
        sink.write(example_observation(example_frame(number), Box(1, 2, 3, 4)), lambda: pytest.fail("drawn"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def everything() -> dict[str, Any]:
    """The record of an observation that has all there can be."""
    frame = example_frame(truth=(LabelledBox(Box(1, 2, 3, 4), "bolt"),), file="0041.jpg")
    track = Track("predicted", frame.captured_at, Box(1, 2, 3, 4), id=1)
    return as_record(
        dataclasses.replace(
            example_observation(frame, Box(1, 2, 3, 4)),
            gap_s=1.0,
            track=track,
            findings=(Finding("camera-gap", "warning", "away"),),
            bearing=Bearing(0.0, 0.0, (1.0, 0.0, 0.0)),
            distance_m=2.0,
        )
    )


def test_the_guide_shows_every_field_of_a_line(repository: Path) -> None:
    guide = (repository / "docs" / "guide" / "results.md").read_text(encoding="utf-8")
    shown, record = json.loads(guide.partition("```json\n")[2].partition("```")[0]), everything()
    assert list(shown) == list(record)
    explained = [
        name for row in re.findall(r"^\| (`.*?) \|", guide, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert explained == list(record)
    for part in ("objects", "findings", "track", "bearing", "truth"):
        inner, own = shown[part], record[part]
        assert list(inner[0] if isinstance(inner, list) else inner) == list(own[0] if isinstance(own, list) else own)


def test_the_time_is_that_of_the_capture_by_the_wall_clock() -> None:
    frame = dataclasses.replace(example_frame(), captured_at=time.monotonic() - 100)
    text = as_record(example_observation(frame))["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    shown = datetime.fromisoformat(text.replace("Z", "+00:00"))
    assert shown.tzinfo == timezone.utc
    assert time.time() - shown.timestamp() == pytest.approx(100, abs=5)
    assert unix_time(frame.captured_at) == pytest.approx(shown.timestamp(), abs=1)


def test_the_file_of_an_image_is_in_its_line(tmp_path: Path) -> None:
    record = as_record(example_observation(dataclasses.replace(example_frame(), file="0041.jpg")))
    assert record["file"] == "0041.jpg"
    assert "file" not in as_record(example_observation(example_frame()))


def test_a_file_of_its_size_goes_on_in_another_with_the_time_in_its_name(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "out-{time}.jsonl", most_bytes=2000)
    sink.open()
    write(sink, *range(20))
    sink.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) > 3
    assert all(re.fullmatch(r"out-\d{8}T\d{6}(-\d+)?\.jsonl", path.name) for path in files)
    assert all(path.stat().st_size <= 2000 for path in files)
    assert [line["sequence"] for path in files for line in lines(path)] == list(range(20))


def test_a_line_longer_than_a_file_has_one_of_its_own(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "out-{time}.jsonl", most_bytes=10)
    sink.open()
    write(sink, 0, 1, 2)
    sink.close()
    assert sorted(len(lines(path)) for path in tmp_path.iterdir()) == [1, 1, 1]


def test_an_hour_ends_a_file_by_the_clock_that_never_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = open_sink(f"{tmp_path}/out.jsonl?rotate=1h")
    sink.open()
    now = time.monotonic()
    for hours, number in ((0, 0), (0.9, 1), (1.1, 2), (2, 3), (2.2, 4)):
        monkeypatch.setattr("edgeloc.sinks.jsonl.time.monotonic", lambda at=now + hours * 3600: at)
        write(sink, number)
    sink.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [[line["sequence"] for line in lines(path)] for path in files] == [[0, 1], [2, 3], [4]]
    assert all(path.name.startswith("out-2") for path in files)


def test_rotation_writes_over_nothing_and_two_runs_keep_apart(tmp_path: Path) -> None:
    for _ in range(2):
        sink = open_sink(f"file://{tmp_path}/out.jsonl?rotate=1MB", overwrite=True)
        sink.open()
        write(sink, 0)
        sink.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_next_file_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "card"
    sink = JsonLinesSink(folder / "out-{time}.jsonl", most_bytes=10)
    sink.open()
    write(sink, 0)
    folder.rename(tmp_path / "away")
    folder.write_text("no folder")
    for _ in range(2):
        with pytest.raises(OutputError, match="out"):
            write(sink, 1)
    folder.unlink()
    write(sink, 2)
    sink.close()
    (path,) = folder.iterdir()
    assert [line["sequence"] for line in lines(path)] == [2]


@pytest.mark.parametrize("value", ["", "0MB", "1.5h", "100", "1d", "-1h", "1mb", "9999999MB"])
def test_a_rotation_that_means_nothing_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match=r"rotate=.* must be a size such as 100MB, or hours such as 1h"):
        open_sink(f"{tmp_path}/out.jsonl?rotate={value}")


def test_options_of_a_path_are_checked_and_a_question_mark_may_be_part_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no option 'rotat'; known are: rotate"):
        open_sink(f"{tmp_path}/out.jsonl?rotat=1h")
    with pytest.raises(UsageError, match="no option 'rotate'"):
        open_sink(f"{tmp_path}/out.avi?rotate=1h")
    sink = open_sink(f"{tmp_path}/what?.jsonl")
    sink.open()
    write(sink, 0)
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["what?.jsonl"]
