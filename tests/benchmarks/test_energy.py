"""Energy of a benchmark under meters whose power is known, and what is said where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgeloc.benchmarks import energy as module
from edgeloc.benchmarks.energy import Energy, EnergyRecorder, format_digits
from edgeloc.benchmarks.result import BenchResult, read_result
from edgeloc.cli import main
from edgeloc.device.power import PowerMeter, PowerSample
from edgeloc.errors import DeviceError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model
from edgeloc.testing.power import FakeMeter

IDLE_W, WORK_W = 2.0, 5.0


class Load:
    """Whether the board works; its power follows at once."""

    def __init__(self) -> None:
        self.works = False

    def watts(self, _: float) -> float:
        return WORK_W if self.works else IDLE_W


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.2)
    monkeypatch.setattr(module, "SETTLE_S", 0.05)


def use(monkeypatch: pytest.MonkeyPatch, meter: PowerMeter) -> None:
    def opened(uri: str) -> PowerMeter:
        meter.open()
        return meter

    monkeypatch.setattr(module, "open_meter", opened)


def measure(load: Load, frames: int = 30, frame_s: float = 0.01) -> Energy:
    """A benchmark in small: each frame and each inference is work for `frame_s`."""
    recorder = EnergyRecorder("fake://")
    with recorder as energy:
        energy.idle("before")
        load.works = True
        for _ in energy.frames(range(frames + 3), 3):
            time.sleep(frame_s)
        energy.inferences(lambda: lambda: time.sleep(frame_s), frames)
        load.works = False
        energy.idle("after")
    recorder.close()
    return recorder.figures()


def test_energy_a_frame_is_what_it_took_beyond_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load()
    use(monkeypatch, FakeMeter(load.watts, rate_hz=400, resolution_w=0.001))
    energy = measure(load)
    assert energy.status == "measured" and energy.reason is None
    assert energy.frames == 30 and energy.inferences >= 30
    begin, end = energy.spans_s["frames"]
    exact_mj = 1000 * (WORK_W - IDLE_W) * (end - begin) / 30
    assert energy.per_frame_mj is not None and energy.per_frame_uncertainty_mj is not None
    assert energy.per_frame_mj == pytest.approx(exact_mj, rel=0.02)
    assert abs(energy.per_frame_mj - exact_mj) <= energy.per_frame_uncertainty_mj
    assert energy.power_w == pytest.approx(WORK_W, rel=0.02)
    assert energy.idle_before_w == pytest.approx(IDLE_W, rel=0.05)
    assert energy.idle_after_w == pytest.approx(IDLE_W, rel=0.05)
    assert len(energy.t_s) == len(energy.watts) >= energy.readings


def test_without_a_meter_it_says_so() -> None:
    energy = EnergyRecorder("none").figures()
    assert energy.status == "not measured"
    assert energy.per_frame_mj is None and energy.per_inference_mj is None and energy.power_w is None
    assert "no power meter was asked for" in str(energy.reason)


def test_a_meter_lost_in_the_middle_keeps_its_readings_and_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load()
    use(monkeypatch, FakeMeter(load.watts, rate_hz=400, lost_after=90))
    energy = measure(load)
    assert energy.status == "not measured"
    assert "is gone" in str(energy.reason)
    assert energy.per_frame_mj is None
    assert len(energy.watts) == 90


def test_a_meter_that_auto_found_and_that_fails_at_once_costs_only_the_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeMeter(lambda t: 3.0, lost_after=0))
    recorder = EnergyRecorder("auto")
    with recorder as energy:
        energy.idle("before")
        assert list(energy.frames(range(5), 2)) == [0, 1, 2, 3, 4]
    assert "is gone" in str(recorder.figures().reason)
    with pytest.raises(DeviceError, match="is gone"), EnergyRecorder("fake://"):
        pass


def test_too_short_a_run_says_how_many_frames_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load()
    use(monkeypatch, FakeMeter(load.watts, rate_hz=50))
    energy = measure(load, frames=1, frame_s=0.001)
    assert energy.status == "not measured"
    assert "time at least" in str(energy.reason)


def test_an_interrupted_run_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeMeter(lambda t: 3.0, rate_hz=400))
    recorder = EnergyRecorder("fake://")

    def interrupted() -> None:
        with recorder as energy:
            energy.idle("before")
            for number in energy.frames(range(30), 3):
                if number == 20:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    recorder.close()
    energy = recorder.figures()
    assert energy.status == "not measured"
    assert "'frames'" in str(energy.reason)
    assert energy.watts


class CountingMeter(FakeMeter):
    """Counts joules, and starts again from 0 at 1 J, as RAPL does."""

    counter_range_j: Mapping[str, float] = {"fake": 1.0}

    def _read(self) -> PowerSample:
        sample = super()._read()
        return PowerSample(sample.t, joules={"fake": sample.watts["fake"] * sample.t % 1.0})


@pytest.mark.parametrize("kind", [FakeMeter, CountingMeter])
def test_readings_taken_bit_by_bit_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, kind: type[FakeMeter]
) -> None:
    use(monkeypatch, kind(lambda t: 3.0, rate_hz=400))
    recorder = EnergyRecorder("fake://")
    grown = []
    with recorder:
        for _ in range(6):
            time.sleep(0.05)
            recorder.take()
            grown.append(len(recorder.t_s))
    recorder.close()
    recorder.take()
    samples = recorder._sampler.samples  # type: ignore[union-attr]
    assert grown == sorted(set(grown))
    assert len(recorder.t_s) == len(recorder.watts) == len(samples) - (kind is CountingMeter)
    assert recorder.t_s == [round(sample.t - samples[0].t, 4) for sample in samples[-len(recorder.t_s) :]]
    assert recorder.watts == pytest.approx([3.0] * len(recorder.watts), abs=1e-3)


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="must be measured, replayed or not measured"):
        Energy(status="estimated")


@pytest.fixture
def model(tiny_models: Path, tmp_path: Path) -> Path:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    contract = Contract(InputSpec("image", 32, 32, resize="stretch"), outputs)
    write_model(tmp_path / "m.tflite", (tiny_models / "int8.tflite").read_bytes(), contract)
    return tmp_path / "m.tflite"


@pytest.fixture
def recording(tmp_path: Path) -> Callable[[float], Path]:
    """A recording of 3 W, in readings of 5 ms, as long as is asked for."""

    def write(seconds: float) -> Path:
        rows = "".join(f"{index * 0.005:.3f},3.000\n" for index in range(int(seconds / 0.005)))
        (tmp_path / "power.csv").write_text("time_s,watts\n" + rows)
        return tmp_path / "power.csv"

    return write


def bench(model: Path, out: Path, *words: object) -> int:
    return main(["bench", str(model), "--out", str(out), "--frames", "40", "--warmup", "2", *map(str, words)])


def test_a_recording_is_replayed_and_marked_as_one(
    model: Path, tmp_path: Path, recording: Callable[[float], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(20)
    out = tmp_path / "r.json"
    assert bench(model, out, "--power", f"csv://{path}?tolerance=1", "--camera", "synthetic://?fps=200&seed=1") == 0
    energy = read_result(out).energy
    assert energy.status == "replayed"
    assert energy.power_w == pytest.approx(3.0)
    assert energy.idle_before_w == pytest.approx(3.0)
    assert energy.per_frame_mj == pytest.approx(0, abs=1e-6)
    assert energy.gain_error == pytest.approx(0.01)
    printed = capsys.readouterr().out
    assert "mJ per frame" in printed and "replayed" in printed and "power.csv" in printed


def test_a_recording_that_ends_too_early_costs_only_the_energy(
    model: Path, tmp_path: Path, recording: Callable[[float], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    assert bench(model, out, "--power", f"csv://{recording(0.3)}") == 0
    result = read_result(out)
    assert result.complete and result.latency["total"].count == 40
    assert result.energy.status == "not measured"
    assert "the recording ended" in str(result.energy.reason)
    assert len(result.energy.watts) == 60
    assert "energy    not measured: " in capsys.readouterr().out


def test_the_result_does_not_take_the_recordings_place(
    model: Path, recording: Callable[[float], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(1)
    before = path.read_text()
    assert bench(model, path, "--power", f"csv://{path}?tolerance=1") == 2
    assert path.read_text() == before
    assert "one of the files that are read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "status", "says"),
    [
        ("csv:///no/such.csv", 2, "no/such.csv cannot be read"),
        ("volts://x", 2, "volts://x is of no known kind"),
        ("hwmon://ina219", 3, "no such sensor"),
    ],
)
def test_a_meter_that_was_named_and_is_not_there_stops_before_measuring(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str, status: int, says: str
) -> None:
    assert bench(model, tmp_path / "r.json", "--power", uri) == status
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "r.json").exists()


def test_the_report_shows_energy_with_what_the_meter_does_not_see(
    monkeypatch: pytest.MonkeyPatch, bench_result: BenchResult
) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from dataclasses import replace

    from edgeloc.benchmarks.report import render_report

    load = Load()
    use(monkeypatch, FakeMeter(load.watts, rate_hz=400))
    page = render_report(replace(bench_result, energy=measure(load)))
    assert "energy per frame" in page and "mJ" in page
    assert "does not see everything" in page
    assert "Power as the meter read it" in page
    bare = render_report(replace(bench_result, energy=Energy(reason="no meter")))
    assert "Not measured: no meter." in bare and "Power as the meter" not in bare


@pytest.mark.parametrize(
    "words",
    [
        ["--scenario", "stream", "--fps", "200", "--frames", "200"],
        ["--scenario", "sustained", "--minutes", "0.02"],
        pytest.param(["--scenario", "cold-start", "--frames", "1", "--warmup", "0"], marks=pytest.mark.slow),
    ],
    ids=["stream", "sustained", "cold-start"],
)
def test_every_scenario_has_its_energy_beside_its_course(
    model: Path, tmp_path: Path, recording: Callable[[float], Path], words: list[str]
) -> None:
    out = tmp_path / "r.json"
    assert main(["bench", str(model), *words, "--power", f"csv://{recording(60)}", "--out", str(out)]) == 0
    result = read_result(out)
    energy, course = result.energy, result.course
    assert energy.status == "replayed" and energy.per_frame_mj is not None
    assert energy.frames == result.latency["total"].count
    assert course is not None and course.energy_from_s is not None and course.readings
    begin, end = energy.spans_s["frames"]
    # On the course's clock the first frame that counts began at 0, and the last ended within the span.
    assert begin + course.energy_from_s == pytest.approx(0, abs=0.3)
    assert course.began_s[-1] <= end + course.energy_from_s


def test_figures_are_never_powers_of_ten() -> None:
    assert [format_digits(value, 3) for value in (0.01234, 4.567, 999.7, 3210.4)] == ["0.0123", "4.57", "1000", "3210"]
