"""The report page: everything is in it, it refers to nothing outside, and it shows what went wrong."""

from __future__ import annotations

import dataclasses
import html.parser
import re
from pathlib import Path

import pytest

from edgeloc.benchmarks.report import render_report, write_report
from edgeloc.benchmarks.result import BenchResult
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
    assert page.count("<svg") == 5
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
    assert page.count("<svg") == 2
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
