"""`edgeloc sweep`: its flags, and what it prints of the results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.numbers import above_zero, at_least_one, for_flag, number

if TYPE_CHECKING:
    from edgeloc.benchmarks.sweeps import Sweep
    from edgeloc.benchmarks.sweeps.choice import SweepRow

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run", "sweep_table"]

HELP = "measure several models, engines and thread counts in turns, and recommend one"
EXTRA: str | None = None
NEEDS: tuple[str, ...] = ()

_WORDS = 5  # columns of words, which come before those of numbers


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(at_least_one(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise ValueError("whole numbers from 1, with commas between them, such as 1,2,4") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part) or ("auto",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+", help="model files, such as one for each recipe or input size")
    add("--out", metavar="FOLDER", default="sweep", help="where the results go (default: %(default)s)")
    add("--engines", metavar="NAMES", type=_names, default=("auto",), help="such as litert,onnxruntime (default: auto)")
    add(
        "--threads",
        metavar="COUNTS",
        type=for_flag(_counts),
        default=(),
        help="such as 1,2,4 (default: 1, 2, 4 and so on up to the cores)",
    )
    add("--validation", metavar="DATA", help="labelled images to measure quality on (default: no quality)")
    add("--validation-split", metavar="NAME", help="which split of the data, such as val (default: all of it)")
    add("--max-images", type=at_least_one, metavar="N", help="measure quality on N images (default: all)")
    add(
        "--frames",
        metavar="N",
        type=at_least_one,
        default=200,
        help="frames to time of each, in turns (default: %(default)s)",
    )
    add("--power", metavar="METER", default="auto", help="power meter: auto, none, or a URI as in edgeloc bench")
    add(
        "--max-drop",
        metavar="X",
        type=for_flag(number(0, 1)),
        default=0.01,
        help="how much of the best mean IoU or mAP may be given up for speed (default: %(default)s)",
    )
    add("--max-latency-ms", metavar="MS", type=above_zero, help="the longest median latency to recommend")
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Measure, save and print; 0 when done."""
    from dataclasses import asdict, fields

    from edgeloc._support.json import print_json
    from edgeloc.benchmarks.sweeps import SweepOptions, sweep
    from edgeloc.errors import printable

    given = {field.name: getattr(arguments, field.name) for field in fields(SweepOptions)}
    found = sweep(SweepOptions(**{**given, "models": tuple(arguments.models)}))
    if arguments.json:
        print_json({"folder": str(arguments.out), **asdict(found)})
    else:
        print(printable(sweep_table(found, arguments.out)))
    return 0


def sweep_table(found: Sweep, folder: str) -> str:
    """A row for each configuration, what was not measured, and the recommendation."""
    metered = any(row.energy_mj is not None for row in found.rows)
    head = ("", "model", "input", "precision", "engine", "threads", "p50 ms", "p90 ms", found.quality or "", "MB")
    lines = [(*head, "mJ a frame") if metered else head, *(_cells(row, found.chosen, metered) for row in found.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [_aligned(line, widths) for line in lines]
    missing = [f"not measured: {name}: {why}" for name, why in found.missing.items()]
    notes = ["> recommended, * on the Pareto front"] if found.quality else ["> recommended"]
    plot = [f"plot     {Path(folder) / found.plot}"] if found.plot else []
    files = [*plot, f"results  {Path(folder) / 'sweep.json'}"]
    return "\n".join([*table, *notes, *missing, found.recommendation, *files])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    words = zip(cells[:_WORDS], widths[:_WORDS], strict=True)
    numbers = zip(cells[_WORDS:], widths[_WORDS:], strict=True)
    padded = [*(cell.ljust(width) for cell, width in words), *(cell.rjust(width) for cell, width in numbers)]
    return "  ".join(padded).rstrip()


def _cells(row: SweepRow, chosen: str | None, metered: bool) -> tuple[str, ...]:
    mark = (">" if row.result == chosen else "") + ("*" if row.on_front else "")
    cells = (mark, Path(row.model).name, row.input, row.precision, row.engine, str(row.threads))
    figures = (_figure(row.p50_ms, 2), _figure(row.p90_ms, 2), _figure(row.quality, 3), f"{row.bytes / 1e6:.2f}")
    return (*cells, *figures, _figure(row.energy_mj, 1)) if metered else (*cells, *figures)


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
