"""`edgeloc doctor`: examines this device and prints what was found."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeloc._support.json import print_json
from edgeloc.errors import printable

if TYPE_CHECKING:
    from edgeloc.device.doctor import DoctorReport

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "show what this device has and lacks for localizing, and how to fix it"
EXTRA: str | None = None
# Nothing: it is for devices on which NumPy or OpenCV may be what is broken.
NEEDS: tuple[str, ...] = ()

_UNABLE = 3
_SEVERITY_WIDTH, _CHECK_WIDTH = 9, 14
_NARROWEST, _WIDEST = 60, 110


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Examine and print; exit status 3 when the shipped model cannot run here as it should."""
    from edgeloc.device.doctor import examine

    report = examine()
    if args.json:
        print_json(report.to_dict())
    else:
        print(printable("\n".join(_lines(report))))
    return 0 if report.able else _UNABLE


def _lines(report: DoctorReport) -> Iterator[str]:
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
    indent = " " * (_SEVERITY_WIDTH + _CHECK_WIDTH)
    for check, findings in report.checks.items():
        for number, finding in enumerate(findings):
            head = f"{finding.severity:<{_SEVERITY_WIDTH}}{'' if number else check:<{_CHECK_WIDTH}}"
            # "ok" has nothing to look up.
            code = "" if finding.severity == "ok" else f" [{finding.code}]"
            yield textwrap.fill(
                finding.message + code, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False
            )
            if finding.fix:
                # Not filled: a command that is broken over lines cannot be copied.
                yield f"{indent}fix: {finding.fix}"
    yield ""
    yield _verdict(report)


def _verdict(report: DoctorReport) -> str:
    counts = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for word in ("problem", "warning")
        if (count := sum(finding.severity == word for finding in report.findings))
    ]
    found = " and ".join(counts) or "nothing to fix"
    if report.able:
        return f"This device can localize: the shipped model passes its self-test ({found})."
    return f"This device cannot localize as it is ({found}): fix the problems, from the top."
