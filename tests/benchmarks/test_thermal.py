"""A benchmark's result holds the board's temperatures, and a throttled run is marked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.benchmarks import BenchOptions, bench, measurement
from edgeloc.benchmarks.environment import read_environment
from edgeloc.benchmarks.result import read_result
from edgeloc.device.thermal import ThermalReader
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model


@pytest.fixture
def model(tmp_path: Path, tiny_models: Path) -> Path:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    path = tmp_path / "model.tflite"
    contract = Contract(InputSpec("image", 32, 32, resize="stretch"), outputs)
    write_model(path, (tiny_models / "int8.tflite").read_bytes(), contract)
    return path


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the benchmark see a Raspberry Pi of 61 °C whose firmware answers this."""
    root = tmp_path / "board"
    files = {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "61300\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def answer(text: str) -> None:
        monkeypatch.setattr(measurement, "ThermalReader", lambda: ThermalReader(root, lambda command: text))

    return answer


def test_a_throttled_run_is_marked(
    model: Path, board: Callable[[str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board("throttled=0x20002\n")
    out = tmp_path / "result.json"
    result = bench(BenchOptions(model, out, frames=3, warmup=1))
    assert read_result(out) == result
    thermal = json.loads(out.read_text())["thermal"]
    assert thermal["throttled"] == ["Arm frequency capped"]
    assert thermal["before"]["temperatures_c"] == thermal["highest_c"] == {"cpu-thermal": 61.3}
    finding = next(finding for finding in result.findings if finding.code == "throttled-while-measuring")
    assert "throttled while measuring (Arm frequency capped)" in finding.message
    assert "throttled while measuring" in caplog.text


def test_a_run_at_full_clock_is_not(model: Path, board: Callable[[str], None], tmp_path: Path) -> None:
    board("throttled=0x0\n")
    result = bench(BenchOptions(model, tmp_path / "result.json", frames=3, warmup=1))
    assert result.thermal is not None and result.thermal.throttled == ()
    assert result.thermal.reports_throttling
    assert not any(finding.code == "throttled-while-measuring" for finding in result.findings)


def test_a_result_without_temperatures_is_read(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    bench(BenchOptions(model, out, frames=3, warmup=1))
    data = json.loads(out.read_text())
    del data["thermal"], data["environment"]["hardware"], data["environment"]["power_mode"]
    out.write_text(json.dumps(data))
    result = read_result(out)
    assert result.thermal is result.environment.hardware is None


def test_the_environment_holds_the_board(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    environment = read_environment(tmp_path)
    assert environment.hardware is not None
    assert environment.hardware.name == "Raspberry Pi 4 Model B"
    assert environment.board == "Raspberry Pi 4 Model B Rev 1.4"
