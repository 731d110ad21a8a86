"""Energy as people read it: a line for the terminal, words and a table for the report; `energy` measures it."""

from __future__ import annotations

from typing import Any

from edgeloc.benchmarks import plots
from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.tables import Table

__all__ = ["energy_line", "energy_part"]


def energy_line(energy: Energy) -> str:
    """The figures in one line, or that and why there are none."""
    if energy.per_frame_mj is None:
        return f"not measured: {energy.reason}" if energy.reason else "not measured"
    frame = _plus_minus(energy.per_frame_mj, energy.per_frame_uncertainty_mj)
    inference = _plus_minus(energy.per_inference_mj, energy.per_inference_uncertainty_mj)
    return (
        f"{frame} mJ a frame, {inference} mJ an inference beyond idle, {energy.power_w:.3g} W  "
        f"({energy.status}: {energy.source})"
    )


def energy_part(energy: Energy) -> dict[str, Any]:
    """What the report shows: words, and where there are figures or readings a table and a plot of the power."""
    plot = plots.power_course(energy) if len(energy.t_s) > 1 else ""
    if energy.per_frame_mj is None:
        reason = (energy.reason or "no power meter took part").rstrip(".")
        return {"words": f"Not measured: {reason}.", "table": None, "plot": plot}
    return {"words": _words(energy), "table": _table(energy), "plot": plot}


def _words(energy: Energy) -> str:
    replayed = " These are a recording's readings, not this run's." if energy.status == "replayed" else ""
    gain = (
        "its gain error is not known and not in the figures"
        if energy.gain_error is None
        else f"its gain error of {100 * energy.gain_error:.2g} % is in the figures"
    )
    return (
        f"What the work took beyond being idle, by {energy.source}.{replayed} {energy.readings} readings at up to "
        f"{energy.rate_hz:.3g} a second, the longest gap {energy.longest_gap_s:.2g} s; {gain}. "
        f"The meter does not see {energy.blind_to}."
    )


def _table(energy: Energy) -> Table:
    frame = _plus_minus(energy.per_frame_mj, energy.per_frame_uncertainty_mj)
    inference = _plus_minus(energy.per_inference_mj, energy.per_inference_uncertainty_mj)
    power = _plus_minus(energy.power_w, energy.power_uncertainty_w)
    idle = f"{energy.idle_before_w:.4g} and {energy.idle_after_w:.4g} W"
    rows = [
        [f"energy a frame, all stages, over {energy.frames} frames", f"{frame} mJ"],
        [f"energy an inference, invoke alone, over {energy.inferences}", f"{inference} mJ"],
        ["power while frames were timed, idle included", f"{power} W"],
        ["power idle, before and after", idle],
    ]
    return Table([], rows)


def _plus_minus(value: float | None, spread: float | None) -> str:
    """A value with as many decimals as two digits of its uncertainty have."""
    if value is None or spread is None:
        return "-"
    digits = max(0, 1 - int(f"{spread:e}".partition("e")[2])) if spread else 3
    return f"{value:.{digits}f} ± {spread:.{digits}f}"
