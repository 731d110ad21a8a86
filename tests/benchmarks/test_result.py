"""The result file: what others read is there, it comes back as it was, and a bad one is refused by field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgeloc.benchmarks.result import OBSTACLES, STAGES, BenchResult, obstacles, read_result, write_result
from edgeloc.benchmarks.scenarios.course import Course, Drift
from edgeloc.benchmarks.scenarios.stopping import Scenario
from edgeloc.errors import DataError


@pytest.fixture
def written(tmp_path: Path, bench_result: BenchResult) -> Path:
    path = tmp_path / "result.json"
    write_result(path, bench_result)
    return path


def test_round_trip(written: Path, bench_result: BenchResult) -> None:
    assert read_result(written) == bench_result


def test_keys_that_others_read(written: Path) -> None:
    data = json.loads(written.read_text())
    names = ("images", "mean_iou_float", "mean_iou_quantized", "mean_iou_drop", "mean_iou_float_to_quantized")
    assert all(isinstance(data["regression"][name], (int, float)) for name in names)
    assert len(data["regression"]["drop_ci95"]) == 2
    for stage in STAGES:
        assert all(data["latency"][stage][name] > 0 for name in ("p50_ms", "p90_ms", "p99_ms"))
    assert data["energy"]["status"] == "not measured"
    assert len(data["latency"]["total"]["samples_ms"]) == 30


def test_nothing_is_left_beside_the_file(written: Path) -> None:
    assert [path.name for path in written.parent.iterdir()] == ["result.json"]


def change(data: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        data = data[int(name)] if name.isdigit() else data[name]
    if value is ...:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("regression.images", "many", r"regression\.images must be a whole number, not 'many'"),
        ("regression.images", True, r"regression\.images must be a whole number"),
        ("regression.images", ..., r"regression\.images is missing"),
        (
            "findings.0.severity",
            "loud",
            r"findings\[0\]\.severity must be one of ok, note, warning, problem, not 'loud'",
        ),
        ("regression.drop_ci95", [0.1], r"regression\.drop_ci95 must be a list of 2, not of 1"),
        ("regression.rows.3.truth", [1, 2, 3], r"regression\.rows\[3\]\.truth must be a list of 4"),
        ("regression.rows.0.kind", "thing", r"regression\.rows\[0\]: kind is 'thing'"),
        ("latency.invoke.p50_ms", None, r"latency\.invoke\.p50_ms must be a number, not None"),
        ("latency.invoke.samples_ms", 3, r"latency\.invoke\.samples_ms must be a list, not 3"),
        ("latency.invoke.samples_ms", [1.0], r"latency\.invoke: count is \d+, and samples_ms holds 1"),
        ("latency.total", ..., r"latency\.total is missing"),
        ("latency.total.p50_ms", 0.0, r"latency\.total\.p50_ms is 0\.0: it must be above 0"),
        ("energy.t_s", [0.0], r"energy: t_s holds 1 readings, and watts \d+"),
        ("energy.spans_s", {"work": [0, 1]}, r"energy: spans_s has 'work': known are idle before"),
        ("regression.worst.0.truth", [float("nan"), 0, 1, 1], r"regression\.worst\[0\]: its boxes and preview"),
        ("model", [], r"model must be an object"),
        ("schema_version", 99, r"schema_version is 99"),
    ],
)
def test_a_bad_field_is_named(written: Path, path: str, value: Any, says: str) -> None:
    data = json.loads(written.read_text())
    change(data, path, value)
    written.write_text(json.dumps(data))
    with pytest.raises(DataError, match=says) as caught:
        read_result(written)
    assert str(written) in str(caught.value)


def test_a_field_of_a_later_release_is_ignored(written: Path, bench_result: BenchResult) -> None:
    data = json.loads(written.read_text())
    data["regression"]["novelty"] = 1
    written.write_text(json.dumps(data))
    assert read_result(written) == bench_result


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', "{}", '{"sequence": 0}\n{"sequence": 1}\n', '{"schema_version": 3}\n[1]\n\n']
)
def test_what_is_no_result(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no result"):
        read_result(path)


def test_an_earlier_schema_is_refused_with_the_fix(written: Path) -> None:
    data = json.loads(written.read_text())
    written.write_text(json.dumps({**data, "schema_version": 2}))
    with pytest.raises(DataError, match="schema_version is 2, it must be 3; measure again"):
        read_result(written)


def test_a_sweeps_table_is_not_taken_for_an_earlier_result(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"schema_version": 1, "rows": []}')
    with pytest.raises(DataError, match=r"sweep.json is no result of `edgeloc bench`: it says nothing of a machine$"):
        read_result(tmp_path / "sweep.json")


def test_a_result_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_result(tmp_path / "none.json")


def test_a_quiet_whole_result_is_comparable(bench_result: BenchResult) -> None:
    assert bench_result.comparable and obstacles(bench_result) == ()


def test_what_makes_a_result_not_comparable_is_named(bench_result: BenchResult) -> None:
    busy = dataclasses.replace(bench_result.environment, load_1min=3.0)
    drift = Drift(1.0, (1.0, 1.1, 1.2, 1.3), (1.1, 1.2, 1.3, 1.4), 1.0, 1.3, 0.17, (0.1, 0.2))
    course = Course(others_busy=0.4, drift=drift)
    result = dataclasses.replace(bench_result, complete=False, environment=busy, course=course)
    assert [finding.code for finding in obstacles(result)] == [
        "measurement-interrupted",
        "machine-busy",
        "latency-drifts",
    ]
    assert not result.comparable
    assert {finding.code for finding in obstacles(result)} <= set(OBSTACLES)


def test_the_load_before_does_not_count_where_that_of_others_is_known(bench_result: BenchResult) -> None:
    after_another_run = dataclasses.replace(bench_result.environment, load_1min=3.0)
    result = dataclasses.replace(bench_result, environment=after_another_run)
    assert not result.comparable
    assert dataclasses.replace(result, course=Course(others_busy=0.01)).comparable


def test_drift_is_what_sustained_shows(bench_result: BenchResult) -> None:
    drift = Drift(1.0, (1.0, 1.1, 1.2, 1.3), (1.1, 1.2, 1.3, 1.4), 1.0, 1.3, 0.17, (0.1, 0.2))
    asked = Scenario("sustained", 0, 600, 600)
    assert dataclasses.replace(bench_result, scenario=asked, course=Course(drift=drift)).comparable
