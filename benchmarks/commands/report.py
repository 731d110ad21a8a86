"""`edgeloc report`: results of `edgeloc bench` as one page, HTML or Markdown."""

from __future__ import annotations

import argparse

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "turn results of edgeloc bench into one page with plots, several side by side"
EXTRA: str | None = "bench"
NEEDS: tuple[str, ...] = ("matplotlib", "jinja2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("results", metavar="RESULT.json", nargs="+", help="what edgeloc bench wrote; several are shown side by side")
    add(
        "--out",
        metavar="REPORT.html",
        default="report.html",
        help="where the page goes; Markdown if it ends in .md (default: %(default)s)",
    )
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Read, render and write; 0 when done."""
    from edgeloc._support.files import require_writable
    from edgeloc._support.json import print_json
    from edgeloc.benchmarks.report import write_report
    from edgeloc.benchmarks.result import read_result

    results = [read_result(path) for path in arguments.results]
    require_writable(arguments.out, *arguments.results)
    write_report(arguments.out, *results)
    if arguments.json:
        complete = all(result.complete for result in results)
        print_json({"report": arguments.out, "results": arguments.results, "complete": complete})
    else:
        print(f"report  {arguments.out}")
    return 0
