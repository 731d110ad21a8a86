"""The report's plots, as SVG that fits into a light and a dark page, and its pictures, as small JPEGs in data URIs."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import cv2
import numpy as np

from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.result import StageLatency, stages_in
from edgeloc.data import Sample
from edgeloc.errors import DataError, MissingExtra
from edgeloc.evaluation.detection import WorstImage
from edgeloc.evaluation.figures import FLOAT_COLOR, MARK_COLOR, QUANTIZED_COLOR, SIZES, Regression, Row, Worst
from edgeloc.loop import draw as drawing
from edgeloc.types import Box, Pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "drop_curve",
    "iou_scatter",
    "jpeg_uri",
    "latency_bars",
    "latency_course",
    "power_course",
    "side_by_side",
    "size_bars",
    "with_previews",
]

_SPAN_COLORS = {
    "idle before": FLOAT_COLOR,
    "frames": QUANTIZED_COLOR,
    "inferences": MARK_COLOR,
    "idle after": FLOAT_COLOR,
}
_INK = "#123456"  # of text and lines: replaced by currentColor in the SVG, the page's own colour
_MOST_POINTS = 2500  # a scatter of more is drawn as pixels

_STORED_SIDE = 320  # pixels of the longer side of what is stored
_DRAWN_SIDE = 480  # and of what is drawn on, so that lines stay fine beside a small object
_PREFIX = "data:image/jpeg;base64,"

W = TypeVar("W", Worst, WorstImage)


def latency_bars(latency: dict[str, StageLatency]) -> str:
    """Every stage's p50 as a bar, its p90 and p99 as marks; in ms."""

    def draw(axes: Axes) -> None:
        stages = stages_in(latency)
        rows = np.arange(len(stages))
        axes.barh(rows, [latency[stage].p50_ms for stage in stages], color=FLOAT_COLOR, label="p50")
        for name, color in (("p90", QUANTIZED_COLOR), ("p99", MARK_COLOR)):
            values = [getattr(latency[stage], f"{name}_ms") for stage in stages]
            axes.plot(values, rows, "|", color=color, ms=16, mew=2, label=name)
        axes.set_yticks(rows, stages)
        axes.invert_yaxis()
        axes.set_xlabel("ms")
        axes.set_xlim(left=0)
        axes.legend(frameon=False)

    return _svg("latency-bars", draw, width=5.0, height=3.4)


def latency_course(latency: dict[str, StageLatency]) -> str:
    """The total of every frame in order, the warm-up apart; in ms."""

    def draw(axes: Axes) -> None:
        total = latency["total"]
        warm = len(total.warmup_ms)
        axes.plot(range(warm), total.warmup_ms, ".", ms=4, color=QUANTIZED_COLOR, label="warm-up")
        axes.plot(range(warm, warm + total.count), total.samples_ms, ".", ms=4, color=FLOAT_COLOR, label="measured")
        axes.axhline(total.p50_ms, color=_INK, lw=0.8, ls="--", label="p50")
        axes.set_xlabel("frame")
        axes.set_ylabel("total, ms")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    return _svg("latency-course", draw, width=5.0, height=3.4)


def iou_scatter(regression: Regression) -> str:
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

    return _svg("iou-scatter", draw, width=4.2, height=4.0)


def drop_curve(regression: Regression) -> str:
    """The cumulative share of images by IoU drop; left of 0 are those that gained."""

    def draw(axes: Axes) -> None:
        drops = np.sort([(row.iou_float or 0.0) - (row.iou_quantized or 0.0) for row in _objects(regression)])
        axes.plot(drops, np.arange(1, len(drops) + 1) / len(drops), drawstyle="steps-post", color=QUANTIZED_COLOR)
        axes.axvline(0, color=_INK, lw=0.8, ls="--")
        axes.set(xlabel="IoU drop of an image (float minus quantized)", ylabel="share of images", ylim=(0, 1.02))

    return _svg("drop-curve", draw, width=4.2, height=4.0)


def size_bars(regression: Regression) -> str:
    """Mean IoU by the object's size, float beside quantized."""

    def draw(axes: Axes) -> None:
        names = [name for name in SIZES if regression.by_size.get(name) and regression.by_size[name].images]
        figures = [regression.by_size[name] for name in names]
        places = np.arange(len(names))
        before = [f.mean_iou_float or 0.0 for f in figures]
        after = [f.mean_iou_quantized or 0.0 for f in figures]
        axes.bar(places - 0.2, before, 0.38, color=FLOAT_COLOR, label="float")
        axes.bar(places + 0.2, after, 0.38, color=QUANTIZED_COLOR, label="quantized")
        axes.set_xticks(places, [f"{name} ({f.images})" for name, f in zip(names, figures, strict=True)])
        axes.set(ylabel="mean IoU", ylim=(0, 1))
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)

    return _svg("size-bars", draw, width=10.0, height=3.0)


def _objects(regression: Regression) -> list[Row]:
    return [row for row in regression.rows if row.kind == "object"]


def power_course(energy: Energy) -> str:
    """Every reading of the meter in W over time, with the spans that were measured shaded."""

    def draw(axes: Axes) -> None:
        axes.plot(energy.t_s, energy.watts, "-", lw=1, color=_INK)
        for name, (begin, end) in energy.spans_s.items():
            axes.axvspan(begin, end, alpha=0.4, lw=0, color=_SPAN_COLORS[name], label=name)
        axes.set_xlabel("s")
        axes.set_ylabel("W")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, loc="lower right", ncols=4)

    return _svg("power-course", draw, width=8.0, height=3.0)


def _svg(name: str, draw: Callable[[Axes], None], *, width: float, height: float) -> str:
    """Let `draw` fill a transparent plot of `width` x `height` inches; the same input gives the same text."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench", "the report") from error
    with rc_context(_style(name)):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        draw(axes)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return _inline(text.getvalue(), name)


def _style(name: str) -> dict[str, Any]:
    """Settings of matplotlib: ink for text and lines, text as text, and ids that depend on `name` alone."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    plain = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    return {**dict.fromkeys(inked, _INK), **plain, "svg.fonttype": "none", "svg.hashsalt": name}


def _inline(svg: str, name: str) -> str:
    """Strip what only a standalone file needs, so that the page holds no address, and take the page's colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    return svg.replace(_INK, "currentColor").strip()


def with_previews(worst: Sequence[W], samples: Sequence[Sample]) -> tuple[W, ...]:
    """The same worst images, each with a small picture of its sample where that can still be read."""
    by_name = {sample.name: sample for sample in samples}
    return tuple(_with_preview(image, by_name.get(image.name)) for image in worst)


def _with_preview(image: W, sample: Sample | None) -> W:
    if sample is None:
        return image
    try:
        pixels = sample.load()
    except DataError:
        return image
    scale = min(1.0, _STORED_SIDE / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    return dataclasses.replace(image, preview=jpeg_uri(cast(Pixels, small), 85), preview_scale=scale)


def jpeg_uri(pixels: Pixels, quality: int) -> str:
    """BGR uint8 pixels as a JPEG data URI."""
    written, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"an image of shape {pixels.shape} cannot be written as JPEG")
    return _PREFIX + base64.b64encode(data.tobytes()).decode("ascii")


def side_by_side(
    image: Worst | WorstImage, truth: Sequence[Box], before: Sequence[Box], after: Sequence[Box]
) -> tuple[str, str] | None:
    """The picture twice, as data URIs: truth with the float boxes, then the quantized ones; None without a preview.

    DataError when the stored preview is no JPEG.
    """
    if image.preview is None:
        return None
    small = _decode(image.preview, image.name)
    grow = _DRAWN_SIDE / max(small.shape[:2])
    large = cast(Pixels, cv2.resize(small, None, fx=grow, fy=grow, interpolation=cv2.INTER_CUBIC))
    scale = grow * image.preview_scale
    pictures = []
    for found, color in ((before, drawing.FLOAT_COLOR), (after, drawing.QUANTIZED_COLOR)):
        # No titles: their plates would cover a small object, and the page names them.
        boxes = [(_scaled(box, scale), "", drawing.TRUTH_COLOR) for box in truth]
        boxes += [(_scaled(box, scale), "", color) for box in found]
        pictures.append(jpeg_uri(drawing.draw_boxes(large, boxes), 85))
    return pictures[0], pictures[1]


def _decode(uri: str, name: str) -> Pixels:
    try:
        data = np.frombuffer(base64.b64decode(uri.removeprefix(_PREFIX)), dtype=np.uint8)
    except ValueError:  # no base64
        data = np.empty(0, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise DataError(f"the result's preview of {name} is no JPEG")
    return cast(Pixels, pixels)


def _scaled(box: Box, scale: float) -> Box:
    return Box(*(edge * scale for edge in box))
