"""The report's plots, as SVG that fits into a light and a dark page, each with its caption."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeloc.benchmarks.report.document import Plot
from edgeloc.benchmarks.result import LOCALIZE, BenchResult, StageLatency, stages_in
from edgeloc.errors import MissingExtra
from edgeloc.evaluation.detection import DetectionRegression
from edgeloc.evaluation.figures import FLOAT_COLOR, MARK_COLOR, QUANTIZED_COLOR, SIZES, Regression, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "board_course",
    "distributions",
    "drop_curve",
    "found_bars",
    "grouped_bars",
    "iou_scatter",
    "latency_bars",
    "latency_course",
    "size_bars",
    "stacked_bars",
]

_SPAN_COLORS = {
    "idle before": FLOAT_COLOR,
    "frames": QUANTIZED_COLOR,
    "inferences": MARK_COLOR,
    "idle after": FLOAT_COLOR,
}
# Of results side by side, in their order; Okabe and Ito's, which the colour-blind can distinguish.
_COLORS = (FLOAT_COLOR, QUANTIZED_COLOR, "#009e73", MARK_COLOR, "#d55e00", "#0072b2")
_INK = "#123456"  # of text and lines: replaced by currentColor in the SVG, the page's own colour
_MOST_POINTS = 2500  # a scatter of more is drawn as pixels
# Inches, 72 units each: on a phone of 390 pixels, text of 12 units is still 10 pixels high.
_WIDTH, _TEXT = 5.0, 12


def latency_bars(latency: Mapping[str, StageLatency]) -> Plot:
    """Every stage's p50 as a bar, its p90 and p99 as marks; in ms."""

    def draw(axes: Axes) -> None:
        stages = stages_in(dict(latency))
        rows = np.arange(len(stages))
        axes.barh(rows, [latency[stage].p50_ms for stage in stages], color=FLOAT_COLOR, label="p50")
        for name, color in (("p90", QUANTIZED_COLOR), ("p99", MARK_COLOR)):
            values = [getattr(latency[stage], f"{name}_ms") for stage in stages]
            axes.vlines(values, rows - 0.4, rows + 0.4, color=color, lw=2, label=name)
        axes.set_yticks(rows, stages)
        axes.invert_yaxis()
        axes.set_xlabel("ms")
        axes.set_xlim(left=0)
        _legend_above(axes)

    return Plot(_svg("latency-bars", draw, height=3.6), "Where a frame's time goes.")


def latency_course(result: BenchResult) -> Plot:
    """The time of every frame in order, the warm-up apart; in ms."""
    stage = LOCALIZE if LOCALIZE in result.latency else "total"

    def draw(axes: Axes) -> None:
        spent = result.latency[stage]
        warm = len(spent.warmup_ms)
        pixels = spent.count > _MOST_POINTS
        axes.plot(range(warm), spent.warmup_ms, ".", ms=4, color=QUANTIZED_COLOR, label="warm-up")
        places = range(warm, warm + spent.count)
        axes.plot(places, spent.samples_ms, ".", ms=4, color=FLOAT_COLOR, label="measured", rasterized=pixels)
        axes.axhline(spent.p50_ms, color=_INK, lw=0.8, ls="--", label="p50")
        axes.set_xlabel("frame")
        axes.set_ylabel(f"{stage}, ms")
        axes.set_ylim(bottom=0)
        _legend_above(axes)

    return Plot(_svg("latency-course", draw, height=3.6), "Every frame in order: warm-up, drift and outliers.")


def distributions(latencies: Mapping[str, StageLatency], stage: str) -> Plot:
    """The cumulative share of frames by their time in ms, a line for each; in log scale where they are far apart."""

    def draw(axes: Axes) -> None:
        for (name, latency), color in zip(latencies.items(), cycle(_COLORS), strict=False):
            spent = np.sort(latency.samples_ms)
            shares = np.arange(1, len(spent) + 1) / len(spent)
            axes.plot(spent, shares, drawstyle="steps-post", color=color, lw=2, label=name)
        medians = [latency.p50_ms for latency in latencies.values()]
        if max(medians) > 5 * min(medians):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel=f"{stage}, ms", ylabel="share of frames", ylim=(0, 1.02))
        _legend_above(axes, columns=1 if max(map(len, latencies)) > 12 else 2)

    height = 3.4 + 0.2 * max(0, len(latencies) - 1)
    return Plot(_svg(f"distributions-{stage}", draw, height=height), "Share of frames that took at most so long.")


def stacked_bars(parts: Mapping[str, Mapping[str, float]], marks: Mapping[str, float], unit: str) -> Plot:
    """A bar for each name, of parts end to end, and a mark for each; values in `unit`."""

    def draw(axes: Axes) -> None:
        rows = np.arange(len(parts))
        begin = np.zeros(len(parts))
        for part, color in zip(next(iter(parts.values())), cycle(_COLORS), strict=False):
            values = np.array([of.get(part, 0.0) for of in parts.values()])
            axes.barh(rows, values, 0.45, left=begin, color=color, label=part)
            begin += values
        axes.vlines([marks[name] for name in parts], rows - 0.3, rows + 0.3, color=_INK, lw=2, label="p90 of the sum")
        for row, name in zip(rows, parts, strict=True):
            axes.text(0, row - 0.32, name, va="bottom")
        axes.set(yticks=[], ylim=(len(parts) - 0.6, -0.8), xlabel=unit, xlim=(0, None))
        axes.spines.left.set_visible(False)
        _legend_above(axes, columns=2)

    caption = "Where an answer's time goes: the medians of its parts."
    return Plot(_svg("stacked-bars", draw, height=1.6 + 0.65 * len(parts)), caption)


def iou_scatter(regression: Regression) -> Plot:
    """Every image's IoU with the truth, of the quantized model over that of the float one."""

    def draw(axes: Axes) -> None:
        rows = _objects(regression)
        axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls="--")
        axes.scatter(
            [row.iou_float or 0.0 for row in rows],
            [row.iou_quantized or 0.0 for row in rows],
            s=9, alpha=0.5, color=FLOAT_COLOR, linewidths=0, rasterized=len(rows) > _MOST_POINTS,
        )  # fmt: skip
        axes.set(xlabel="IoU of the float model", ylabel="IoU of the quantized model")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_aspect("equal")

    return Plot(
        _svg("iou-scatter", draw, height=4.4), "One dot per image; below the line, quantization cost something."
    )


def drop_curve(regression: Regression) -> Plot:
    """The cumulative share of images by IoU drop; left of 0 are those that gained."""

    def draw(axes: Axes) -> None:
        drops = np.sort([(row.iou_float or 0.0) - (row.iou_quantized or 0.0) for row in _objects(regression)])
        axes.plot(drops, np.arange(1, len(drops) + 1) / len(drops), drawstyle="steps-post", color=QUANTIZED_COLOR)
        axes.axvline(0, color=_INK, lw=0.8, ls="--")
        axes.set(xlabel="IoU drop of an image", ylabel="share of images", ylim=(0, 1.02))

    caption = "How the drop, float minus quantized, is distributed: a mean near 0 can hide changes both ways."
    return Plot(_svg("drop-curve", draw, height=4.4), caption)


def size_bars(regression: Regression) -> Plot:
    """Mean IoU by the object's size, float beside quantized."""
    names = [name for name in SIZES if regression.by_size.get(name) and regression.by_size[name].images]
    figures = [regression.by_size[name] for name in names]
    groups = [f"{name} ({f.images})" for name, f in zip(names, figures, strict=True)]
    bars = {
        "float": [f.mean_iou_float or 0.0 for f in figures],
        "quantized": [f.mean_iou_quantized or 0.0 for f in figures],
    }
    return grouped_bars(groups, bars, "mean IoU", "Mean IoU by object size, with the number of images.")


def found_bars(found: DetectionRegression) -> Plot:
    """The share of objects found by their size, float beside quantized."""
    sizes = [(name, figures) for name, figures in found.by_size.items() if figures.objects]
    groups = [f"{name} ({figures.objects})" for name, figures in sizes]
    bars = {
        "float": [figures.recall_float or 0.0 for _, figures in sizes],
        "quantized": [figures.recall_quantized or 0.0 for _, figures in sizes],
    }
    return grouped_bars(groups, bars, "objects found", "Share of objects found by size, with the number of objects.")


def grouped_bars(groups: Sequence[str], bars: Mapping[str, Sequence[float]], axis: str, caption: str) -> Plot:
    """Groups of bars side by side, one for each name; shares, 0 to 1."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(bars)
        for number, ((name, values), color) in enumerate(zip(bars.items(), cycle(_COLORS), strict=False)):
            places = np.arange(len(groups)) - 0.4 + width * (number + 0.5)
            axes.bar(places, values, 0.95 * width, color=color, label=name)
        axes.set_xticks(np.arange(len(groups)), groups)
        axes.set(ylabel=axis, ylim=(0, 1))
        _legend_above(axes, columns=1 if max(map(len, bars)) > 12 else 2)

    name = axis.replace(" ", "-")
    return Plot(_svg(f"bars-{name}", draw, height=3.2 + 0.2 * max(0, len(bars) - 2)), caption)


def _objects(regression: Regression) -> list[Row]:
    return [row for row in regression.rows if row.kind == "object"]


def board_course(result: BenchResult, number: int = 0) -> Plot | None:
    """Power, temperature and clocks over one time in s, as far as there are readings; None where there are none.

    `number` distinguishes it from those of other results on the page.
    """
    draws = [draw for draw in (_power(result), _temperature(result), _clocks(result)) if draw]
    if not draws:
        return None

    def draw(*panels: Axes) -> None:
        for part, axes in zip(draws, panels, strict=True):
            part(axes)
        panels[-1].set_xlabel("s")

    caption = "Power as the meter read it; the shaded parts were measured." if _power(result) else ""
    words = f"{caption} Temperature is the hottest sensor's." if _temperature(result) else caption
    return Plot(_svg(f"board-course-{number}", draw, height=0.9 + 1.9 * len(draws), panels=len(draws)), words.strip())


def _power(result: BenchResult) -> Callable[[Axes], None] | None:
    energy = result.energy
    if len(energy.t_s) < 2:
        return None
    begin = (result.course.energy_from_s if result.course else None) or 0.0

    def draw(axes: Axes) -> None:
        axes.plot(np.array(energy.t_s) + begin, energy.watts, "-", lw=1, color=_INK)
        for name, (first, last) in energy.spans_s.items():
            label = name.partition(" ")[0]
            known = label in axes.get_legend_handles_labels()[1]
            axes.axvspan(
                first + begin, last + begin, alpha=0.4, lw=0, color=_SPAN_COLORS[name], label=None if known else label
            )
        axes.set_ylabel("W")
        axes.set_ylim(bottom=0)
        _legend_above(axes, columns=3)

    return draw


def _temperature(result: BenchResult) -> Callable[[Axes], None] | None:
    readings = result.course.readings if result.course else ()
    seen = [(reading.t_s, reading.celsius) for reading in readings if reading.celsius is not None]
    if len(seen) < 2:
        return None

    def draw(axes: Axes) -> None:
        axes.plot([at for at, _ in seen], [celsius for _, celsius in seen], color=_COLORS[4])
        axes.set_ylabel("°C")

    return draw


def _clocks(result: BenchResult) -> Callable[[Axes], None] | None:
    readings = [reading for reading in (result.course.readings if result.course else ()) if reading.mhz]
    if len(readings) < 2:
        return None

    def draw(axes: Axes) -> None:
        for cpus, color in zip(readings[0].mhz, cycle(_COLORS), strict=False):
            seen = [one for one in readings if cpus in one.mhz]
            axes.plot([one.t_s for one in seen], [one.mhz[cpus] for one in seen], color=color, label=f"cores {cpus}")
        axes.set_ylabel("MHz")
        axes.set_ylim(bottom=0)
        _legend_above(axes, columns=2)

    return draw


def _legend_above(axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    # matplotlib lists marks before the bars that they are on.
    marks_last = sorted(zip(handles, labels, strict=True), key=lambda both: type(both[0]).__name__ == "LineCollection")
    handles, labels = [handle for handle, _ in marks_last], [label for _, label in marks_last]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
    axes.legend(handles, labels, frameon=False, ncols=columns, **place)


def _svg(name: str, draw: Callable[..., None], *, height: float, panels: int = 1) -> str:
    """Let `draw` fill transparent panels, `height` inches together; the same input gives the same text."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench", "the report") from error
    with rc_context(_style(name)):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        drawn = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
        figure.patch.set_alpha(0)
        for axes in drawn:
            axes.patch.set_alpha(0)
        draw(*drawn)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return _inline(text.getvalue(), name)


def _style(name: str) -> dict[str, Any]:
    """Settings of matplotlib: ink for text and lines, text as text, and ids that depend on `name` alone."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    # A file's name may have what TeX reads as mathematics.
    plain = {"axes.spines.top": False, "axes.spines.right": False, "font.size": _TEXT, "text.parse_math": False}
    same = {"xtick.labelsize": _TEXT, "ytick.labelsize": _TEXT, "legend.fontsize": _TEXT, "legend.handlelength": 1.2}
    return {**dict.fromkeys(inked, _INK), **plain, **same, "svg.fonttype": "none", "svg.hashsalt": name}


def _inline(svg: str, name: str) -> str:
    """Strip what only a standalone file needs, so that the page holds no address, and take the page's colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    return svg.replace(_INK, "currentColor").strip()
