"""Outputs of detectors taken apart: box, objectness and class scores leave alone, as far as the host can go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.output_heads.graph import HeadGraph, Places, indices_of, tensors_of
from edgeloc.converters.output_heads.surgery import Surgeon, answers
from edgeloc.decode.detector import DetectorReader, location_rows
from edgeloc.decode.places import BoxDecoder, box_decoder, locate
from edgeloc.engines import open_engine
from edgeloc.errors import ModelError
from edgeloc.model.contract import Contract, Layout, OutputSpec
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations
from edgeloc.model.fit import channels_of, check_contract, columns_of, part_sizes

__all__ = ["DetectorPart", "DetectorSplit", "Move", "repair_detector", "split_detector"]

Array = NDArray[np.float32]

_MOST_DIFFERENT = 1e-4
_IMAGES = 8
_TRIED = 2
_MOST_TENSORS = 120
_MOST_BINS = 32
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16), (8,), (16,), (32,))
# What detectors without anchors make boxes of: YOLOv8's distances, YOLOX's offsets and logarithms.
_FORMS = (DetectorBox("distances", "stride"), DetectorBox("cxcywh", "stride", size="exp"))


class Move(NamedTuple):
    """An activation that the graph applies to columns of a part, and that a field of the contract can take over."""

    section: Literal["box", "scores"]
    field: str
    activation: str
    columns: slice


_ALL, _CENTER, _SIZE = slice(None), slice(0, 2), slice(2, 4)
_PROBABILITY = {"LOGISTIC": "sigmoid"}
_EDGE = {"LOGISTIC": "sigmoid", "EXP": "exp"}


@dataclass(frozen=True, eq=False)
class _RawBoxes:
    """Numbers before their decoding, `places` (locations, numbers), and the description by which they are the boxes."""

    places: Places
    locations: Locations
    box: DetectorBox


@dataclass(frozen=True, eq=False)
class DetectorPart:
    """One quantity of an output of detections, and where its numbers are computed.

    `name` is what it is; `output` the one that holds it, and `alone` whether it holds nothing else. `places` is
    (locations, numbers), before `moves`, the activations that the graph applies and the host could. `scales` are the
    tensors that its numbers go through before those: in int8 all of them have one scale. `raw` is how the host decodes
    boxes that the graph decoded, whose numbers before that are `places`.
    """

    name: str
    output: OutputSpec
    alone: bool
    moves: tuple[Move, ...]
    places: Places = field(repr=False)
    scales: frozenset[int]
    raw: _RawBoxes | None = None

    def shares_with(self, other: DetectorPart) -> bool:
        """Whether another quantity is on its scale: in the same output, or computed by the same layer."""
        return other.name != self.name and (self.output is other.output or bool(self.scales & other.scales))

    def is_apart(self, parts: Sequence[DetectorPart]) -> bool:
        """Whether it is an output of its own already, of a layer of its own, without an activation to take off."""
        return (
            self.alone and not self.moves and self.raw is None and not any(self.shares_with(other) for other in parts)
        )


class DetectorSplit(NamedTuple):
    """A detector taken apart: its flatbuffer, its contract, and the parts by the names of their outputs.

    `activated` is the contract for numbers to which the graph's activations have been applied.
    """

    flatbuffer: bytes
    contract: Contract
    activated: Contract
    named: Mapping[str, DetectorPart]


def split_detector(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32] | None = None) -> DetectorSplit:
    """Take every output of a detector apart, exactly; what is apart already stays as it is.

    With `images`, as `repair_detector` has them, boxes that the graph decodes leave before that, where that is found.
    Raises ModelError when an operator cannot be split, ContractError when the contract does not fit the model.
    """
    engine = open_engine("auto", flatbuffer)
    check_contract(contract, engine.inputs, engine.outputs)
    assert contract.detector is not None
    graph = HeadGraph(flatbuffer)
    parts = _parts(graph, contract, contract.detector)
    if images is not None:
        parts = [_undecoded(flatbuffer, contract, graph, part, images) for part in parts]
    surgeon, outputs, tensors, named = Surgeon(graph), [], {}, {}
    for part in parts:
        if part.is_apart(parts):
            name, tensor, layout = part.output.tensor, graph.outputs[part.output.tensor], part.output.layout
        else:
            name = _name(part, graph)
            tensor, layout = _take(surgeon, part.places, name)
        outputs.append(OutputSpec(name, "detections", parts=(part.name,), layout=layout, level=part.output.level))
        tensors[name], named[name] = tensor, part
    activated = dataclasses.replace(contract, outputs=tuple(outputs))
    described = dataclasses.replace(activated, detector=_described(contract.detector, parts))
    return DetectorSplit(surgeon.finish(tensors), described, activated, named)


def repair_detector(
    flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]
) -> tuple[bytes, Contract, tuple[str, ...]]:
    """Give box, objectness and class scores of a detector an output and a scale of their own.

    The last sigmoid or softmax goes to the host, as does that, a tanh or an exponential of the box. Weights are sliced,
    never changed: scores are those of the original within 1e-4, corners within 1e-4 of the input's side. Returns as
    `repair_head` does, with its errors.
    """
    split = split_detector(flatbuffer, contract, images)
    parts = list(split.named.values())
    if all(part.is_apart(parts) for part in parts):
        return flatbuffer, contract, ()
    _check((flatbuffer, contract), (split.flatbuffer, split.contract), images[:_IMAGES])
    changed = {name: part for name, part in split.named.items() if not part.is_apart(parts)}
    return split.flatbuffer, split.contract, tuple(_sentence(name, part) for name, part in changed.items())


def _parts(graph: HeadGraph, contract: Contract, spec: DetectorSpec) -> list[DetectorPart]:
    sizes = part_sizes(spec, len(contract.labels))
    parts = []
    for output in contract.outputs:
        tensor, channels = graph.outputs[output.tensor], channels_of(output, sizes)
        rows = location_rows(
            graph.everything(tensor), output.layout, channels, spec.locations.per_cell(output.level or 0)
        )
        for name, columns in columns_of(output, sizes):
            alone = columns == slice(0, channels)
            places, scales = graph.trail(rows[:, columns])
            moves = tuple(_moves(graph, spec, name, places, alone and name == "class"))
            parts.append(DetectorPart(name, output, alone, moves, places, scales))
    return [_before_moves(graph, part, _common(part, parts)) for part in parts]


def _moves(graph: HeadGraph, spec: DetectorSpec, name: str, places: Places, alone: bool) -> Iterator[Move]:
    """The activations that made a part's numbers, where the contract has none yet and could have them."""
    box, scores = spec.box, spec.scores
    wanted: list[tuple[Literal["box", "scores"], str, Mapping[str, str], slice]] = []
    if name in ("class", "score") and scores.activation == "none":
        # Without a background or an objectness the host could not tell from one logit whether a softmax is worth it.
        softmax = {"SOFTMAX": "softmax"} if name == "class" and not (alone and scores.background == "none") else {}
        wanted.append(("scores", "activation", _PROBABILITY | softmax, _ALL))
    if name == "objectness" and scores.objectness == "none":
        wanted.append(("scores", "objectness", _PROBABILITY, _ALL))
    if name == "box" and box.form in ("cxcywh", "cycxhw") and box.center == "none":
        wanted.append(("box", "center", {"LOGISTIC": "sigmoid", "TANH": "tanh"}, _CENTER))
    if name == "box" and box.form in ("cxcywh", "cycxhw", "distances") and box.size == "none" and not box.bins:
        sizes = _EDGE if box.variances[1] == 1 else _PROBABILITY
        wanted.append(("box", "size", sizes, _ALL if box.form == "distances" else _SIZE))
    for section, which, activations, columns in wanted:
        kind = graph.activation_of(places[:, columns])
        if kind in activations:
            yield Move(section, which, activations[kind], columns)


def _common(part: DetectorPart, parts: Sequence[DetectorPart]) -> tuple[Move, ...]:
    """The moves that all levels of a part allow: the contract describes them together."""
    levels = [other for other in parts if other.name == part.name]
    return tuple(move for move in part.moves if all(move in other.moves for other in levels))


def _before_moves(graph: HeadGraph, part: DetectorPart, moves: tuple[Move, ...]) -> DetectorPart:
    if not moves:
        return dataclasses.replace(part, moves=())
    places = part.places.copy()
    for move in moves:
        places[:, move.columns] = graph.before(places[:, move.columns])
    places, scales = graph.trail(places)
    return dataclasses.replace(part, moves=moves, places=places, scales=scales)


def _undecoded(
    flatbuffer: bytes, contract: Contract, graph: HeadGraph, part: DetectorPart, images: NDArray[np.float32]
) -> DetectorPart:
    """The numbers that the boxes of a model without a description of its locations are decoded from, where found."""
    assert contract.detector is not None
    locations = contract.detector.locations
    if part.name != "box" or part.output.level is not None or locations.strides or locations.table:
        return part
    raw = _raw_boxes(flatbuffer, contract, part.places, images)
    if raw is None:
        return part
    places, scales = graph.trail(raw.places)
    part = dataclasses.replace(part, moves=(), places=places, scales=scales, raw=raw)
    described = dataclasses.replace(contract.detector, locations=raw.locations, box=raw.box)
    # Of distances that are exponentials, the largest would set the scale: that of some location that holds nothing.
    return _before_moves(graph, part, tuple(_moves(graph, described, "box", places, False)))


def _raw_boxes(flatbuffer: bytes, contract: Contract, places: Places, images: NDArray[np.float32]) -> _RawBoxes | None:
    """The numbers that boxes in `places` (locations, 4) are decoded from; None where none gives these boxes.

    Whatever the graph computes on the way is tried, the earliest first: as distances or their bins, as offsets and
    logarithms, of grids with usual strides. What gives the boxes of two images within 1e-4 of the input's side is it.
    """
    width, height = contract.input.width, contract.input.height
    strides = next((run for run in _STRIDES if sum(Locations(run).counts(width, height)) == len(places)), None)
    if strides is None or len(images) == 0:
        return None
    graph = HeadGraph(flatbuffer)
    candidates = _candidates(graph, places)
    if not candidates:
        return None
    values = answers(_with_outputs(flatbuffer, candidates), images[:_TRIED])
    wanted = _corners(flatbuffer, contract, images[:_TRIED])
    for tensor in candidates:
        ways = zip(_rows(graph.everything(tensor), len(places)), _rows(values[str(tensor)], len(places)), strict=True)
        for (rows,), numbers in ways:
            for locations, box in _hypotheses(strides, rows.shape[1] // 4):
                decode = box_decoder(box, locate(locations, width, height), width, height)
                if _gives(decode, numbers, wanted, max(width, height)):
                    return _RawBoxes(graph.trail(np.asarray(rows, np.int64))[0], locations, box)
    return None


def _gives(decode: BoxDecoder, numbers: NDArray[Any], wanted: Sequence[Array], side: int) -> bool:
    with np.errstate(over="ignore"):
        found = [decode(np.asarray(rows, np.float32), np.arange(len(rows))) for rows in numbers]
    return np.allclose(found, wanted, _MOST_DIFFERENT, _MOST_DIFFERENT * side)


def _candidates(graph: HeadGraph, places: Places) -> list[int]:
    """Tensors on the way to these numbers that hold as many for each location as boxes are made of, earliest first."""
    count, found = 4 * len(places), dict[int, None]()
    waiting = np.unique(tensors_of(places)).tolist()
    seen = set(waiting)
    while waiting and len(seen) < _MOST_TENSORS:
        tensor = waiting.pop(0)
        size = graph.everything(tensor).size
        if size % count == 0 and size <= count * _MOST_BINS and graph.shape(tensor)[0] == 1:
            found[tensor] = None
        operator = graph.producer(tensor)
        sources = [] if operator is None else [int(index) for index in operator.inputs if index >= 0]
        if graph.made_by(tensor) in _WEIGHTED and graph.everything(sources[0]).size % count:
            continue  # the layer that the numbers come out of
        waiting += [index for index in sources if index not in seen and graph.producer(index) is not None]
        seen.update(sources)
    return list(found)[::-1]


def _with_outputs(flatbuffer: bytes, tensors: Sequence[int]) -> bytes:
    return Surgeon(HeadGraph(flatbuffer)).finish({str(tensor): tensor for tensor in tensors})


def _corners(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]) -> list[Array]:
    reader = DetectorReader(contract, {})
    return [reader.everything(answers(flatbuffer, image[np.newaxis]))[2] for image in images]


def _rows(values: NDArray[Any], count: int) -> Iterator[NDArray[Any]]:
    """An array (n, ...) as rows (n, locations, numbers), in each way that its shape allows."""
    shape = tuple(size for size in values.shape[1:] if size != 1)
    flat = values.reshape(len(values), *shape)
    numbers = int(np.prod(shape)) // count
    bins = numbers // 4
    if shape == (count, numbers) or shape == (count, 4, bins):
        yield flat.reshape(len(values), count, numbers)
    if shape == (numbers, count):
        yield flat.transpose(0, 2, 1)
    if shape == (4, count, bins):
        yield flat.transpose(0, 2, 1, 3).reshape(len(values), count, numbers)
    if shape == (4, bins, count):
        yield flat.transpose(0, 3, 1, 2).reshape(len(values), count, numbers)


def _hypotheses(strides: tuple[int, ...], bins: int) -> Iterator[tuple[Locations, DetectorBox]]:
    forms = _FORMS if bins == 1 else (DetectorBox("distances", "stride", bins=bins),)
    for box in forms:
        for offset in (0.5, 0.0):
            yield Locations(strides, offset), box


def _name(part: DetectorPart, graph: HeadGraph) -> str:
    """Of the output that a part becomes: its old one, where that held nothing else."""
    if part.alone:
        return part.output.tensor
    name = part.name if part.output.level is None else f"{part.name}_{part.output.level}"
    return f"{part.output.tensor}_{name}" if name in graph.outputs else name


def _take(surgeon: Surgeon, places: Places, name: str) -> tuple[int, Layout]:
    """A tensor of these numbers alone, and how it lies: as the layers that compute it have them, where they can."""
    tensors, indices = tensors_of(places), indices_of(places)
    beside = (np.diff(tensors, axis=1) == 0) & (np.abs(np.diff(indices, axis=1)) == 1)
    ways: list[tuple[Layout, Places]] = [("channels-last", places), ("channels-first", places.T)]
    if places.shape[1] > 1 and not beside.any():
        ways.reverse()
    (first, laid), (second, transposed) = ways
    try:
        return surgeon.take(laid, name), first
    except ModelError:
        if places.shape[1] == 1:
            raise
    return surgeon.take(transposed, name), second


def _described(spec: DetectorSpec, parts: Sequence[DetectorPart]) -> DetectorSpec:
    """The description of numbers before the moves, and before a decoding in the graph."""
    for raw in (part.raw for part in parts if part.raw is not None):
        spec = dataclasses.replace(spec, locations=raw.locations, box=raw.box)
    for move in dict.fromkeys((move.section, move.field, move.activation) for part in parts for move in part.moves):
        section, which, activation = move
        changed = dataclasses.replace(getattr(spec, section), **{which: activation})
        spec = dataclasses.replace(spec, **{section: changed})
    return spec


def _sentence(name: str, part: DetectorPart) -> str:
    what = f"{part.name} leaves as the output {name}"
    if not part.alone:
        what += f", split off {part.output.tensor}"
    if part.moves:
        what += f", before its {' and '.join(move.activation for move in part.moves)}, which the host applies"
    if part.raw is not None:
        what += ", before the graph decodes it, which the host does"
    return what


def _check(before: tuple[bytes, Contract], after: tuple[bytes, Contract], images: NDArray[np.float32]) -> None:
    """Raise ModelError when the split model does not answer as the original does, location by location."""
    side = max(before[1].input.width, before[1].input.height)
    for old, new in zip(_everything(*before, images), _everything(*after, images), strict=True):
        units = (1, 1, side)
        if not all(
            one.shape == other.shape and np.allclose(one, other, _MOST_DIFFERENT, _MOST_DIFFERENT * unit)
            for one, other, unit in zip(old, new, units, strict=True)
        ):
            raise ModelError(
                "splitting the outputs changed the answers",
                hint="convert without {fix_head}, and report the model",
            )


def _everything(
    flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], ...]]:
    reader = DetectorReader(contract, {})
    with np.errstate(over="ignore"):
        for image in images:
            yield reader.everything(answers(flatbuffer, image[np.newaxis]))
