"""A comparison as a reader sees it: lines for a terminal, Markdown for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgeloc._support.terminal import aligned
from edgeloc.benchmarks.comparison import Comparison
from edgeloc.benchmarks.comparison.change import Change
from edgeloc.errors import printable

__all__ = ["comparison_lines", "comparison_markdown", "describe_change", "verdict_sentence"]

_HEAD = ("", "base", "new", "change", "95 % interval", "allowed", "verdict")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def comparison_lines(comparison: Comparison) -> list[str]:
    """What was compared, one table, what to know and the verdict, a line each."""
    table = [_HEAD, *(_cells(change) for change in comparison.changes)]
    return [_title(comparison), *aligned(table), *_notes(comparison), verdict_sentence(comparison)]


def comparison_markdown(comparison: Comparison) -> str:
    """The same as Markdown: the verdict as a heading, the figures with a limit as a table, the others folded away."""
    limited = [change for change in comparison.changes if change.limit is not None]
    others = [change for change in comparison.changes if change.limit is None]
    blocks = [f"### {_plain(verdict_sentence(comparison))}", _plain(_title(comparison)), _table(limited)]
    if comparison.findings or comparison.differences or comparison.only_in or comparison.lost:
        blocks.append("\n".join(f"- {_plain(note)}" for note in _notes(comparison)))
    if others:
        blocks.append(f"<details><summary>Figures without a limit</summary>\n\n{_table(others)}\n\n</details>")
    return "\n\n".join(blocks) + "\n"


def verdict_sentence(comparison: Comparison) -> str:
    """The verdict in one line."""
    worse, open_ones = comparison.regressions, comparison.undecided
    if worse:
        return f"{len(worse)} regression{'s' * (len(worse) != 1)}: " + "; ".join(map(describe_change, worse))
    if open_ones:
        names = ", ".join(change.name for change in open_ones)
        return f"no regression found; too noisy or too few samples to exclude one: {names}"
    return "no regression"


def describe_change(change: Change) -> str:
    """One change and its limit, such as "localize p50 grew by 10.1 % (at most 5 %)"."""
    word = "grew" if change.change > 0 else "fell"
    by = f"{100 * abs(change.change):.1f} %" if change.relative else f"{abs(change.change):.4f}"
    return f"{change.name} {word} by {by} (at most {_allowed(change)})"


def _title(comparison: Comparison) -> str:
    base, new = comparison.runs
    runs = f", {base} and {new} runs" if max(base, new) > 1 else ""
    return f"{comparison.scenario} on {comparison.machine}{runs}"


def _cells(change: Change) -> tuple[str, ...]:
    return (
        change.name,
        _value(change, change.before),
        _value(change, change.after),
        _difference(change, change.change),
        "-" if change.ci95 is None else _interval(change, change.ci95),
        "-" if change.limit is None else _allowed(change, signed=True),
        "" if change.limit is None else change.verdict,
    )


def _value(change: Change, value: float) -> str:
    if change.unit == "bytes":
        return f"{value / 1000:.1f} kB"
    return f"{value:.4g} {change.unit}" if change.unit else f"{value:.4f}"


def _difference(change: Change, value: float) -> str:
    return f"{100 * value + 0.0:+.1f} %" if change.relative else f"{round(value, 4) + 0.0:+.4f}"


def _interval(change: Change, ends: tuple[float, float]) -> str:
    if ends[0] == ends[1] and change.basis == "exact":
        return "exact"
    return f"{_difference(change, ends[0])} to {_difference(change, ends[1])}"


def _allowed(change: Change, *, signed: bool = False) -> str:
    sign = "" if not signed else "+" if change.higher_is_worse else "-"
    limit = change.limit or 0.0
    return f"{sign}{100 * limit:g} %" if change.relative else f"{sign}{limit:g}"


def _notes(comparison: Comparison) -> Iterator[str]:
    """What changed beside the figures, on what they rest, and what speaks against comparing at all."""
    for finding in comparison.findings:
        yield f"not comparable: {finding.message}"
    for name, (before, after) in comparison.differences.items():
        yield f"{name}: {before} -> {after}"
    for name, side in comparison.only_in.items():
        yield f"{name} was measured on the {side} side alone"
    for basis, names in _bases(comparison.changes).items():
        yield f"{', '.join(names)}: {basis}"
    for lost in comparison.lost:
        yield f"lost most: {lost.name} (IoU {lost.iou_before:.2f} -> {lost.iou_after:.2f})"


def _bases(changes: Sequence[Change]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for change in changes:
        if change.limit is not None and change.basis != "exact":
            found.setdefault(change.basis, []).append(change.name)
    return found


def _table(changes: Sequence[Change]) -> str:
    rows = [("figure", *_HEAD[1:]), ("---", *("---:" for _ in _HEAD[2:]), "---")]
    cells = ([_plain(cell) for cell in _cells(change)] for change in changes)
    bold = ((*row[:-1], f"**{row[-1]}**" if row[-1] == "regression" else row[-1]) for row in cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in (*rows, *bold))


def _plain(text: str) -> str:
    """Text of a result, which somebody else may have written, that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", printable(text).replace("\n", " ")).replace("@", "@\u200b")
