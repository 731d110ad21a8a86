"""The schema that docs/ publishes is that of the dataclasses, and results are valid by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeloc.benchmarks.result import SCHEMA_VERSION, BenchResult, write_result
from edgeloc.benchmarks.schema import json_schema

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "reference" / "result.schema.json"


def test_the_published_schema_is_that_of_the_dataclasses() -> None:
    again = "python -m edgeloc.benchmarks.schema > docs/reference/result.schema.json"
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == json_schema(), f"write it again: {again}"


def test_a_result_is_valid_and_a_bad_one_is_not(tmp_path: Path, bench_result: BenchResult) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    write_result(tmp_path / "r.json", bench_result)
    data = json.loads((tmp_path / "r.json").read_text())
    validator.validate(data)
    data["latency"]["total"]["p50_ms"] = "fast"
    data["schema_version"] = SCHEMA_VERSION + 1
    assert {tuple(error.path) for error in validator.iter_errors(data)} == {
        ("latency", "total", "p50_ms"),
        ("schema_version",),
    }


def test_fields_are_described() -> None:
    described = json_schema()["$defs"]["BenchResult"]["properties"]
    assert described["complete"]["description"].startswith("false when it was interrupted")
    assert all("description" in field for name, field in described.items() if name != "schema_version")
