"""How a detector's numbers become boxes and scores: described in a contract, whatever family it is of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgeloc.errors import ContractError

__all__ = ["DetectorBox", "DetectorSpec", "Locations", "Scores", "Selection", "Stages"]

_MOST_LOCATIONS = 1 << 20
_MOST_LEVELS, _MOST_ANCHORS = 16, 64
_LARGEST = 1 << 16
_MOST_BINS = 256
_MOST_OBJECTS = 10_000
_MOST_REGIONS, _LARGEST_SIDE = 1000, 512

DetectorForm = Literal["cxcywh", "cycxhw", "xyxy", "yxyx", "xywh", "distances", "cell"]
DetectorUnits = Literal["fraction", "pixels", "stride", "anchor"]
CenterActivation = Literal["none", "sigmoid", "wide-sigmoid", "tanh"]
SizeActivation = Literal["none", "exp", "sigmoid", "squared-sigmoid", "relu", "softplus"]
ScoreActivation = Literal["none", "sigmoid", "softmax"]
Background = Literal["none", "first", "last"]
Order = Literal["cells-first", "anchors-first"]
Suppression = Literal["none", "by-class", "over-all", "merge"]
Method = Literal["rcnn", "fast-rcnn", "faster-rcnn"]


@dataclass(frozen=True, slots=True)
class Locations:
    """Where a detector looks: the cells of one grid or several, each with one anchor or several, or a table.

    A level is a grid over the whole input, with ceil(side / stride) cells along each side. The levels follow each other
    in the order of `strides`, cells row by row. Without strides and table every row of the output is a box by itself.

    Parameters:
        strides: the side of a cell in input pixels, for each level.
        offset: where in its cell a location lies, from the cell's top left corner, in cells: 0.5 is the middle.
        anchors: for each level the (width, height) of each anchor of a cell, in input pixels; empty where a cell has
            one location, as wide and high as its stride.
        order: whether the anchors of a cell follow each other (`cells-first`), or all cells of an anchor do.
        table: instead of strides and anchors, (cx, cy, width, height) of each location in fractions of the input.
    """

    strides: tuple[int, ...] = ()
    offset: float = 0.5
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    order: Order = "cells-first"
    table: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        where = "detector.locations"
        _one_of(f"{where}.order", self.order, Order)
        _within(f"{where}.offset", self.offset, 0, 1)
        if len(self.strides) > _MOST_LEVELS or not all(1 <= stride <= _LARGEST for stride in self.strides):
            allowed = f"at most {_MOST_LEVELS} numbers from 1 to {_LARGEST:,}"
            raise ContractError(field=f"{where}.strides", value=list(self.strides), allowed=allowed)
        if self.table and (self.strides or self.anchors):
            raise ContractError(f"{where} has both a table and strides or anchors", hint="keep one of the two")
        if self.anchors and len(self.anchors) != len(self.strides):
            raise ContractError(
                field=f"{where}.anchors",
                value=f"a list of {len(self.anchors)}",
                allowed=f"one list of (width, height) for each of the {len(self.strides)} strides",
            )
        if not all(1 <= len(level) <= _MOST_ANCHORS for level in self.anchors):
            raise ContractError(f"{where}.anchors: a level has 1 to {_MOST_ANCHORS} anchors")
        if len(self.table) > _MOST_LOCATIONS:
            raise ContractError(f"{where}.table has more than {_MOST_LOCATIONS:,} rows")
        sizes = [side for level in self.anchors for size in level for side in size]
        sizes += [side for row in self.table for side in row[2:]]
        if not all(0 < side <= _LARGEST for side in sizes):
            raise ContractError(f"{where}: widths and heights must be above 0 and at most {_LARGEST:,}")
        if not all(math.isfinite(number) for row in self.table for number in row):
            raise ContractError(f"{where}.table must hold finite numbers")

    def counts(self, width: int, height: int) -> list[int]:
        """How many locations each level has for an input of this size; a table is one level; empty without either."""
        if self.table:
            return [len(self.table)]
        counts = [
            math.ceil(width / stride) * math.ceil(height / stride) * self.per_cell(level)
            for level, stride in enumerate(self.strides)
        ]
        if sum(counts) > _MOST_LOCATIONS:
            raise ContractError(f"detector.locations: more than {_MOST_LOCATIONS:,} in an input of {width} x {height}")
        return counts

    def per_cell(self, level: int) -> int:
        """How many locations a cell of a level has."""
        return len(self.anchors[level]) if self.anchors else 1


@dataclass(frozen=True, slots=True)
class DetectorBox:
    """How the numbers of a location become a box in the input.

    With a location's centre (ax, ay), size (aw, ah) and stride s, in pixels, and u the unit:

    - `cxcywh`, `cycxhw`: cx = ax + center(x) * variances[0] * u, and w = size(w) * variances[1] * u, where an `exp` is
      exp(w * variances[1]) * u (Liu et al. 2016 for SSD; Redmon and Farhadi 2018 for `sigmoid` and `exp`; YOLOv5 for
      `wide-sigmoid`, 2 * sigmoid - 0.5, and `squared-sigmoid`, (2 * sigmoid)^2);
    - `distances`: to the left, top, right and bottom edge from (ax, ay), each size(d) * u (Tian et al. 2019), or with
      `bins` the expectation of a softmax over 0 ... bins - 1, times u (Li et al. 2020);
    - `xyxy`, `yxyx`, `xywh`: edges, times u;
    - `cell`: no numbers, the box is the location's own.

    Where there are no locations, (ax, ay) is (0, 0) and the unit is `fraction` or `pixels`.

    Parameters:
        form: the order and meaning of the numbers.
        units: what one is: `fraction` of the input's sides, `pixels` of the input, the location's `stride`, or its
            `anchor`, which is the width for x and the height for y.
        size_units: the unit of widths and heights in `cxcywh` and `cycxhw`, where it is another; None for `units`.
        center: the activation that the host has yet to apply to a centre.
        size: likewise to widths, heights and distances.
        variances: what centre and size are scaled with.
        bins: how many numbers make a distance; 0 where it is one number.
    """

    form: DetectorForm = "cxcywh"
    units: DetectorUnits = "fraction"
    size_units: DetectorUnits | None = None
    center: CenterActivation = "none"
    size: SizeActivation = "none"
    variances: tuple[float, float] = (1.0, 1.0)
    bins: int = 0

    def __post_init__(self) -> None:
        _one_of("detector.box.form", self.form, DetectorForm)
        _one_of("detector.box.units", self.units, DetectorUnits)
        if self.size_units is not None:
            _one_of("detector.box.size_units", self.size_units, DetectorUnits)
        _one_of("detector.box.center", self.center, CenterActivation)
        _one_of("detector.box.size", self.size, SizeActivation)
        if not all(0 < value <= _LARGEST for value in self.variances):
            raise ContractError(field="detector.box.variances", value=list(self.variances), allowed="numbers above 0")
        if self.bins and (self.form != "distances" or not 2 <= self.bins <= _MOST_BINS):
            raise ContractError(
                field="detector.box.bins", value=self.bins, allowed=f"0, or 2 to {_MOST_BINS} for the form 'distances'"
            )

    @property
    def numbers(self) -> int:
        """How many numbers of an output make one box."""
        return 0 if self.form == "cell" else 4 * max(self.bins, 1)


@dataclass(frozen=True, slots=True)
class Scores:
    """How the score of a location comes about: objectness^powers[0] * class^powers[1], of probabilities.

    Parameters:
        activation: what the host has yet to apply to the classes to make them probabilities.
        objectness: likewise to the objectness.
        background: whether a class that stands for nothing comes before the others, behind them, or not at all.
        powers: of the objectness and of the class.
        scale: what an output that is sure answers: 1, or 100 where scores are percentages.
        first_class: the number of the first label, where classes are numbers (the part `class-number`).
    """

    activation: ScoreActivation = "none"
    objectness: Literal["none", "sigmoid"] = "none"
    background: Background = "none"
    powers: tuple[float, float] = (1.0, 1.0)
    scale: float = 1.0
    first_class: int = 0

    def __post_init__(self) -> None:
        _one_of("detector.scores.activation", self.activation, ScoreActivation)
        _one_of("detector.scores.objectness", self.objectness, Literal["none", "sigmoid"])
        _one_of("detector.scores.background", self.background, Background)
        if not all(0 < power <= 10 for power in self.powers):
            allowed = "numbers above 0, at most 10"
            raise ContractError(field="detector.scores.powers", value=list(self.powers), allowed=allowed)
        if not 0 < self.scale <= _LARGEST:
            raise ContractError(field="detector.scores.scale", value=self.scale, allowed="a number above 0")
        _within("detector.scores.first_class", self.first_class, 0, _LARGEST)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the boxes whose score reaches the contract's presence threshold are objects.

    Parameters:
        nms: how boxes that overlap are reduced to the best: `by-class`, `over-all` classes, or `none` where the model
            does so itself; `merge` makes one box of those of a class that touch, and takes the best score.
        iou: from which intersection over union two boxes are of one object.
        candidates: how many boxes, the best, are looked at.
        objects: how many objects a result has at most.
    """

    nms: Suppression = "by-class"
    iou: float = 0.5
    candidates: int = 1000
    objects: int = 100

    def __post_init__(self) -> None:
        _one_of("detector.selection.nms", self.nms, Suppression)
        _within("detector.selection.iou", self.iou, 0, 1)
        _within("detector.selection.candidates", self.candidates, 1, _MOST_OBJECTS)
        _within("detector.selection.objects", self.objects, 1, _MOST_OBJECTS)


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What a model answers that finds any number of objects.

    Parameters:
        locations: where it looks.
        box: how numbers become boxes.
        scores: how they become scores.
        selection: which boxes are objects.
    """

    locations: Locations = field(default_factory=Locations)
    box: DetectorBox = field(default_factory=DetectorBox)
    scores: Scores = field(default_factory=Scores)
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        units = {self.box.units, self.box.size_units}
        if not self.locations.strides and "stride" in units:
            raise ContractError(
                field="detector.box.units", value="stride", allowed="fraction, pixels or anchor without strides"
            )
        placed = bool(self.locations.strides or self.locations.table)
        if not placed and ("anchor" in units or self.box.form in ("distances", "cell")):
            raise ContractError("detector.locations is empty: this box needs strides, or a table of anchors")
        if placed and self.box.form in ("xyxy", "yxyx", "xywh"):
            raise ContractError(
                f"detector.box.form is {self.box.form!r}: edges do not start from a location",
                hint="leave detector.locations out, or take cxcywh, cycxhw or distances",
            )


@dataclass(frozen=True, slots=True)
class Stages:
    """How a detector of two stages is run: regions are proposed, then a head classifies each and refines its box.

    - `rcnn` (Girshick et al. 2014): regions that stand out from what is around them, each as a crop through a network;
    - `fast-rcnn` (Girshick 2015): such regions, each out of one feature map through a head;
    - `faster-rcnn` (Ren et al. 2015): regions that the network of the feature map proposes too.

    The head answers in `class` and `box` for one region, the latter as DetectorBox's `cxcywh` in units of the region;
    what the contract describes are the classes and corners of all regions.

    Parameters:
        method: one of the three.
        regions: how many are looked at, at most.
        side: how many cells of the feature map, or pixels of a crop, a region has along each side in the head's input.
        stride: of the feature map, in input pixels; 1 for crops.
        variances: what the centre and the size of the head's box are scaled with.
        proposals: of faster-rcnn, how the outputs `proposal_class` and `proposal_box` become regions.
        threshold: from which score, 0 to 1, a proposal is one.
    """

    method: Method
    regions: int = 32
    side: int = 7
    stride: int = 8
    variances: tuple[float, float] = (0.1, 0.2)
    proposals: DetectorSpec | None = None
    threshold: float = 0.05

    def __post_init__(self) -> None:
        _one_of("stages.method", self.method, Method)
        _within("stages.regions", self.regions, 1, _MOST_REGIONS)
        _within("stages.side", self.side, 1, _LARGEST_SIDE)
        _within("stages.stride", self.stride, 1, _LARGEST)
        _within("stages.threshold", self.threshold, 0, 1)
        if not all(0 < value <= _LARGEST for value in self.variances):
            raise ContractError(field="stages.variances", value=list(self.variances), allowed="numbers above 0")
        if (self.method == "rcnn") != (self.stride == 1):
            raise ContractError(field="stages.stride", value=self.stride, allowed="1 for rcnn, above 1 for the others")
        if (self.method == "faster-rcnn") != (self.proposals is not None):
            raise ContractError("stages.proposals must be given for faster-rcnn, and only for it")


def _one_of(name: str, value: object, words: object) -> None:
    allowed = get_args(words)
    if value not in allowed:
        raise ContractError(field=name, value=value, allowed=f"one of {', '.join(map(str, allowed))}")


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ContractError(field=name, value=value, allowed=f"{least:g} to {most:,g}")
