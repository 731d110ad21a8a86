"""The report page: everything is in it, it refers to nothing outside, and it shows what went wrong."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgeloc.benchmarks.report import render_report, write_report
from edgeloc.benchmarks.result import BenchResult, StageLatency, write_result
from edgeloc.errors import DataError
from edgeloc.findings import Finding

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture
def page(bench_result: BenchResult) -> str:
    return render_report(bench_result)


def test_it_refers_to_nothing_outside_itself(page: str) -> None:
    assert not re.search(r"https?:|//\w|@import|<link|<script|xmlns", re.sub(r"data:image/\w+;base64,[^\"]*", "", page))


def test_it_has_every_plot_and_closes_every_element(page: str) -> None:
    assert page.count("<svg") == 6
    assert _unclosed(page) == []


def _unclosed(page: str) -> list[str]:
    void = {"meta", "img", "br", "path", "use", "image"}

    class Parser(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in void:
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            if tag not in void:
                assert self.open.pop() == tag

    parser = Parser()
    parser.feed(page)
    return parser.open


def test_no_two_elements_share_an_id(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_plots_take_the_page_s_text_colour(page: str) -> None:
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page


def test_the_worst_images_stand_side_by_side(page: str, bench_result: BenchResult) -> None:
    assert bench_result.regression is not None
    assert page.count("data:image/jpeg") == 2 * len(bench_result.regression.worst)
    assert "images/11.jpg" in page


def test_figures_and_findings_are_shown(page: str) -> None:
    for text in ("700 kB", "3.6 times smaller", "the machine was busy", "one row left out", "Board X", "groups"):
        assert text in page


@pytest.mark.parametrize(
    ("precision", "ratio", "words"),
    [
        ("float32", 3.571, "3.6 times smaller than float"),
        ("int8", 1.01, "as large as the int8 model"),
        ("int8", 0.5, "2.0 times larger than the int8 model"),
        ("int8", None, ""),
    ],
)
def test_the_size_is_compared_with_what_the_other_model_is(
    bench_result: BenchResult, precision: str, ratio: float | None, words: str
) -> None:
    assert bench_result.against is not None
    against = dataclasses.replace(bench_result.against, precision=precision)
    assert dataclasses.replace(bench_result, against=against, size_ratio=ratio).size_comparison == words


def test_names_are_escaped(bench_result: BenchResult) -> None:
    changed = dataclasses.replace(
        bench_result, findings=(Finding("labels-differ", "warning", "<script>alert(1)</script>"),)
    )
    assert "<script>" not in render_report(changed)


def test_an_interrupted_measurement_says_so(bench_result: BenchResult) -> None:
    assert "interrupted" in render_report(dataclasses.replace(bench_result, complete=False))


def test_latency_alone(bench_result: BenchResult) -> None:
    page = render_report(dataclasses.replace(bench_result, regression=None, against=None, data=None, size_ratio=None))
    assert page.count("<svg") == 3
    assert "Worst images" not in page


def test_same_result_same_page(page: str, bench_result: BenchResult) -> None:
    assert render_report(bench_result) == page


@pytest.mark.parametrize("content", ["AAAA", "AAA", "\u00e4", ""])
def test_a_damaged_preview_is_named(bench_result: BenchResult, content: str) -> None:
    regression = bench_result.regression
    assert regression is not None
    worst = (dataclasses.replace(regression.worst[0], preview=f"data:image/jpeg;base64,{content}"),)
    broken = dataclasses.replace(bench_result, regression=dataclasses.replace(regression, worst=worst))
    with pytest.raises(DataError, match=r"preview of images/11\.jpg"):
        render_report(broken)


def test_the_file_appears_whole(tmp_path: Path, bench_result: BenchResult) -> None:
    write_report(tmp_path / "report.html", bench_result)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


class _Cells(html.parser.HTMLParser):
    """Every figure that names its place in the result: (place, text), and the rows of all tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.figures: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._key: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self._key = dict(attrs).get("data-key")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data
        if self._key:
            self.figures.append((self._key, data))

    def handle_endtag(self, tag: str) -> None:
        self._key = None


def _says(text: str, value: Any) -> bool:
    """Whether a cell's text is the value, as far as its last digit goes."""
    if isinstance(value, str):
        return text == value
    if isinstance(value, list):
        return all(_says(part, one) for part, one in zip(text.split(" to "), value, strict=True))
    number = re.match(r"-?\d+(\.(\d+))?", text)
    assert number, text
    scale = {"kB": 1e3, "MB": 1e6}.get(text.split()[-1], 1.0)
    return bool(abs(float(number[0]) * scale - value) <= 0.5001 * scale * 10 ** -len(number[2] or ""))


def _at(data: Any, key: str) -> Any:
    for name in key.split("."):
        data = data[name]
    return data


def test_every_figure_is_the_file_s(measured: BenchResult, tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", measured)
    data = json.loads((tmp_path / "r.json").read_text())
    shown = _Cells(render_report(measured)).figures
    wrong = [(key, text, _at(data, key)) for key, text in shown if not _says(text, _at(data, key))]
    assert wrong == []
    wanted = {
        "latency.localize.p50_ms", "latency.invoke.p99_ms", "latency_against.localize.p50_ms", "model.bytes",
        "regression.mean_iou_drop", "regression.by_size.medium.mean_iou_quantized", "energy.per_frame_mj",
        "regression.by_class.bolt.mean_iou_float", "regression.presence.recall_quantized", "memory.peak_mib",
    }  # fmt: skip
    assert wanted <= {key for key, _ in shown}


def test_every_column_shows_its_own_file(boards: list[BenchResult], tmp_path: Path) -> None:
    rows = {row[0]: row[1:] for row in reversed(_Cells(render_report(*boards)).rows) if len(row) == 4}
    assert rows[""] == [board.environment.board for board in boards]
    assert rows["frame, p50 ms"] == [f"{board.latency['localize'].p50_ms:.3f}" for board in boards]
    assert rows["invoke, p99"] == [f"{board.latency['invoke'].p99_ms:.3f}" for board in boards]
    assert rows["comparable"] == ["yes", "yes", "no: machine busy"]
    assert rows["recipe"] == ["int8"] * 3


def test_the_headline_does_not_depend_on_where_frames_come_from(measured: BenchResult) -> None:
    slow = {**measured.latency, "capture": _times(measured.latency["capture"], 100)}
    slow["total"] = _times(slow["total"], 100)
    other = render_report(dataclasses.replace(measured, latency=slow))
    title = re.compile(r"<h1>(.*)</h1>")
    assert title.findall(other) == title.findall(render_report(measured))
    headline = title.findall(other)[0]
    spent, against, beside = (
        part["localize"].p50_ms for part in (measured.latency, measured.latency_against, measured.latency_beside)
    )
    assert headline.startswith(f"{spent:.2f} ms a frame on Board X, {against / beside:.1f} times as fast as float")


def _times(stage: StageLatency, factor: float) -> StageLatency:
    values = {
        name: getattr(stage, name) * factor for name in ("mean_ms", "min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
    }
    return dataclasses.replace(stage, **values, samples_ms=tuple(factor * one for one in stage.samples_ms))


def test_the_fastest_is_one_that_can_be_compared(boards: list[BenchResult]) -> None:
    slowest, fastest = boards[2], boards[0]
    busy = dataclasses.replace(slowest, latency=fastest.latency)
    page = render_report(fastest, boards[1], busy)
    assert re.search(r"<h1>From [\d.]+ ms a frame on Raspberry Pi 5 .* to [\d.]+ ms on Raspberry Pi Zero", page)
    assert "Jetson Orin Nano Developer Kit: Not comparable" in page


def test_results_of_one_board_are_told_apart(measured: BenchResult) -> None:
    other = dataclasses.replace(measured, model=dataclasses.replace(measured.model, precision="float32"))
    assert "Board X, float32" in render_report(measured, other)
    assert "Board X (2)" in render_report(measured, measured)


def test_markdown_has_the_words_and_tables_and_no_markup(measured: BenchResult, tmp_path: Path) -> None:
    strange = dataclasses.replace(measured, findings=(Finding("labels-differ", "warning", "<b> | *x*"),))
    write_report(tmp_path / "r.md", strange)
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("# ") and "<svg" not in text and "\\<b\\> \\| \\*x\\*" in text
    assert f"| invoke | {measured.latency['invoke'].p50_ms:.3f} |" in text
    assert "```sh\nedgeloc bench m.tflite --against f.tflite\n```" in text
    tables = re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE)
    assert tables and all(len({line.count(" | ") for line in table.splitlines()[1:]}) == 1 for table in tables)
