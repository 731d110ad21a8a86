"""`edgeloc doctor`: prints what edgeloc.device.doctor found; it looks at nothing itself."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeloc.device.doctor import DoctorReport

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "tell what this device has and lacks for localizing, and how to mend it"
EXTRA: str | None = None
# None: it is there for the device on which NumPy or OpenCV is what is broken.
NEEDS: tuple[str, ...] = ()

_UNABLE = 3
_STATUS_WIDTH, _CHECK_WIDTH = 9, 14
_NARROWEST, _WIDEST = 60, 110


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Look, and print; exit status 3 when the shipped model cannot run here as it should."""
    from edgeloc.device.doctor import examine

    report = examine()
    if args.json:
        import json

        print(json.dumps(report.to_dict(), indent=2))
    else:
        print("\n".join(_lines(report)))
    return 0 if report.able else _UNABLE


def _lines(report: DoctorReport) -> Iterator[str]:
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
    indent = " " * (_STATUS_WIDTH + _CHECK_WIDTH)
    previous = ""
    for finding in report.findings:
        shown = "" if finding.check == previous else finding.check
        previous = finding.check
        head = f"{finding.status:<{_STATUS_WIDTH}}{shown:<{_CHECK_WIDTH}}"
        yield textwrap.fill(finding.what, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
        if finding.mend:
            # Not filled: a command that is broken over lines cannot be copied.
            yield f"{indent}mend: {finding.mend}"
    yield ""
    yield _verdict(report)


def _verdict(report: DoctorReport) -> str:
    counts = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for word in ("problem", "warning")
        if (count := sum(finding.status == word for finding in report.findings))
    ]
    found = " and ".join(counts) or "nothing to mend"
    if report.able:
        return f"This device can localize: the shipped model passes its self-test ({found})."
    return f"This device cannot localize as it is ({found}): mend the problems, from the top."
