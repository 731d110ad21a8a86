"""Numbers of a result as people read them; which ones are shown where is the page's and the command's affair."""

from __future__ import annotations

from edgeloc.evaluation.figures import SIZES, Regression

__all__ = ["drop", "interval", "number", "size", "size_ranges", "threads"]


def number(value: float | None) -> str:
    """A share or an IoU, to a thousandth; a dash where there was nothing to take a mean of."""
    return "-" if value is None else f"{value:.3f}"


def drop(before: float | None, after: float | None) -> str:
    """How much `after` is below `before`, to a ten-thousandth; below 0 it is above."""
    return "-" if before is None or after is None else _signed(before - after)


def interval(regression: Regression) -> str:
    """The drop's 95 % interval."""
    if regression.drop_ci95 is None:
        return "-"
    low, high = regression.drop_ci95
    return f"{_signed(low)} to {_signed(high)}"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # + 0.0 makes 0 of -0


def size(count: int) -> str:
    """Bytes as MB or kB."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def size_ranges() -> str:
    """The limits of SIZES."""
    words = []
    for name, (low, high) in SIZES.items():
        limits = f"from {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
        words.append(f"{name} " + (f"below {high:g}" if low == 0 else limits))
    return ", ".join(words)


def threads(count: int | None) -> str:
    """How many threads an engine was given."""
    return "the engine's default threads" if count is None else f"{count} thread{'s' * (count != 1)}"
