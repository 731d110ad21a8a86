"""A process that is killed at any moment leaves what it measured, in a file that says that it is partial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from edgeloc.benchmarks.journal import Journal, read_journal, unpacked
from edgeloc.benchmarks.measurement import BenchOptions, Measurement
from edgeloc.benchmarks.result import BenchResult, read_result, write_result
from edgeloc.cli import main
from edgeloc.errors import DataError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model


@pytest.fixture
def model(tmp_path: Path, tiny_models: Path) -> Path:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    path = tmp_path / "model.tflite"
    contract = Contract(InputSpec("image", 32, 32, resize="stretch"), outputs)
    write_model(path, (tiny_models / "int8.tflite").read_bytes(), contract)
    return path


def started(model: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    """A benchmark in a process of its own, once it has written something."""
    line = [sys.executable, "-m", "edgeloc", "bench", str(model), "--out", str(out), "--power", "none", *words]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not out.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert out.exists()
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.wait(10) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r.json", "r.json.gz"])
def test_killed_at_several_moments(model: Path, tmp_path: Path, name: str) -> None:
    out, counts = tmp_path / name, []
    for after_s in (0.0, 0.4, 1.2, 2.7):
        out.unlink(missing_ok=True)
        process = started(model, out, "--frames", "1000000")
        # The file is there before the first frames are.
        deadline = time.monotonic() + 60
        while not read_result(out).latency:
            assert time.monotonic() < deadline and process.poll() is None
        time.sleep(after_s)
        killed(process)
        result = read_result(out)
        assert not result.complete and not result.comparable
        assert result.latency["invoke"].count == result.latency["total"].count > 0
        assert result.scenario is not None and result.scenario.samples == result.latency["total"].count
        assert "measurement-interrupted" in [finding.code for finding in result.findings]
        counts.append(result.scenario.samples)
    assert counts[-1] > counts[0]


@pytest.mark.slow
def test_killed_among_the_images(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    data = "synthetic?count=3000&size=64x48"
    process = started(model, out, "--frames", "5", "--validation", data)
    deadline = time.monotonic() + 60
    while read_result(out).accuracy is None or not read_result(out).accuracy.rows:  # type: ignore[union-attr]
        assert time.monotonic() < deadline and process.poll() is None
    killed(process)
    result = read_result(out)
    assert result.latency["total"].count == 5
    assert result.accuracy is not None and result.accuracy.rows and result.accuracy.mean_iou is not None


def test_every_cut_of_the_file_is_read(model: Path, tmp_path: Path) -> None:
    """As after a power cut, whatever of the last line reached the disk."""
    out = tmp_path / "r.json"
    measurement = Measurement(BenchOptions(model, out, frames=4, warmup=2, power="none"))
    try:
        with measurement.thermal:
            for _ in measurement.latency.each(range(6)):
                if measurement.has_figures:
                    measurement.write_journal()
        measurement.write_journal()
    finally:
        measurement.close()
        measurement.journal.close()
    whole = out.read_bytes()
    first = whole.index(b"\n", whole.index(b"\n") + 1)
    counts = []
    for length in range(first + 1, len(whole) + 1, 7):
        out.write_bytes(whole[:length])
        counts.append(read_result(out).latency["total"].count)
    assert counts == sorted(counts) and set(counts) >= {1, 2, 3}
    out.write_bytes(whole)
    result = read_result(out)
    assert result.latency["total"].warmup_ms == tuple(round(ms, 4) for ms in measurement.latency.totals[:2])
    assert result.latency["total"].samples_ms == tuple(round(ms, 4) for ms in measurement.latency.totals[2:])


def test_a_partial_result_can_be_reported_and_written_whole(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    out = tmp_path / "r.json"
    measurement = Measurement(BenchOptions(model, out, frames=4, warmup=1, power="none"))
    with measurement.thermal:
        measurement.latency.record(range(3))
    measurement.write_journal()
    measurement.close()
    measurement.journal.close()
    assert main(["report", str(out), "--out", str(tmp_path / "r.html")]) == 0
    assert "interrupted" in (tmp_path / "r.html").read_text()
    partial = read_result(out)
    write_result(tmp_path / "whole.json", partial)
    assert read_result(tmp_path / "whole.json") == partial
    assert json.loads((tmp_path / "whole.json").read_text())["complete"] is False


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path, bench_result: BenchResult) -> None:
    out = tmp_path / "r.json"
    journal = Journal(out)
    for count in (1, 2):
        journal.write(bench_result, {"rows": [1.0] * count}, {})
    journal.close()
    out.write_text(out.read_text().replace('{"add"', '{"ad', 1))
    with pytest.raises(DataError, match="no result"):
        read_result(out)


@pytest.mark.parametrize("name", ["r.json", "r.json.gz"])
def test_a_compressed_result_is_read_back_the_same(tmp_path: Path, bench_result: BenchResult, name: str) -> None:
    write_result(tmp_path / name, bench_result)
    assert read_result(tmp_path / name) == bench_result
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_a_compressed_result_that_is_damaged_is_refused(tmp_path: Path, bench_result: BenchResult) -> None:
    out = tmp_path / "r.json.gz"
    write_result(out, bench_result)
    data = bytearray(out.read_bytes())
    data[len(data) // 2] ^= 0xFF
    out.write_bytes(data)
    with pytest.raises(DataError, match="no result"):
        read_result(out)
    out.write_bytes(data[:100])
    with pytest.raises(DataError, match="no result"):
        read_result(out)


def test_a_file_packed_to_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr("edgeloc.benchmarks.journal._MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="holds more than"):
        unpacked(gzip.compress(b" " * 100_000))


def test_a_disk_that_takes_half_a_line_leaves_none(
    tmp_path: Path, bench_result: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeloc.errors import OutputError

    out = tmp_path / "r.json"
    journal = Journal(out)
    journal.write(bench_result, {"latency.total": [1.0]}, {})
    whole = out.read_bytes()
    assert journal._file is not None
    write = journal._file.write
    with monkeypatch.context() as full:
        full.setattr(journal, "_file", Mock(wraps=journal._file, write=lambda line: write(line[:20])))
        with pytest.raises(OutputError, match="No space left"):
            journal.write(bench_result, {"latency.total": [1.0, 2.0]}, {})
    assert out.read_bytes() == whole
    journal.write(bench_result, {"latency.total": [1.0, 2.0]}, {})
    journal.close()
    found = read_journal(out.read_text())
    assert found is not None and found[1] == {"latency.total": [1.0, 2.0]}


def test_a_full_disk_is_named(tmp_path: Path, bench_result: BenchResult) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    from edgeloc.errors import OutputError

    journal = Journal(tmp_path / "r.json")
    journal.write(bench_result, {}, {})
    journal.close()
    journal._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(OutputError, match="No space left"):
        journal.write(bench_result, {}, {})
    journal.close()
