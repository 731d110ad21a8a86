"""Report and public table in a real browser: on a phone, on a desk and on paper, without errors or outside requests."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeloc.benchmarks.publish import publish
from edgeloc.benchmarks.report import write_report
from edgeloc.benchmarks.result import BenchResult, write_result
from edgeloc.cli import main
from edgeloc.evaluation.detection import DetectionRow, Found, detection_figures
from edgeloc.models import SHIPPED_INT8
from edgeloc.types import Box, LabelledBox

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

PHONE, DESK, A4 = 390, 1200, 688  # CSS pixels; of A4, within margins of 14 mm
_SMALLEST = 9  # pixels, of text

# What sticks out of the page, what is cut, and the height in pixels of the smallest text, that of plots too.
_LOOK = """
const wide = document.documentElement.clientWidth, out = [], cut = [];
for (const one of document.querySelectorAll("body *")) {
  const box = one.getBoundingClientRect();
  if (box.width && (box.right > wide + 1 || box.left < -1)) out.push(one.tagName + " " + one.textContent.slice(0, 40));
  if (!one.closest("svg") && one.clientWidth && one.scrollWidth > one.clientWidth + 1)
    cut.push(one.tagName + " " + one.textContent.slice(0, 40));
}
const size = (one) => parseFloat(getComputedStyle(one).fontSize);
const plots = document.querySelectorAll("svg").length;
const scale = (one) => one.getScreenCTM ? Math.hypot(one.getScreenCTM().c, one.getScreenCTM().d) : 1;
const texts = [...document.querySelectorAll("svg text, th, td, p, span, figcaption, pre")];
return {inside: innerWidth, wide: document.documentElement.scrollWidth, out, cut, plots,
        smallest: Math.min(...texts.map((one) => size(one) * scale(one)))};
"""


@pytest.fixture
def look(chromium: Any) -> Iterator[Callable[..., dict[str, Any]]]:
    """Opens a file at a width, on screen or on paper; the page must have loaded without a word or a request."""

    def open_at(path: Path, width: int, media: str = "") -> dict[str, Any]:
        view = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
        _asked(chromium)
        chromium.get(path.as_uri())
        assert chromium.get_log("browser") == []
        assert [one for one in _asked(chromium) if not one.startswith("data:")] == [path.as_uri()]
        seen: dict[str, Any] = chromium.execute_script(_LOOK)
        return seen

    yield open_at
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    phone = {"width": PHONE, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    chromium.get("about:blank")


def _asked(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    return [one for one in asked if not one.startswith("chrome")]


def _fits(seen: dict[str, Any]) -> None:
    assert (seen["out"], seen["cut"]) == ([], [])
    assert seen["wide"] <= seen["inside"]
    assert seen["smallest"] >= _SMALLEST


@pytest.fixture
def detector(measured: BenchResult) -> BenchResult:
    """A detector's result, with a class of a long name."""
    truth = (
        LabelledBox(Box(10, 10, 50, 50), "a_class_with_a_very_long_name"),
        LabelledBox(Box(60, 10, 90, 40), "bolt"),
    )
    found = tuple(Found(box, 0.9, label) for box, label in truth)
    rows = [
        DetectionRow("whole.png", "a", 100, 100, truth, found, found),
        DetectionRow("half.png", "b", 100, 100, truth, found, found[:1]),
    ]
    pytest.importorskip("pycocotools")
    return dataclasses.replace(measured, regression=None, detection=detection_figures(rows, 0.5, 0.5))


@pytest.mark.parametrize(("width", "media"), [(PHONE, ""), (DESK, ""), (A4, "print")])
def test_one_result_and_three_boards_fit(
    look: Callable[..., dict[str, Any]],
    measured: BenchResult,
    detector: BenchResult,
    boards: list[BenchResult],
    tmp_path: Path,
    width: int,
    media: str,
) -> None:
    for name, results, plots in (("one", [measured], 8), ("boards", boards, 6), ("detector", [detector], 6)):
        write_report(tmp_path / f"{name}.html", *results)
        seen = look(tmp_path / f"{name}.html", width, media)
        _fits(seen)
        assert seen["plots"] == plots


def test_many_results_fit_too(look: Callable[..., dict[str, Any]], boards: list[BenchResult], tmp_path: Path) -> None:
    write_report(tmp_path / "many.html", *boards, *boards, *boards)
    for width, media in ((PHONE, ""), (DESK, ""), (A4, "print")):
        _fits(look(tmp_path / "many.html", width, media))


def test_it_prints(
    chromium: Any, look: Callable[..., dict[str, Any]], boards: list[BenchResult], tmp_path: Path
) -> None:
    write_report(tmp_path / "boards.html", *boards)
    look(tmp_path / "boards.html", A4, "print")
    printed = chromium.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": False})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 2
    # A4 upright, in points: the page is not scaled down to fit something wide.
    assert b"/MediaBox [0 0 594.95996 841.91998]" in pdf or b"/MediaBox [0 0 595" in pdf


def test_a_real_run_on_a_phone(look: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result, page = tmp_path / "r.json", tmp_path / "r.html"
    assert main(["bench", str(SHIPPED_INT8), "--frames", "10", "--warmup", "2", "--out", str(result)]) == 0
    assert main(["report", str(result), "--out", str(page)]) == 0
    _fits(look(page, PHONE))


@pytest.mark.parametrize(("width", "media"), [(PHONE, ""), (DESK, ""), (A4, "print")])
def test_the_public_table_fits_and_sorts(
    chromium: Any,
    look: Callable[..., dict[str, Any]],
    boards: list[BenchResult],
    tmp_path: Path,
    width: int,
    media: str,
) -> None:
    for number, board in enumerate(boards):
        write_result(tmp_path / "results" / f"{number}.json", board)
    publish([tmp_path / "results"], tmp_path / "site")
    _fits(look(tmp_path / "site" / "index.html", width, media))
    chromium.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    _fits(chromium.execute_script(_LOOK))
    if media:
        return
    head = "document.querySelector('.results').tHead.rows[0].cells[4]"
    shown = "return [...document.querySelectorAll('.result')].map((row) => parseFloat(row.cells[4].textContent))"
    times = sorted(round(board.latency["localize"].p50_ms, 3) for board in boards)
    for wanted in (times, times[::-1]):
        chromium.execute_script(f"{head}.querySelector('button').click()")
        assert chromium.execute_script(shown) == wanted
    assert chromium.execute_script(f"return {head}.getAttribute('aria-sort')") == "descending"
