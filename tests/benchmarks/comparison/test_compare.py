"""Two results side by side: what is worse is found, what is alike is not, and what cannot be compared is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgeloc.benchmarks import BenchResult, CompareLimits, Comparison, compare
from edgeloc.benchmarks.comparison.quality import answers_of
from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.result import DataInfo, LatencyRun, StageLatency
from edgeloc.benchmarks.scenarios.stopping import Scenario
from edgeloc.errors import DataError, UsageError
from edgeloc.evaluation.accuracy import accuracy_figures
from edgeloc.evaluation.detection import DetectionRow, Found, detection_figures
from edgeloc.evaluation.figures import regression_figures
from edgeloc.types import Box, LabelledBox

Timed = Callable[..., BenchResult]
Stage = Callable[[Sequence[float]], StageLatency]


def figure(comparison: Comparison, name: str) -> Any:
    return next(change for change in comparison.changes if change.name == name)


def test_twice_the_same_is_no_regression(timed: Timed) -> None:
    for seed in range(20):
        pair = timed(seed, regression=None), timed(100 + seed, regression=None)
        assert compare(*pair).regressions == (), seed
    comparison = compare(timed(0), timed(1))
    assert figure(comparison, "mean IoU").verdict == "ok" and comparison.regressions == ()
    assert comparison.lost == ()


def test_a_model_slower_by_a_tenth_is_found_with_its_stages(timed: Timed) -> None:
    comparison = compare(timed(0), timed(1, slower=1.1))
    assert comparison.verdict == "regression"
    assert {change.name for change in comparison.regressions} == {"localize p50", "localize p90"}
    frame, invoke = figure(comparison, "localize p50"), figure(comparison, "invoke p50")
    assert frame.before == pytest.approx(10, rel=0.01) and frame.after == pytest.approx(11, rel=0.01)
    assert frame.change == pytest.approx(0.1, abs=0.01) and 0 < frame.ci95[0] < 0.1 < frame.ci95[1]
    assert invoke.verdict == "no limit" and invoke.change == pytest.approx(0.1, abs=0.01)
    assert compare(timed(0), timed(1, slower=1.1), CompareLimits(max_latency_increase=0.2)).verdict == "ok"
    assert compare(timed(0), timed(1, slower=0.8)).regressions == ()


def test_capture_and_drawing_do_not_count(timed: Timed, make_stage: Stage) -> None:
    base, new = timed(0), timed(1)
    slow = {name: new.latency[name] for name in new.latency}
    slow["capture"] = make_stage([9.0] * 300)
    slow["total"] = make_stage([20.0] * 300)
    assert compare(base, dataclasses.replace(new, latency=slow)).regressions == ()


def test_mean_iou_lower_by_a_hundredth_is_found_pairwise(timed: Timed) -> None:
    # A box of 50 pixels that is off by 3 has an IoU of 0.887; 0.3 pixels more cost 0.0106.
    comparison = compare(timed(0), timed(1, shift=0.3))
    assert [change.name for change in comparison.regressions] == ["mean IoU"]
    iou = figure(comparison, "mean IoU")
    assert -0.0125 < iou.ci95[0] < iou.change < iou.ci95[1] < -0.0085
    assert iou.change == pytest.approx(iou.after - iou.before)
    assert "60 images, paired, by group" in iou.basis
    assert len(comparison.lost) == 3 and comparison.lost[0].iou_after < comparison.lost[0].iou_before
    assert compare(timed(0), timed(1, shift=0.3), CompareLimits(max_iou_drop=0.02)).regressions == ()
    assert compare(timed(1, shift=0.3), timed(0)).regressions == ()


def test_objects_no_longer_found_and_new_false_alarms_are_found(timed: Timed) -> None:
    base, new = timed(0), timed(0)
    assert new.regression is not None
    empty = [dataclasses.replace(row, kind="empty", truth=None) for row in new.regression.rows]
    quiet = [dataclasses.replace(row, name=f"e{row.name}", presence_quantized=0.1) for row in empty]
    loud = [dataclasses.replace(row, presence_quantized=0.9) for row in quiet]
    lost = [
        dataclasses.replace(row, presence_quantized=0.2 if number % 3 else 0.8, label_quantized="nut")
        for number, row in enumerate(new.regression.rows)
    ]
    first, second = (
        dataclasses.replace(one, regression=dataclasses.replace(new.regression, rows=tuple(rows)))
        for one, rows in ((base, [*new.regression.rows, *quiet]), (new, [*lost, *loud]))
    )
    found = {change.name: change.change for change in compare(first, second).regressions}
    assert found == pytest.approx({"objects found": -2 / 3, "false alarms": 1.0, "right classes": -1.0})


def test_a_model_alone_meets_one_with_a_float_model(timed: Timed) -> None:
    """Without --against the model's own rows are elsewhere in the file, and mean the same."""
    base, new = timed(0), timed(1, shift=0.3)
    assert new.regression is not None
    answers = answers_of([new])
    assert answers is not None
    alone = dataclasses.replace(new, regression=None, accuracy=accuracy_figures(answers.rows, threshold=0.5))
    assert compare(base, alone).changes == compare(base, new).changes


def test_a_larger_file_is_found_exactly(timed: Timed) -> None:
    base, new = timed(0), timed(0)
    new = dataclasses.replace(new, model=dataclasses.replace(new.model, bytes=750_000, sha256="ef" * 32))
    (size,) = compare(base, new).regressions
    assert (size.name, size.before, size.after, size.option) == ("model file", 700_000, 750_000, "max_size_increase")
    assert compare(base, new).differences == {"model": ("m.tflite (abababababab)", "m.tflite (efefefefefef)")}


def energy(frame_mj: float, inference_mj: float, spread: float = 0.02, **changes: Any) -> Energy:
    spreads = spread * frame_mj, spread * inference_mj
    values = {"per_frame_mj": frame_mj, "per_frame_uncertainty_mj": spreads[0]}
    values |= {"per_inference_mj": inference_mj, "per_inference_uncertainty_mj": spreads[1]}
    return Energy(**{"status": "measured", "source": "ina219 at 0x40", **values, **changes})


def test_energy_counts_where_both_have_it_of_one_meter(timed: Timed) -> None:
    base = timed(0, energy=energy(20, 15))
    found = compare(base, timed(1, energy=energy(24, 15.1))).regressions
    assert [change.name for change in found] == ["energy of frame"]
    assert compare(base, timed(1, energy=energy(24, 15, spread=0.4))).regressions == ()
    other = compare(base, timed(1, energy=energy(24, 15, source="csv")))
    assert not any("energy" in change.name for change in other.changes)
    assert "power meter" in other.differences
    assert compare(base, timed(1)).only_in == {"energy": "base"}


@pytest.mark.parametrize("net", [energy(-0.3, -0.2), energy(0.001, 0.001, spread=2000.0)])
def test_an_energy_that_its_uncertainty_hides_is_undecided(timed: Timed, net: Any) -> None:
    found = figure(compare(timed(0, energy=net), timed(1, energy=energy(24, 15))), "energy of frame")
    assert (found.verdict, found.ci95) == ("undecided", None)


def test_repeats_of_a_side_show_how_much_runs_differ(timed: Timed) -> None:
    calm = [timed(seed) for seed in range(3)], [timed(10 + seed, slower=1.08) for seed in range(3)]
    comparison = compare(*calm)
    assert comparison.runs == (3, 3) and figure(comparison, "localize p50").verdict == "regression"
    wild = [timed(seed, slower=factor) for seed, factor in enumerate((0.9, 1.0, 1.1))]
    later = [timed(9 + seed, slower=factor) for seed, factor in enumerate((0.97, 1.08, 1.19))]
    assert figure(compare(wild, later), "localize p50").verdict == "undecided"
    with pytest.raises(DataError, match="base side are of different models"):
        compare([timed(0), dataclasses.replace(timed(1), model=dataclasses.replace(timed(1).model, sha256="0"))], later)


def scenario(name: Any) -> Scenario:
    return Scenario(name, 10, 0.0, None)


def busy(result: BenchResult) -> BenchResult:
    return dataclasses.replace(result, environment=dataclasses.replace(result.environment, load_1min=9.0))


def elsewhere(result: BenchResult) -> BenchResult:
    return dataclasses.replace(result, environment=dataclasses.replace(result.environment, board="Board Z"))


def smaller_frames(result: BenchResult) -> BenchResult:
    run = LatencyRun("scenes", "copying a frame", 300, 3, ((320, 240),), "litert", "2.3.0", None)
    return dataclasses.replace(result, latency_run=run)


def other_data(result: BenchResult) -> BenchResult:
    data = DataInfo("data", "data", "val", ("bolt",), (), 60, 60, 0, sha256="99" * 32)
    return dataclasses.replace(result, data=data)


def fewer_images(result: BenchResult) -> BenchResult:
    assert result.regression is not None
    figures = regression_figures(result.regression.rows[:40], threshold_float=0.5, threshold_quantized=0.5)
    return dataclasses.replace(result, regression=figures)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (busy, "machine-busy", "the new result: the machine was busy"),
        (elsewhere, "other-machine", "the machine is not the same: Board X in the base, Board Z in the new result"),
        (smaller_frames, "other-frames", "the size of frames is not the same: 640x480 in the base, 320x240"),
        (other_data, "other-data", "the labelled images are not the same"),
        (fewer_images, "other-data", r"are not the same \(60 in the base, 40 in the new result\)"),
        (
            lambda result: dataclasses.replace(result, scenario=scenario("sustained")),
            "other-scenario",
            "the scenario is not the same: single-stream in the base, sustained in the new result",
        ),
        (lambda result: dataclasses.replace(result, complete=False), "measurement-interrupted", "was interrupted"),
    ],
)
def test_what_cannot_be_compared_is_refused_unless_told(timed: Timed, change: Any, code: str, says: str) -> None:
    base = timed(0)
    if change is other_data:
        base = dataclasses.replace(base, data=dataclasses.replace(other_data(base).data, sha256="11" * 32))
    new = change(timed(1))
    with pytest.raises(DataError, match=f"not comparable: .*{says}.*give anyway"):
        compare(base, new)
    comparison = compare(base, new, anyway=True)
    assert [finding.code for finding in comparison.findings] == [code]
    assert figure(comparison, "mean IoU").verdict == "ok"


def test_other_images_are_two_samples(timed: Timed) -> None:
    base, new = timed(0), timed(1, shift=6)
    assert new.regression is not None
    rows = [dataclasses.replace(row, name=f"other-{row.name}") for row in new.regression.rows]
    figures = regression_figures(rows, threshold_float=0.5, threshold_quantized=0.5)
    comparison = compare(base, dataclasses.replace(new, regression=figures), anyway=True)
    iou = figure(comparison, "mean IoU")
    assert iou.verdict == "regression" and iou.basis == "60 and 60 other images"
    paired = figure(compare(base, new), "mean IoU")
    assert iou.change == pytest.approx(paired.change)
    assert iou.ci95[1] - iou.ci95[0] > paired.ci95[1] - paired.ci95[0]


def test_a_stream_is_compared_by_age_and_a_cold_start_by_process(timed: Timed, make_stage: Stage) -> None:
    ages = [timed(seed, slower, scenario=scenario("stream")) for seed, slower in ((0, 1.0), (1, 1.1))]
    found = compare(*ages)
    assert figure(found, "frame age p50").before == pytest.approx(13.5, rel=0.01)
    assert {change.name for change in found.regressions} == {"frame age p50", "frame age p90"}

    def started(total_ms: float) -> BenchResult:
        samples = [total_ms * (1 + 0.01 * (number % 3)) for number in range(6)]
        latency = {"load": make_stage([10.0 + number for number in range(6)]), "total": make_stage(samples)}
        return timed(0, scenario=scenario("cold-start"), latency=latency, latency_run=None)

    assert [change.name for change in compare(started(300), started(345)).regressions] == ["cold start"]
    assert compare(started(300), started(303)).regressions == ()


def detector(result: BenchResult, off: float, score: float = 0.9) -> BenchResult:
    """Two objects in each of 30 images, found with boxes that are off by some of 40 pixels."""
    truth = (LabelledBox(Box(10, 10, 50, 50), "nut"), LabelledBox(Box(60, 10, 100, 50), "bolt"))
    rows = []
    for number in range(30):
        by = off * (1 + number % 3)
        found = tuple(
            Found(Box(box.x1 + by, box.y1, box.x2 + by, box.y2), score - number / 1000, label) for box, label in truth
        )
        rows.append(DetectionRow(f"{number}.png", f"clip{number // 3}", 120, 60, truth, found, found))
    return dataclasses.replace(result, regression=None, detection=detection_figures(rows, 0.5, 0.5))


def test_a_detector_is_compared_by_average_precision(timed: Timed) -> None:
    pytest.importorskip("pycocotools")
    base = detector(timed(0), 1.0)
    assert compare(base, detector(timed(1), 1.0)).regressions == ()
    worse = compare(base, detector(timed(1), 2.5))
    assert [change.name for change in worse.regressions] == ["average precision"]
    assert "30 images, paired, by group" in figure(worse, "average precision").basis
    unsure = compare(base, detector(timed(1), 1.0, score=0.4))
    assert [change.name for change in unsure.regressions] == ["objects found"]
    assert figure(unsure, "objects found").change == -1


def test_a_localizer_and_a_detector_have_no_accuracy_in_common(timed: Timed) -> None:
    pytest.importorskip("pycocotools")
    comparison = compare(timed(0), detector(timed(1), 1.0), anyway=True)
    assert figure(comparison, "localize p50") and not any("IoU" in change.name for change in comparison.changes)


def test_a_few_frames_decide_nothing(timed: Timed, make_stage: Stage) -> None:
    short = [
        dataclasses.replace(
            one, latency={name: make_stage(entry.samples_ms[:5]) for name, entry in one.latency.items()}
        )
        for one in (timed(0), timed(1, slower=2))
    ]
    comparison = compare(*short)
    assert comparison.verdict == "undecided" and figure(comparison, "localize p50").ci95 is None


def test_a_few_images_decide_nothing(timed: Timed) -> None:
    def of(images: int, result: BenchResult) -> BenchResult:
        assert result.regression is not None
        rows = [row for row in result.regression.rows if row.kind == "object"][:images]
        return dataclasses.replace(
            result, regression=regression_figures(rows, threshold_float=0.5, threshold_quantized=0.5)
        )

    few = figure(compare(of(9, timed(0)), of(9, timed(1, shift=6))), "mean IoU")
    assert (few.verdict, few.ci95) == ("undecided", None) and few.change < -0.05
    assert figure(compare(of(10, timed(0)), of(10, timed(1, shift=6))), "mean IoU").verdict == "regression"


def test_a_few_images_of_a_detector_decide_nothing(timed: Timed) -> None:
    pytest.importorskip("pycocotools")

    def few(result: BenchResult) -> BenchResult:
        assert result.detection is not None
        return dataclasses.replace(result, detection=detection_figures(result.detection.rows[:9], 0.5, 0.5))

    comparison = compare(few(detector(timed(0), 1.0)), few(detector(timed(1), 2.5, score=0.4)))
    found = {name: figure(comparison, name).verdict for name in ("average precision", "objects found")}
    assert found == {"average precision": "undecided", "objects found": "undecided"}


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_limit_that_is_none(value: float) -> None:
    with pytest.raises(UsageError, match="max_iou_drop is .*: it must be at least 0"):
        CompareLimits(max_iou_drop=value)


def test_a_number_that_is_none_decides_nothing(timed: Timed) -> None:
    new = timed(1)
    assert new.regression is not None
    rows = (dataclasses.replace(new.regression.rows[0], iou_quantized=float("nan")), *new.regression.rows[1:])
    damaged = dataclasses.replace(new, regression=dataclasses.replace(new.regression, rows=rows))
    assert figure(compare(timed(0), damaged), "mean IoU").verdict == "undecided"
