"""The report: one page of a result, or of several side by side, as HTML or as Markdown."""

from __future__ import annotations

from pathlib import Path

from edgeloc._support.files import atomic_path
from edgeloc.benchmarks.report.boards import page_of_several
from edgeloc.benchmarks.report.document import Page, render, to_markdown
from edgeloc.benchmarks.report.page import page_of
from edgeloc.benchmarks.result import BenchResult

__all__ = ["render_report", "write_report"]


def render_report(*results: BenchResult, markdown: bool = False) -> str:
    """The page of one result, or of several side by side.

    It is HTML that refers to nothing outside itself, with plots and pictures; with `markdown` its words and tables
    alone. Raises MissingExtra without jinja2 or matplotlib, ValueError without a result.
    """
    if not results:
        raise ValueError("a report needs at least one result")
    page = _page(results)
    return to_markdown(page) if markdown else render("report.html", page=page)


def write_report(path: str | Path, *results: BenchResult) -> None:
    """Write the page, whole or not at all: Markdown where `path` ends in .md, else HTML.

    OutputError where `path` cannot be written.
    """
    page = render_report(*results, markdown=Path(path).suffix.lower() == ".md")
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _page(results: tuple[BenchResult, ...]) -> Page:
    return page_of(results[0]) if len(results) == 1 else page_of_several(results)
