"""The plot of a sweep: quality over latency, and over energy where that was measured."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc.benchmarks.sweeps.choice import SweepRow
from edgeloc.errors import MissingExtra
from edgeloc.evaluation.figures import FLOAT_COLOR, MARK_COLOR, QUANTIZED_COLOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pareto_svg"]

_WIDTH, _HEIGHT = 6.4, 4.4


def pareto_svg(rows: Sequence[SweepRow], quality: str, chosen: SweepRow | None) -> str:
    """The plot as SVG; rows without quality are left out. MissingExtra where matplotlib is not installed."""
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
    with rc_context({"svg.hashsalt": "pareto", "axes.spines.top": False, "axes.spines.right": False}):
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
