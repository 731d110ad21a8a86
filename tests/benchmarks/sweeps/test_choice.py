"""What a sweep recommends, and the reason that it gives."""

from __future__ import annotations

from edgeloc.benchmarks.sweeps.choice import SweepRow, choose, with_front


def row(name: str, p50_ms: float, quality: float | None, threads: int = 1) -> SweepRow:
    file = f"{name}-{threads}.json"
    return SweepRow(f"{name}.tflite", "int8", "32x32", 1, "litert", threads, p50_ms, p50_ms, quality, None, None, file)


ROWS = (row("large", 9.0, 0.80), row("small", 4.0, 0.795), row("tiny", 2.0, 0.70))


def test_the_front_is_what_no_other_is_both_faster_and_better_than() -> None:
    rows = with_front([*ROWS, row("slow", 12.0, 0.79), row("unknown", 1.0, None)])
    assert [one.model for one in rows if one.on_front] == ["tiny.tflite", "small.tflite", "large.tflite"]
    assert [one.p50_ms for one in rows] == [1.0, 2.0, 4.0, 9.0, 12.0]


def test_the_fastest_near_the_best_is_taken() -> None:
    choice = choose(ROWS, "mean IoU", 0.01, None)
    assert choice.row == ROWS[1]
    assert choice.sentence == (
        "Take small.tflite on litert with 1 thread: 4.00 ms a frame (median) at a mean IoU of 0.795, the fastest of "
        "the 2 within 0.01 of the best mean IoU (0.800, large.tflite on litert with 1 thread)."
    )
    assert choose(ROWS, "mean IoU", 0.001, None).row == ROWS[0]
    assert choose(ROWS, "mean IoU", 0.2, None).row == ROWS[2]


def test_a_latency_limit_comes_before_quality() -> None:
    choice = choose(ROWS, "mAP", 0.01, 3.0)
    assert choice.row == ROWS[2] and "of those within 3 ms" in choice.sentence
    none = choose(ROWS, "mAP", 0.01, 1.0)
    assert none.sentence == "None answers within 1 ms: the fastest is tiny.tflite on litert with 1 thread, 2.00 ms."


def test_more_threads_are_not_worth_what_noise_may_be() -> None:
    rows = [row("one", 4.0, 0.8, threads=1), row("one", 3.95, 0.8, threads=2), row("one", 3.9, 0.8, threads=4)]
    choice = choose(rows, "mean IoU", 0.01, None)
    assert choice.row == rows[0] and choice.sentence.endswith("; 4 threads gain less than 3 %.")
    assert choose([*rows, row("one", 2.0, 0.8, threads=8)], "mean IoU", 0.01, None).row != rows[0]


def test_without_quality_the_fastest_is_taken_and_that_is_said() -> None:
    choice = choose([row("a", 2.0, None), row("b", 1.0, None)], None, 0.01, None)
    assert choice.row is not None and choice.row.model == "b.tflite"
    assert "quality was not measured" in choice.sentence
    assert choose([], None, 0.01, None).sentence == "Nothing was measured."
