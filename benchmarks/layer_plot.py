"""The layer-by-layer report as a picture file; the figures come ready from `layers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc.benchmarks.plots import FLOAT_COLOR, MARK_COLOR, QUANTIZED_COLOR
from edgeloc.errors import MissingExtra
from edgeloc.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeloc.benchmarks.layers import LayerReport

__all__ = ["PLOT_SUFFIXES", "draw_layers"]

PLOT_SUFFIXES = (".pdf", ".png", ".svg")
_NAMED = 5


def draw_layers(report: LayerReport, path: str | Path) -> None:
    """Signal to noise (dB) of each layer in order of execution, in total and alone; the five worst are named.

    The file's kind is its suffix, one of PLOT_SUFFIXES. Raises MissingExtra without matplotlib and
    OutputError when `path` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench", "the plot") from error
    figure = Figure(figsize=(10, 5), layout="constrained")
    _draw(figure.add_subplot(), report)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw(axes: Axes, report: LayerReport) -> None:
    # Exact layers (a reshape, a maximum) have no error to show and would only stretch the axis.
    shown = [layer for layer in report.layers if layer.own_snr_db is not None and layer.own_rmse]
    axes.plot(
        [layer.position for layer in shown],
        [layer.own_snr_db or 0.0 for layer in shown],
        "o", ms=4, color=FLOAT_COLOR, label="error of the layer alone",
    )  # fmt: skip
    axes.plot(
        [layer.position for layer in report.layers if layer.snr_db < 140],
        [layer.snr_db for layer in report.layers if layer.snr_db < 140],
        "-", lw=1.2, color=QUANTIZED_COLOR, label="total error at this tensor",
    )  # fmt: skip
    for rank, layer in enumerate(report.blame[:_NAMED], start=1):
        place = (layer.position, layer.own_snr_db or 0.0)
        axes.plot(*place, "o", ms=8, mfc="none", color=MARK_COLOR)
        axes.annotate(str(rank), place, xytext=(6, 4), textcoords="offset points", color=MARK_COLOR)
    names = [f"{rank} {layer.tensor.split(';')[0]}" for rank, layer in enumerate(report.blame[:_NAMED], start=1)]
    axes.set_title("\n".join(["most error added:", *names]), fontsize=8, loc="left")
    axes.set(xlabel="operator, in order of execution", ylabel="signal to noise, dB")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
