"""Which configuration of a sweep to take, and why, and the plot that shows it."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc.errors import MissingExtra
from edgeloc.evaluation.figures import FLOAT_COLOR, MARK_COLOR, QUANTIZED_COLOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Choice", "SweepRow", "choose", "pareto_svg", "with_front"]

# Medians of two configurations that are nearer than this are taken to be equal.
_AS_FAST = 1.03
# Of one of the plot's panels, in inches.
_WIDTH, _HEIGHT = 6.4, 4.4


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One configuration; None is what was not measured.

    Parameters:
        model: its file.
        precision: as read out of the file.
        input: the model's input, width x height in pixels.
        bytes: the file's size.
        engine: what ran it.
        threads: of the engine.
        p50_ms: the median from a frame to its result, in ms: preprocess, invoke and decode.
        p90_ms: nine of ten were no longer.
        quality: mean IoU, of a detector mAP.
        energy_mj: of a frame, beyond idle.
        energy_uncertainty_mj: the truth is within this of it.
        result: the file of the whole result, in the sweep's folder.
        on_front: whether none is both faster and better.
    """

    model: str
    precision: str
    input: str
    bytes: int
    engine: str
    threads: int
    p50_ms: float | None
    p90_ms: float | None
    quality: float | None
    energy_mj: float | None
    energy_uncertainty_mj: float | None
    result: str
    on_front: bool = False

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{Path(self.model).name} on {self.engine} with {threads}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What to take, and a sentence that says why; None where nothing was measured."""

    row: SweepRow | None
    sentence: str


def with_front(rows: Sequence[SweepRow]) -> tuple[SweepRow, ...]:
    """The rows by latency, with those marked that no other is both faster and better than."""
    ordered = sorted(rows, key=lambda row: (row.p50_ms is None, row.p50_ms or 0.0, -(row.quality or 0.0)))
    marked, best = [], float("-inf")
    for row in ordered:
        ahead = row.quality is not None and row.p50_ms is not None and row.quality > best
        best = row.quality if ahead and row.quality is not None else best
        marked.append(dataclasses.replace(row, on_front=ahead))
    return tuple(marked)


def choose(rows: Sequence[SweepRow], quality: str | None, max_drop: float, max_latency_ms: float | None) -> Choice:
    """The fastest of those whose quality is near the best, of those within the latency that is allowed.

    Parameters:
        rows: the configurations.
        quality: the name of their quality; None where it was not measured.
        max_drop: how much less than the best quality is near it.
        max_latency_ms: the longest median that is allowed, in ms; None is any.
    """
    timed = [row for row in rows if row.p50_ms is not None]
    if not timed:
        return Choice(None, "Nothing was measured.")
    within = [row for row in timed if max_latency_ms is None or _ms(row) <= max_latency_ms]
    if not within:
        row = _fastest(timed)
        return Choice(row, f"None answers within {max_latency_ms:g} ms: the fastest is {row}, {_ms(row):.2f} ms.")
    scored = [row for row in within if row.quality is not None]
    limit = "" if max_latency_ms is None else f" of those within {max_latency_ms:g} ms"
    if quality is None or not scored:
        row = _fastest(within)
        return Choice(row, f"Take {row}: {_ms(row):.2f} ms a frame (median), the fastest; quality was not measured.")
    best = max(scored, key=lambda row: (row.quality or 0.0, -_ms(row)))
    near = [row for row in scored if (row.quality or 0.0) >= (best.quality or 0.0) - max_drop]
    row = _fastest(near)
    head = f"Take {row}: {_ms(row):.2f} ms a frame (median) at a {quality} of {row.quality:.3f}"
    return Choice(row, f"{head}, {_reason(row, best, near, quality, max_drop, limit)}{_threads(row, near)}.")


def _reason(row: SweepRow, best: SweepRow, near: Sequence[SweepRow], quality: str, drop: float, limit: str) -> str:
    if len(near) == 1:
        return f"the only one{limit} within {drop:g} of the best {quality}" if limit else f"the best {quality} by far"
    if row is best or row.quality == best.quality:
        return f"the best {quality}{limit}, and the fastest of the {len(near)} within {drop:g} of it"
    return f"the fastest of the {len(near)} within {drop:g} of the best {quality}{limit} ({best.quality:.3f}, {best})"


def _threads(row: SweepRow, near: Sequence[SweepRow]) -> str:
    """That more threads were no gain, where that decided."""
    first = min(near, key=_ms)
    same = (first.model, first.engine) == (row.model, row.engine)
    if first is row or not same:
        return ""
    return f"; {first.threads} threads gain less than 3 %"


def _fastest(rows: Sequence[SweepRow]) -> SweepRow:
    """The fastest, or what is as fast within the noise with fewer threads."""
    first = min(map(_ms, rows))
    as_fast = [row for row in rows if _ms(row) <= first * _AS_FAST]
    return min(as_fast, key=lambda row: (row.threads, _ms(row)))


def _ms(row: SweepRow) -> float:
    return float("inf") if row.p50_ms is None else row.p50_ms


def pareto_svg(rows: Sequence[SweepRow], quality: str, chosen: SweepRow | None) -> str:
    """Quality over latency, and over energy where that was measured, as SVG, of the rows that have a quality.

    MissingExtra where matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench", "the plot of a sweep") from error
    scored = [row for row in rows if row.quality is not None]
    metered = [row for row in scored if row.energy_mj is not None]
    panels: list[tuple[Sequence[SweepRow], str, Callable[[SweepRow], float | None]]] = [
        (scored, "median latency of a frame, ms", lambda row: row.p50_ms)
    ]
    if metered:
        panels.append((metered, "energy of a frame beyond idle, mJ", lambda row: row.energy_mj))
    plain = {"axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
    with rc_context({"svg.hashsalt": "pareto", **plain}):
        figure = Figure(figsize=(_WIDTH * len(panels), _HEIGHT), layout="constrained")
        for axes, (shown, name, cost) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, [(cost(row) or 0.0, row) for row in shown], chosen)
            axes.set(xlabel=name, ylabel=quality)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()


def _draw(axes: Axes, points: Sequence[tuple[float, SweepRow]], chosen: SweepRow | None) -> None:
    """Every configuration as a point with its name, the front as a line, what is recommended ringed."""
    front = _front(points)
    costs, scores = [cost for cost, _ in points], [row.quality or 0.0 for _, row in points]
    axes.scatter(costs, scores, s=22, color=FLOAT_COLOR, zorder=3)
    line = [row.quality or 0.0 for _, row in front]
    axes.plot([cost for cost, _ in front], line, drawstyle="steps-post", color=QUANTIZED_COLOR, label="Pareto front")
    for number, (cost, row) in enumerate(sorted(points, key=lambda point: point[0])):
        place = (5, 5) if number % 2 else (5, -11)  # so that neighbours' names do not cover each other
        label = f"{Path(row.model).stem}, {row.engine} x{row.threads}"
        axes.annotate(label, (cost, row.quality or 0.0), place, textcoords="offset points", fontsize=7)
        if chosen is not None and row.result == chosen.result:
            axes.plot(cost, row.quality or 0.0, "o", ms=11, mew=1.8, mfc="none", mec=MARK_COLOR, label="recommended")
    axes.set_xlim(left=0)
    axes.margins(x=0.2, y=0.15)


def _front(points: Sequence[tuple[float, SweepRow]]) -> list[tuple[float, SweepRow]]:
    front: list[tuple[float, SweepRow]] = []
    for cost, row in sorted(points, key=lambda point: (point[0], -(point[1].quality or 0.0))):
        if not front or (row.quality or 0.0) > (front[-1][1].quality or 0.0):
            front.append((cost, row))
    return front
