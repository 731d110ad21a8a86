"""The figures of a model card: what a contract has under `measured`, whatever wrote it, and the limits that follow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from edgeloc.model.contract import Contract

__all__ = ["Figure", "Measurement", "Training", "limits_of", "measurement_of", "section", "training_of", "whole"]

_QUANTIZATION, _TRAINING = "quantization", "training"
# Where the gate's dictionary has a figure: the path with {} for float and quantized, and the count that it is over.
_LOCALIZER = {
    "mean IoU": ("mean_iou_{}", "images"),
    "objects found": ("presence.recall_{}", "presence.objects"),
    "false alarms": ("presence.false_alarms_{}", ""),
    "class right (top-1)": ("classes.top1_{}", "classes.images"),
}
_DETECTOR = {
    "average precision (0.5 to 0.95)": ("map_{}.ap", "all.objects"),
    "average precision (0.5)": ("map_{}.ap50", "all.objects"),
    "objects found": ("all.recall_{}", "all.objects"),
    "boxes of no object": ("false_{}", ""),
}
_SINGLE = {"IoU between the two boxes": "mean_iou_float_to_quantized", "same class": "classes.agreement"}
_SINGLE_DETECTOR = {"IoU between matched boxes": "all.box_iou", "same class": "agreement"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; None stands for what the contract does not record.

    Parameters:
        name: what it is, such as "mean IoU"; all are shares, 0 to 1.
        of: all objects, those of one size, or those of one class.
        which: the size or the class; empty for all.
        count: how many images or objects it was taken over.
        float_model: of the float network.
        quantized: of this file; or, where a figure compares the two, that one.
        drop: float minus quantized.
        drop_ci95: the drop's 95 % interval.
    """

    name: str
    of: Literal["all", "size", "class"]
    which: str
    count: int | None
    float_model: float | None
    quantized: float | None
    drop: float | None = None
    drop_ci95: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What quantization cost, as it was measured when the file was written.

    Parameters:
        data: the data set.
        split: its part.
        images: how many had an object, or of a detector all.
        passed: whether every limit of the conversion was kept.
        interval_by: what was resampled for the interval: `group` (such as clips) or `image`.
        interval_groups: how many of them.
        figures: all of them.
    """

    data: str | None
    split: str | None
    images: int | None
    passed: bool | None
    interval_by: str | None
    interval_groups: int | None
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """What the training wrote: its settings, and its own figures of the float network on validation images."""

    settings: dict[str, int | float | str | bool | None]
    validation: dict[str, float | None]


def section(values: object, path: str) -> dict[str, Any]:
    """The object at a path with dots; empty where there is none."""
    found = _at(values, path)
    return found if isinstance(found, dict) else {}


def whole(value: object) -> int | None:
    """A count, or None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def training_of(contract: Contract) -> Training | None:
    """What the contract has of its network's training; None where it has nothing."""
    found = section(contract.measured, _TRAINING)
    if not found:
        return None
    settings = {name: _scalar(value) for name, value in section(found, "settings").items()}
    return Training(settings, {name: _number(value) for name, value in section(found, "validation").items()})


def measurement_of(contract: Contract) -> Measurement | None:
    """What the contract has of the cost of its quantization; None where that was not measured."""
    found = section(contract.measured, _QUANTIZATION)
    if not found:
        return None
    passed = found.get("passed")
    return Measurement(
        data=_text(found.get("data")),
        split=_text(found.get("split")),
        images=whole(found.get("images")),
        passed=passed if isinstance(passed, bool) else None,
        interval_by=_text(found.get("ci_by")),
        interval_groups=whole(found.get("ci_groups")),
        figures=tuple(_figures(found)),
    )


def _figures(found: dict[str, Any]) -> Iterator[Figure]:
    detector = "map_float" in found
    for name, (path, over) in (_DETECTOR if detector else _LOCALIZER).items():
        pair = _number(_at(found, path.format("float"))), _number(_at(found, path.format("quantized")))
        if pair == (None, None):
            continue
        count = _negatives(found) if name == "false alarms" else whole(_at(found, over))
        first = name in ("mean IoU", "average precision (0.5 to 0.95)")
        drop = _drop(*pair, _number(_at(found, "map_drop" if detector else "mean_iou_drop")) if first else None)
        yield Figure(name, "all", "", count, *pair, drop, _interval(found) if first else None)
    for name, path in (_SINGLE_DETECTOR if detector else _SINGLE).items():
        value = _number(_at(found, path))
        if value is not None:
            yield Figure(name, "all", "", None, None, value)
    yield from _by(found, "size", detector)
    yield from _by(found, "class", detector)


def _by(found: dict[str, Any], of: Literal["size", "class"], detector: bool) -> Iterator[Figure]:
    """The figures of each size or class that the contract has."""
    for which, values in section(found, f"by_{of}").items():
        name, path, over = (
            ("objects found", "recall_{}", "objects") if detector else ("mean IoU", "mean_iou_{}", "images")
        )
        pair = _number(_at(values, path.format("float"))), _number(_at(values, path.format("quantized")))
        drop = _drop(*pair, _number(_at(values, "mean_iou_drop")))
        yield Figure(name, of, which, whole(_at(values, over)), *pair, drop)


def limits_of(contract: Contract, measured: Measurement | None) -> Iterator[str]:
    """What the model cannot do, as far as the contract shows it."""
    if contract.finds_one:
        yield "It answers one object a frame: with two in view it may frame both, one, or neither."
    elif contract.detector is None:
        yield f"It was made for {contract.box.objects} objects a frame."
    if contract.labels:
        yield f"It knows {len(contract.labels)} labels: anything else that it finds gets one of them."
    if contract.adapted_from is not None and contract.adapted_from.get("head") == "presence":
        yield (
            "Its presence head was fitted to one place on the device: the figures are of the file before, and objects "
            "found and false alarms are others now."
        )
    elif contract.adapted_from is not None:
        yield "A class was added on the device: the figures are of the file before, and say nothing of that class."
    if measured is None:
        yield "Nothing was measured when it was converted: how accurate it is, is unknown."
        return
    yield from _weakest(measured, "size")
    yield from _weakest(measured, "class")
    found = section(contract.measured, f"{_QUANTIZATION}.presence")
    if found and not whole(found.get("empty_images")):
        crops = whole(found.get("background_crops"))
        yield f"False alarms were counted on {crops or 0:,} crops of background beside objects, on no empty image."
    if measured.interval_by == "image":
        yield "The interval resamples single images: frames of one clip would make it too narrow."
    yield "The figures are of the data named here; on other cameras, places and light they may be worse."


def _weakest(measured: Measurement, of: str) -> Iterator[str]:
    known = [figure for figure in measured.figures if figure.of == of and figure.quantized is not None]
    if len(known) > 1:
        worst = min(known, key=lambda figure: figure.quantized or 0.0)
        over = "" if worst.count is None else f" over {worst.count} of them"
        yield f"Weakest {of}: {worst.which}, {worst.name} {worst.quantized:.3f}{over}."


def _negatives(found: dict[str, Any]) -> int | None:
    counts = [whole(_at(found, f"presence.{name}")) for name in ("empty_images", "background_crops")]
    return None if None in counts else sum(count or 0 for count in counts)


def _interval(found: dict[str, Any]) -> tuple[float, float] | None:
    limits = found.get("drop_ci95")
    numbers = [_number(limit) for limit in limits] if isinstance(limits, list) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        return None
    return numbers[0], numbers[1]


def _at(values: object, path: str) -> object:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _number(value: object) -> float | None:
    """A finite number, or None: the contract of another program may hold anything."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _drop(before: float | None, after: float | None, recorded: float | None = None) -> float | None:
    """The drop as it was recorded, else of the means, which are rounded."""
    if recorded is not None or before is None or after is None:
        return recorded
    return round(before - after, 5)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _scalar(value: object) -> int | float | str | bool | None:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return _number(value) if isinstance(value, float) else json.dumps(value)
