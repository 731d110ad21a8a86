"""`edgeloc compare`: two results of `edgeloc bench`, and whether the new one is worse than allowed."""

from __future__ import annotations

import argparse
from dataclasses import fields

from edgeloc._support.numbers import finite, for_flag

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "compare two results of edgeloc bench; exit status 1 where the new one is worse than allowed"
EXTRA: str | None = None
NEEDS: tuple[str, ...] = ()

_LIMITS = {
    "max_latency_increase": "how much slower an answer may be, at the median and the 90th percentile (default: 5%%)",
    "max_energy_increase": "how much more energy it may take (default: 5%%)",
    "max_size_increase": "how much larger the model file may be (default: 5%%)",
    "max_iou_drop": "how much mean IoU may be lost (default: 0.005)",
    "max_map_drop": "how much average precision may be lost, of a detector (default: 0.01)",
    "max_recall_drop": "how much of the share of objects found may be lost (default: 0.02)",
    "max_false_alarm_rise": "how much the share of false alarms may grow (default: 0.02)",
    "max_accuracy_drop": "how much of the share of right classes may be lost (default: 0.02)",
}


def _share(text: str) -> float:
    """A share, as 5% or as 0.05."""
    try:
        value = finite(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if value < 0:
        raise ValueError("a share of at least 0, such as 5% or 0.05")
    return value


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("base", metavar="BASE", help="the result to compare with: a .json of edgeloc bench, or a folder of repeats")
    add("new", metavar="NEW", help="the new result, or a folder of repeats")
    add(
        "--anyway", action="store_true", help="compare other machines, scenarios or data, and busy or throttled results"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    shown.add_argument("--markdown", action="store_true", help="print Markdown for a pull request instead of text")
    limits = parser.add_argument_group("limits")
    for name, text in _LIMITS.items():
        flag = f"--{name.replace('_', '-')}"
        limits.add_argument(flag, metavar="X", type=for_flag(_share), help=text)


def run(arguments: argparse.Namespace) -> int:
    """Read, compare and print; 0 where nothing is worse than allowed, else GateFailed."""
    from edgeloc._support.json import print_json
    from edgeloc.benchmarks.comparison import compare
    from edgeloc.benchmarks.comparison.change import CompareLimits
    from edgeloc.benchmarks.comparison.comparability import read_side
    from edgeloc.benchmarks.comparison.text import comparison_lines, comparison_markdown, describe_change
    from edgeloc.errors import GateFailed, printable

    given = {entry.name: getattr(arguments, entry.name) for entry in fields(CompareLimits)}
    limits = CompareLimits(**{name: value for name, value in given.items() if value is not None})
    comparison = compare(read_side(arguments.base), read_side(arguments.new), limits, anyway=arguments.anyway)
    if arguments.json:
        print_json(comparison.to_dict())
    elif arguments.markdown:
        print(comparison_markdown(comparison), end="")
    else:
        print(printable("\n".join(comparison_lines(comparison))))
    worse = comparison.regressions
    if worse:
        options = " and ".join(dict.fromkeys(f"{{{change.option}}}" for change in worse))
        sentence = "; ".join(map(describe_change, worse))
        raise GateFailed(f"worse than allowed: {sentence}", hint=f"fix that, or move the limit with {options}")
    return 0
