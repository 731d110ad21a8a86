"""The choice of a recipe: the first that passes is kept, and the table shows every candidate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.converters.gate import Choice, GateLimits, GateRefused, GateReport, choose_recipe, fit_presence
from edgeloc.converters.gate.limits import check_figures, gate_findings
from edgeloc.converters.gate.report import trial_lines
from edgeloc.converters.quantization.quantize import Recipe, recipe
from edgeloc.errors import EngineError, ModelError, UsageError
from edgeloc.evaluation.figures import Row, regression_figures
from edgeloc.types import Box

NAMES = ("int8", "float16", "float32")


def report_of(drop: float) -> GateReport:
    truth = Box(0, 0, 40, 40)
    rows = [
        Row(f"{i}", "object", 200, 100, None, None, "medium", truth, truth, truth, 0.9, 0.9 - drop, 1 - drop,
            0.9, 0.9, None, None)
        for i in range(60)
    ]  # fmt: skip
    regression = regression_figures(rows, threshold_float=0.5, threshold_quantized=0.5)
    limits = GateLimits()
    found = check_figures(regression, limits)
    fit = fit_presence(rows, 0.5, 0.5)
    findings = gate_findings(regression, found, limits)
    return GateReport("data", "val", (), limits, regression, fit, regression.presence, found, findings)


class Trials:
    """Made models by recipe, and the drop that the gate finds in each; remembers what was made."""

    def __init__(self, models: Path, drops: dict[str, float]) -> None:
        self._bytes = {name: (models / f"{name}.tflite").read_bytes() for name in NAMES}
        self._drops = {self._bytes[name]: drop for name, drop in drops.items()}
        self.made: list[str] = []

    def make(self, wanted: Recipe) -> bytes:
        self.made.append(wanted.name)
        return self._bytes[wanted.name]

    def judge(self, flatbuffer: bytes) -> GateReport:
        return report_of(self._drops[flatbuffer])

    def choose(self, make: Callable[[Recipe], bytes] | None = None) -> Choice:
        return choose_recipe([recipe(name) for name in NAMES], make or self.make, self.judge)


def test_the_first_that_passes_is_kept_and_dearer_ones_are_not_tried(tiny_models: Path) -> None:
    trials = Trials(tiny_models, {"int8": 0.02, "float16": 0.001, "float32": 0.0})
    choice = trials.choose()
    assert choice.recipe.name == "float16"
    assert choice.flatbuffer == (tiny_models / "float16.tflite").read_bytes()
    assert choice.report.passed
    assert trials.made == ["int8", "float16"]


def test_the_table_shows_every_candidate(tiny_models: Path) -> None:
    trials = Trials(tiny_models, {"int8": 0.02, "float16": 0.001, "float32": 0.0})
    head, int8, float16, float32 = trial_lines(trials.choose().trials)
    assert "mean IoU drop" in head
    assert "0.0200" in int8 and "int8 (full integer)" in int8 and "failed: mean IoU" in int8
    assert "0.0010" in float16 and "float16 weights" in float16 and "kept" in float16
    assert "not tried" in float32


def test_precision_is_read_from_the_model_not_from_the_recipe(tiny_models: Path) -> None:
    island = (tiny_models / "island.tflite").read_bytes()
    choice = choose_recipe([recipe("int8")], lambda _: island, lambda _: report_of(0.0))
    assert choice.trials[0].precision == "mixed: float island"


def test_none_passes(tiny_models: Path) -> None:
    trials = Trials(tiny_models, {"int8": 0.02, "float16": 0.03, "float32": 0.04})
    with pytest.raises(GateRefused, match="none of the recipes int8, float16, float32") as failed:
        trials.choose()
    assert failed.value.exit_status == 1
    assert len(trial_lines(failed.value.trials)) == 4  # the table can be shown all the same
    assert failed.value.report is not None and not failed.value.report.passed
    assert failed.value.report.failed_options == ("max_iou_drop", "max_iou_drop_by_size")
    assert str(failed.value).endswith("move the limit with max_iou_drop and max_iou_drop_by_size")


def test_where_no_recipe_gives_a_model_no_limit_is_named(tiny_models: Path) -> None:
    def make(wanted: Recipe) -> bytes:
        raise ModelError("TFLite has no integer operator SIN")

    with pytest.raises(GateRefused, match="calibrate on images like those of the camera$") as failed:
        Trials(tiny_models, {}).choose(make)
    assert failed.value.report is None


def test_a_recipe_that_gives_no_model_is_passed_over_with_its_reason(tiny_models: Path) -> None:
    trials = Trials(tiny_models, {"int8": 0.0, "float16": 0.0, "float32": 0.0})

    def make(wanted: Recipe) -> bytes:
        if wanted.name == "int8":
            raise ModelError("TFLite has no integer operator SIN")
        return trials.make(wanted)

    choice = trials.choose(make)
    assert choice.recipe.name == "float16"
    assert "no integer operator SIN" in trial_lines(choice.trials)[1]


def test_an_engine_that_fails_is_no_verdict_on_a_recipe(tiny_models: Path) -> None:
    def judge(flatbuffer: bytes) -> GateReport:
        raise EngineError("no inference engine is installed")

    with pytest.raises(EngineError):
        choose_recipe([recipe("float32")], lambda _: (tiny_models / "float32.tflite").read_bytes(), judge)


def test_there_must_be_a_candidate() -> None:
    with pytest.raises(UsageError, match="name one with recipe"):
        choose_recipe([], lambda _: b"", lambda _: report_of(0.0))


def test_candidates_keep_their_order_whatever_they_are(tiny_models: Path) -> None:
    trials = Trials(tiny_models, {"int8": 0.0, "float16": 0.0, "float32": 0.0})
    choice = choose_recipe([recipe("float32"), recipe("int8")], trials.make, trials.judge)
    assert choice.recipe.name == "float32"
    assert [trial.recipe.name for trial in choice.trials] == ["float32", "int8"]
