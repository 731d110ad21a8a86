"""`edgeloc publish`: every result is a row with its own file, and the page is there whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgeloc.benchmarks import publish as publishing
from edgeloc.benchmarks.publish import publish
from edgeloc.benchmarks.result import BenchResult, write_result
from edgeloc.cli import main
from edgeloc.errors import DataError, OutputError, UsageError

pytest.importorskip("jinja2")


@pytest.fixture
def results(boards: list[BenchResult], tmp_path: Path) -> Path:
    """A folder with three boards' results, one of them interrupted, in folders of their own."""
    folder = tmp_path / "results"
    names = ("pi-5", "zero 2", "orin")
    for name, board in zip(names, boards, strict=True):
        write_result(folder / name / "result.json", dataclasses.replace(board, complete=name != "zero 2"))
    return folder


def rows(page: str) -> list[list[str]]:
    found = re.findall(r'<tr class="result">(.*?)</tr>', page, re.DOTALL)
    return [[re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in found]


def test_every_result_is_a_row_with_its_file(
    results: Path, boards: list[BenchResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(results), "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site" / "index.html").read_text()
    shown = rows(page)
    by_board = {row[0]: row for row in shown}
    assert list(by_board) == sorted(str(board.environment.board) for board in boards)
    for board in boards:
        row = by_board[str(board.environment.board)]
        assert row[1:3] == ["m.tflite", "int8"]
        assert row[4:7] == [
            f"{stage.p50_ms:.3f}" if which == "p50" else f"{stage.p90_ms:.3f}"
            for stage, which in (
                (board.latency["localize"], "p50"),
                (board.latency["localize"], "p90"),
                (board.latency_against["localize"], "p50"),
            )
        ]
    assert [by_board[name][-1] for name in sorted(by_board)] == ["machine busy", "comparable", "partial"]
    links = re.findall(r'<a href="([^"]+)"', page)
    files = {json.loads((tmp_path / "site" / link).read_text())["environment"]["board"] for link in links}
    assert files == set(by_board) and len(links) == 3
    printed = capsys.readouterr().out
    assert "results   3" in printed and printed.count("not comparable") == 2 and "pictures" in printed
    assert not re.search(r"https?:|//\w|@import|<link", page)


def test_a_bad_file_is_refused_by_name_or_listed(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "notes.json").write_text("{}")
    assert main(["publish", str(results), "--out", str(tmp_path / "site")]) == 2
    error = capsys.readouterr().err
    assert "notes.json" in error and "--skip-bad" in error and error.count("\n") == 1
    assert not (tmp_path / "site").exists()
    assert main(["publish", str(results), "--out", str(tmp_path / "site"), "--skip-bad", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["left_out"] == [str(results / "notes.json")] and printed["results"] == 3
    assert "notes.json" in (tmp_path / "site" / "index.html").read_text()


def test_a_page_that_cannot_be_finished_leaves_the_old_one(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    publish([results / "pi-5"], site)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    real: Any = publishing.atomic_path

    def full(path: Path) -> Any:
        if path.name == "index.html":
            raise OutputError("the disk is full")
        return real(path)

    monkeypatch.setattr(publishing, "atomic_path", full)
    with pytest.raises(OutputError):
        publish([results], site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before


def test_what_is_no_longer_published_goes_and_what_is_not_ours_stays(results: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    publish([results], site)
    (site / "CNAME").write_text("results.example")
    (site / "results" / "README.md").write_text("hello")
    publish([results / "orin"], site)
    left = sorted(path.name for path in site.rglob("*") if path.is_file())
    assert len(left) == 4 and {"CNAME", "README.md", "index.html"} < set(left)


def test_one_result_given_twice_is_one_row(results: Path, tmp_path: Path) -> None:
    assert len(publish([results, results / "orin" / "result.json"], tmp_path / "site").entries) == 3


def test_a_page_within_the_folder_of_the_results_can_be_made_again(results: Path) -> None:
    site = results / "site"
    assert len(publish([results], site).entries) == 3
    before = sorted(path.name for path in (site / "results").iterdir())
    assert len(publish([results], site).entries) == 3
    assert sorted(path.name for path in (site / "results").iterdir()) == before
    # A copy is no second result, whatever it is called, and what was published keeps its name.
    (results / "pi-5" / "backup.json").write_bytes((results / "pi-5" / "result.json").read_bytes())
    assert len(publish([results], results.parent / "other").entries) == 3
    assert sorted(path.name for path in (results.parent / "other/results").iterdir()) != []


def test_a_long_name_is_cut(results: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 245}.json"
    path.write_bytes((results / "pi-5" / "result.json").read_bytes())
    assert len(publish([path], tmp_path / "site").entries) == 1


@pytest.mark.parametrize("name", ["empty", "site/results", "nowhere.json"])
def test_sources_that_cannot_be(results: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    publish([results], tmp_path / "site")
    with pytest.raises((UsageError, DataError), match=Path(name).name):
        publish([tmp_path / name], tmp_path / "site")
