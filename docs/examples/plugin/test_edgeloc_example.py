"""The plug-in keeps the contracts of its kinds: the suites come with edgeloc."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from edgeloc_example import COLUMNS, CsvSink, PatternCamera

from edgeloc import Camera, Sink, UsageError, open_camera, open_sink
from edgeloc.testing import CameraSuite, FileSinkSuite, example_frame


class TestPatternCamera(CameraSuite):
    """The suite, with this camera."""

    @pytest.fixture
    def camera(self) -> Camera:
        return PatternCamera(64, 48, frames=20)

    def test_its_options(self) -> None:
        with open_camera("pattern://?width=32&height=16&frames=3") as camera:
            assert camera.size == (32, 16)
            assert len(list(camera)) == 3
        with pytest.raises(UsageError, match="width=wide must be a whole number"):
            open_camera("pattern://?width=wide")


class TestCsvSink(FileSinkSuite):
    """The suite, with this sink."""

    suffix = ".csv"

    def make(self, path: Path) -> Sink:
        sink = open_sink(path)
        assert isinstance(sink, CsvSink)
        return sink

    def test_its_table(self, sink: Sink, path: Path) -> None:
        sink.open()
        self.write(sink, example_frame(0), example_frame(1))
        sink.close()
        names, *rows = csv.reader(path.read_text().splitlines())
        assert names == list(COLUMNS)
        assert rows == [[str(number), "12.5", "nut", "1", "2", "3.5", "4"] for number in (0, 1)]
