"""`edgeloc report`: a result of `edgeloc bench` as one HTML page."""

from __future__ import annotations

import argparse

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "turn a result of edgeloc bench into one HTML page with plots"
EXTRA: str | None = "bench"
NEEDS: tuple[str, ...] = ("matplotlib", "jinja2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("result", metavar="RESULT.json", help="the result.json that edgeloc bench wrote")
    add("--out", metavar="REPORT.html", default="report.html", help="where the page goes (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Read, render and write; 0 when done."""
    from edgeloc._support.files import require_writable
    from edgeloc._support.json import print_json
    from edgeloc.benchmarks.report import write_report
    from edgeloc.benchmarks.result import read_result

    result = read_result(arguments.result)
    require_writable(arguments.out, arguments.result)
    write_report(arguments.out, result)
    if arguments.json:
        print_json({"report": arguments.out, "result": arguments.result, "complete": result.complete})
    else:
        print(f"report  {arguments.out}")
    return 0
