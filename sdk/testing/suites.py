"""Contract suites: the tests that every camera, engine, sink and power meter must pass, to be inherited by your own.

class TestMyCamera(CameraSuite):
    @pytest.fixture
    def camera(self):
        return MyCamera("/dev/my-camera")
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.cameras.base import Camera
from edgeloc.device.power.base import PowerMeter
from edgeloc.device.power.trace import PowerTrace
from edgeloc.engines.base import Engine
from edgeloc.errors import CameraError, DeviceError, MissingExtra, OutputError, UsageError
from edgeloc.observation import Observation
from edgeloc.sinks.base import FileSink, Sink
from edgeloc.types import Box, Detection, Frame, Pixels, Result

try:
    import pytest
except ImportError:
    raise MissingExtra("pytest", "testing", "a contract suite") from None

__all__ = [
    "CameraSuite",
    "EngineSuite",
    "FileSinkSuite",
    "MeterSuite",
    "SinkSuite",
    "example_frame",
    "example_observation",
]


def example_frame(sequence: int = 0, captured_at: float = 0.0, size: tuple[int, int] = (64, 48), **known: Any) -> Frame:
    """A plain grey frame whose brightness grows with `sequence`.

    `captured_at` is seconds of `time.monotonic()`, `size` (width, height) in pixels; `known` are more
    fields of `Frame`, such as `truth`.
    """
    level = (20 + 10 * sequence) % 256
    return Frame(np.full((size[1], size[0], 3), level, np.uint8), captured_at, sequence, **known)


def example_observation(frame: Frame, *boxes: Box) -> Observation:
    """An answer to `frame`: a nut in each of `boxes` (pixels of the frame), the best first; no object without any."""
    scores = np.array([0.25, 0.75], np.float32)
    objects = tuple(Detection(box, 0.9 - 0.1 * rank, "nut", scores) for rank, box in enumerate(boxes))
    return Observation(frame, Result(objects, None if boxes else Detection(None, 0.2)), age_ms=12.5, engine="fake")


class CameraSuite:
    """What every camera must do; override the fixture `camera`.

    `finite` is False where the source never ends, such as a real camera: the test of its end is skipped.
    """

    finite = True

    @pytest.fixture
    def camera(self) -> Camera:
        """The camera under test; the suite opens and closes it."""
        raise NotImplementedError("override the fixture `camera`: it returns the camera under test")

    @pytest.fixture
    def opened(self, camera: Camera) -> Iterator[Camera]:
        """The camera, open."""
        with camera:
            yield camera

    def test_frames_are_bgr_images_of_the_reported_size(self, opened: Camera) -> None:
        frames = take(opened)
        assert frames
        for frame in frames:
            assert frame.pixels.dtype == np.uint8
            assert frame.pixels.ndim == 3 and frame.pixels.shape[2] == 3
            if opened.size is not None:
                assert (frame.pixels.shape[1], frame.pixels.shape[0]) == opened.size

    def test_sequence_numbers_grow_from_zero(self, opened: Camera) -> None:
        numbers = [frame.sequence for frame in take(opened)]
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 0 or opened.live

    def test_capture_times_never_go_back_and_are_never_in_the_future(self, opened: Camera) -> None:
        last = -np.inf
        for _ in range(4):
            frame = opened.read()
            if frame is None:
                break
            assert last <= frame.captured_at <= time.monotonic()
            last = frame.captured_at

    def test_a_frame_belongs_to_the_caller(self, opened: Camera) -> None:
        first = opened.read()
        assert first is not None
        kept = first.pixels.copy()
        for frame in take(opened, 3):
            assert not np.shares_memory(frame.pixels, first.pixels)
            frame.pixels[:] = 0
        assert (first.pixels == kept).all()

    def test_an_ended_source_stays_ended(self, opened: Camera) -> None:
        if not self.finite:
            pytest.skip("this source does not end")
        assert take(opened, 1000)
        assert opened.read() is None
        assert opened.read() is None

    def test_a_camera_opened_again_starts_from_its_beginning(self, opened: Camera) -> None:
        first = take(opened)
        opened.close()
        opened.open()
        again = take(opened)
        assert first and again
        if not opened.live:
            assert [frame.sequence for frame in again] == [frame.sequence for frame in first]
            assert all((a.pixels == b.pixels).all() for a, b in zip(first, again, strict=True))

    def test_closing_twice_is_fine_and_a_closed_camera_raises(self, opened: Camera) -> None:
        opened.close()
        opened.close()
        with pytest.raises(CameraError, match="not open"):
            opened.read()

    def test_opening_an_open_camera_changes_nothing(self, opened: Camera) -> None:
        assert opened.read() is not None
        opened.open()
        following = opened.read()
        assert following is None or following.sequence > 0

    def test_a_live_camera_reports_its_rate(self, opened: Camera) -> None:
        if not opened.live:
            pytest.skip("not live")
        assert opened.fps is not None and opened.fps > 0

    def test_it_has_a_name_for_messages(self, camera: Camera) -> None:
        assert camera.name


def take(camera: Camera, count: int = 4) -> list[Frame]:
    """The next frames of a camera, at most `count` of them."""
    return list(itertools.islice(camera, count))


class EngineSuite:
    """What every inference engine must do; override the fixture `engine`, and `tensor` where zeros are no fit input."""

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine under test, with a model of one input loaded."""
        raise NotImplementedError("override the fixture `engine`: it returns an engine with a model loaded")

    @pytest.fixture
    def tensor(self, engine: Engine) -> NDArray[Any]:
        """An input that the model takes."""
        info = next(iter(engine.inputs.values()))
        return np.zeros(info.shape, info.dtype)

    def test_it_reports_its_name_and_version(self, engine: Engine) -> None:
        assert engine.name
        assert engine.version

    def test_tensors_are_listed_by_their_names(self, engine: Engine) -> None:
        assert len(engine.inputs) == 1
        assert engine.outputs
        for name, info in (*engine.inputs.items(), *engine.outputs.items()):
            assert info.name == name
            assert (info.scale is None) == (info.zero_point is None)

    def test_invoke_gives_every_output_in_its_shape(self, engine: Engine, tensor: NDArray[Any]) -> None:
        raw = engine.invoke(tensor)
        assert set(raw) == set(engine.outputs)
        for name, values in raw.items():
            assert values.shape == engine.outputs[name].shape
            assert values.dtype == engine.outputs[name].dtype

    def test_later_invokes_leave_earlier_outputs_alone(self, engine: Engine, tensor: NDArray[Any]) -> None:
        first = engine.invoke(tensor)
        kept = {name: values.copy() for name, values in first.items()}
        engine.invoke(tensor + tensor.dtype.type(100))
        assert all(np.array_equal(first[name], kept[name]) for name in kept)

    def test_invoke_leaves_its_input_alone(self, engine: Engine, tensor: NDArray[Any]) -> None:
        kept = tensor.copy()
        engine.invoke(tensor)
        assert np.array_equal(tensor, kept)


class SinkSuite:
    """What every sink must do; override the fixture `sink`. For a sink that writes a file take `FileSinkSuite`."""

    @pytest.fixture
    def sink(self) -> Sink:
        """The sink under test, not open."""
        raise NotImplementedError("override the fixture `sink`: it returns the sink under test, not open")

    def write(self, sink: Sink, *frames: Frame) -> None:
        """Hand an observation of each frame to an open sink, as the loop does."""
        for frame in frames:
            sink.write(example_observation(frame, Box(1, 2, 3.5, 4)), _picture_of(frame))

    def test_it_has_a_name_for_messages(self, sink: Sink) -> None:
        assert sink.name

    @pytest.mark.parametrize("live", [False, True])
    def test_it_takes_results_until_it_is_closed(self, sink: Sink, live: bool) -> None:
        sink.open(fps=10, live=live)
        self.write(sink, *(example_frame(number, captured_at=number / 10) for number in range(4)))
        assert not sink.ended
        sink.close()

    def test_closing_twice_or_unopened_is_fine(self, sink: Sink) -> None:
        sink.close()
        sink.open()
        self.write(sink, example_frame())
        sink.close()
        sink.close()

    def test_it_leaves_the_shared_picture_alone(self, sink: Sink) -> None:
        frame = example_frame(3)
        kept = frame.pixels.copy()
        sink.open(fps=10)
        self.write(sink, frame)
        sink.close()
        assert np.array_equal(frame.pixels, kept)


class FileSinkSuite(SinkSuite):
    """What every sink that writes a file must do; set `suffix` and override `make`."""

    suffix = ""

    def make(self, path: Path) -> Sink:
        """The sink that writes `path`, not open."""
        raise NotImplementedError("override `make`: it returns a sink that writes the path, not open")

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """The file to write, in an empty folder."""
        return tmp_path / f"out{self.suffix}"

    @pytest.fixture
    def sink(self, path: Path) -> Sink:
        """The sink that writes `path`."""
        return self.make(path)

    def test_it_has_its_name_from_the_first_result_on(self, sink: Sink, path: Path) -> None:
        sink.open(fps=10)
        self.write(sink, example_frame())
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        sink.close()
        assert path.stat().st_size > 0
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_nothing_is_left_without_a_result(self, sink: Sink, path: Path) -> None:
        sink.open(fps=10)
        sink.close()
        assert not path.exists()

    def test_a_place_that_cannot_be_written_shows_in_open(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        sink = self.make(tmp_path / "file" / f"out{self.suffix}")
        with pytest.raises(OutputError, match="out"):
            sink.open()

    def test_a_folder_of_that_name_shows_in_open(self, sink: Sink, path: Path) -> None:
        path.mkdir()
        with pytest.raises(OutputError, match="folder"):
            sink.open()

    def test_an_older_file_is_refused(self, sink: Sink, path: Path) -> None:
        path.write_text("old")
        with pytest.raises(UsageError, match="there already"):
            sink.open(fps=10)
        sink.close()
        assert path.read_text() == "old"

    def test_an_older_file_is_emptied_where_that_was_asked_for(self, sink: Sink, path: Path) -> None:
        path.write_text("old")
        assert isinstance(sink, FileSink)
        sink.overwrite = True
        sink.open(fps=10)
        self.write(sink, example_frame(0), example_frame(1))
        sink.close()
        assert b"old" not in path.read_bytes()

    def test_a_link_is_followed(self, sink: Sink, path: Path) -> None:
        path.symlink_to(path.parent / "elsewhere")
        sink.open(fps=10)
        self.write(sink, example_frame())
        sink.close()
        assert path.is_symlink() and path.stat().st_size > 0

    def test_the_time_in_a_name_makes_each_opening_a_new_file(self, path: Path) -> None:
        for _ in range(2):
            sink = self.make(path.with_stem("out-{time}"))
            sink.open(fps=10)
            self.write(sink, example_frame())
            sink.close()
        assert len(list(path.parent.glob(f"out-2*{self.suffix}"))) == 2


def _picture_of(frame: Frame) -> Callable[[], Pixels]:
    return lambda: frame.pixels


class MeterSuite:
    """What every power meter must do; override the fixture `meter`."""

    @pytest.fixture
    def meter(self) -> PowerMeter:
        """The meter under test; the suite opens and closes it."""
        raise NotImplementedError("override the fixture `meter`: it returns the power meter under test")

    def test_it_reports_what_it_reads_and_what_it_does_not_see(self, meter: PowerMeter) -> None:
        with meter:
            assert meter.name and meter.source and meter.blind_to
            assert 0 < meter.rate_hz <= 1000
            assert meter.rails and set(meter.total) <= set(meter.rails)
            assert meter.gain_error is None or 0 <= meter.gain_error < 0.1

    def test_samples_hold_the_rails_at_times_of_the_monotonic_clock(self, meter: PowerMeter) -> None:
        with meter:
            began = time.monotonic()
            samples = [meter.read() for _ in range(4)]
            assert samples[-1].t <= time.monotonic()
            assert samples[0].t >= began - 1
            assert all(before.t < after.t for before, after in itertools.pairwise(samples))
            for sample in samples:
                assert set(sample.watts or sample.joules) == set(meter.rails)
                assert set(sample.joules) <= set(meter.counter_range_j)
            assert meter.resolution_w >= 0 and meter.resolution_j >= 0

    def test_its_samples_make_a_trace(self, meter: PowerMeter) -> None:
        with meter:
            trace = PowerTrace.from_samples([meter.read() for _ in range(4)], meter)
        estimate = trace.energy(float(trace.t[0]), float(trace.t[-1]))
        assert estimate.joules >= 0
        assert estimate.uncertainty_j >= 0

    def test_a_closed_meter_raises_and_opens_again(self, meter: PowerMeter) -> None:
        with pytest.raises(DeviceError, match=r"not open.*open\(\)"):
            meter.read()
        with meter:
            meter.read()
        meter.close()
        with pytest.raises(DeviceError, match="not open"):
            meter.read()
        with meter:
            meter.read()
