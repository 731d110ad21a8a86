"""Training curves as one PNG, drawn from the history that training writes as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from edgeloc.errors import MissingExtra
from edgeloc.files import atomic_path

__all__ = ["plot_curves"]

_PANELS = ("loss", "box_iou", "presence_accuracy", "label_accuracy")


def plot_curves(history: Path, out: Path) -> None:
    """Draw loss, IoU and both accuracies by epoch, training and validation, into the PNG `out`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "convert", "drawing training curves") from error

    with history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        epochs = [int(row["epoch"]) + 1 for row in rows]
        for key, title in ((name, "training"), (f"val_{name}", "validation")):
            axes.plot(epochs, [float(row[key]) for row in rows], label=title)
        axes.set(title=name.replace("_", " "), xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=100)
