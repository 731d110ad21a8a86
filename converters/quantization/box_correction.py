"""Box correction after quantization: shifts of the last biases by which int8's boxes come nearest to the float ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.quantization.bias_correction import WEIGHTED, add_to_bias
from edgeloc.decode.detector import DetectorReader, location_rows
from edgeloc.decode.heads import head_reader, vector_columns
from edgeloc.decode.numbers import Quantization, Reading, dequantized
from edgeloc.decode.places import box_decoder, locate
from edgeloc.engines import open_engine
from edgeloc.findings import Finding
from edgeloc.model.contract import Contract, OutputSpec
from edgeloc.model.fit import channels_of, columns_of, part_sizes
from edgeloc.model.flatbuffer import operator_name, pack, text, unpack

__all__ = ["BoxCorrection"]

Array = NDArray[np.float32]
Indices = NDArray[np.int64]
Outputs = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
# From a shift of each of the four numbers of n boxes, (n, 4), to their corners, (n, 4).
Decode = Callable[[Array], Array]

# Operators that move numbers and change none: what may lie between an output and the layer that makes it.
_MOVING = ("CONCATENATION", "EXPAND_DIMS", "RESHAPE", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE")
# From so many boxes on a shift is estimated.
_FEWEST = 16
# An error beyond a fiftieth of the side counts by its size, not by its square; sides are at least that of the input.
_BETA, _LEAST_SIDE = 0.02, 0.02
_ROUNDS, _STEP = 6, 0.01
_WHOLE = 0.01


class BoxCorrection:
    """Shifts the biases behind the box until int8's edges lie, over the images, where the float model's lie.

    Each of the four numbers of a box has a shift, of a distribution over bins each edge a slope. Of a detector every
    layer has its own, thus every level and anchor. They are those of the least Huber loss of the edges' errors as
    shares of the float box's sides. Labels play no part, and the model stays as it is but for these biases.

    Parameters:
        flatbuffer: the float model.
        contract: what its outputs mean.
        images: normalized, float32 (n, height, width, channels), some of which hold objects.
        notify: is called with a finding where the boxes stay as they are for a reason.
    """

    def __init__(
        self, flatbuffer: bytes, contract: Contract, images: Array, notify: Callable[[Finding], object]
    ) -> None:
        self._flatbuffer, self._images, self._notify = flatbuffer, images, notify
        self._head: _Head = _LocalizerHead(contract) if contract.detector is None else _DetectorHead(contract)

    def __call__(self, model: bytes, make: Callable[[bytes], bytes]) -> bytes:
        """What `make` quantizes the float `model` to, with its biases shifted where that brings the boxes nearer."""
        made = make(model)
        shapes = {name: values.shape for name, values in next(_answers(model, self._images[:1])).items()}
        numbers = self._head.numbers(shapes)
        if not len(numbers):
            return made
        wanted = self._wanted
        if len(wanted.rows) < _FEWEST:
            return self._leave(made, f"the float model finds {len(wanted.rows)} objects on the images, not {_FEWEST}")
        layers = _Layers(model, [output.tensor for output in self._head.outputs], self._images[:1])
        channels = layers.channels[numbers]
        if (channels < 0).any():
            return self._leave(made, "what makes the box is no layer's output")
        names, owner = np.unique(channels[:, :, 0], return_inverse=True)
        owner = owner.reshape(-1, 4)
        before = self._boxes(made, wanted)
        shifts = _fit(before, wanted, owner[wanted.rows % len(owner)], len(names))
        biases = np.zeros(layers.count, np.float32)
        biases[channels] = shifts[owner][:, :, np.newaxis] * self._head.slopes(channels.shape[-1])
        corrected = make(layers.shifted(biases))
        return corrected if wanted.loss(self._boxes(corrected, wanted)) < wanted.loss(before) else made

    @cached_property
    def _wanted(self) -> _Wanted:
        """The float model's boxes, the same whatever it is quantized to."""
        return self._head.choose(_answers(self._flatbuffer, self._images))

    def _leave(self, made: bytes, reason: str) -> bytes:
        self._notify(Finding("boxes-not-corrected", "note", f"int8's boxes are not corrected: {reason}"))
        return made

    def _boxes(self, quantized: bytes, wanted: _Wanted) -> Decode:
        return self._head.decoder(_answers(quantized, self._images), wanted.rows)


class _Wanted(NamedTuple):
    """The float model's boxes.

    `rows` (n,) are their places among those of all images, one image after the other; `corners` and `sides` are (n, 4).
    """

    rows: Indices
    corners: Array
    sides: Array

    def off(self, corners: Array) -> Array:
        """The errors of the edges (n, 4) as shares of the sides."""
        return np.asarray((corners - self.corners) / self.sides, np.float32)

    def loss(self, boxes: Decode) -> float:
        """The mean Huber loss of the edges of boxes that are not shifted."""
        off = np.abs(self.off(boxes(np.zeros((len(self.rows), 4), np.float32))))
        return float(np.where(off < _BETA, off * off / 2 / _BETA, off - _BETA / 2).mean())


def _wanted(rows: Indices, corners: Array, unit: tuple[float, float]) -> _Wanted:
    sides = np.maximum(np.abs(corners[:, 2:] - corners[:, :2]), _LEAST_SIDE * np.array(unit, np.float32))
    return _Wanted(rows, corners, np.tile(sides, 2))


def _answers(flatbuffer: bytes, images: Array) -> Iterator[dict[str, Array]]:
    """The outputs on each image, as real numbers."""
    engine = open_engine("auto", flatbuffer)
    (info,) = engine.inputs.values()
    scales = {name: Quantization(port.scale, port.zero_point or 0) for name, port in engine.outputs.items()}
    for image in images:
        values: NDArray[Any] = image[np.newaxis]
        if info.scale is not None:
            limits, levels = np.iinfo(info.dtype), np.rint(values / info.scale) + (info.zero_point or 0)
            values = np.clip(levels, limits.min, limits.max).astype(info.dtype)
        yield {name: dequantized(raw, scales[name]) for name, raw in engine.invoke(values).items()}


def _fit(boxes: Decode, wanted: _Wanted, owner: Indices, count: int) -> Array:
    """The shifts (count,) of least Huber loss, by least squares with weights again and again.

    `owner` (n, 4) says which shift moves which number of a box.
    """
    shifts, used = np.zeros(count, np.float32), np.bincount(owner.ravel(), minlength=count) >= _FEWEST
    for _ in range(_ROUNDS):
        off = wanted.off(boxes(shifts[owner]))
        steps = _STEP * np.eye(4, dtype=np.float32)
        slopes = np.stack([(wanted.off(boxes(shifts[owner] + step)) - off) / _STEP for step in steps], axis=1)
        weights = np.minimum(1, _BETA / np.maximum(np.abs(off), 1e-9))
        curvature, gradient = np.zeros((count, count)), np.zeros(count)
        np.add.at(gradient, owner, np.einsum("nke,ne,ne->nk", slopes, weights, off))
        pairs = np.einsum("nke,ne,nle->nkl", slopes, weights, slopes)
        np.add.at(curvature, (owner[:, :, np.newaxis], owner[:, np.newaxis, :]), pairs)
        curvature += np.diag(np.where(used, 1e-6 * max(float(curvature.max()), 1e-12), np.inf))
        curvature[~used], gradient[~used] = np.eye(count)[~used], 0
        curvature[:, ~used] = np.eye(count)[:, ~used]
        shifts = (shifts - np.linalg.solve(curvature, gradient)).astype(np.float32)
    return shifts


class _Layers:
    """The layers with weights that make some outputs of a float model, and which of their channels a number is.

    Parameters:
        model: the float model.
        outputs: names of outputs.
        image: normalized (1, height, width, channels).

    Attributes:
        count: of all their channels.
        channels: of each number of these outputs, one output after the other, its channel from 0 to `count` - 1; -1
            where it is no layer's number as it left it.
    """

    def __init__(self, model: bytes, outputs: Iterable[str], image: Array) -> None:
        self._flatbuffer, outputs = model, list(outputs)
        read = unpack(model)
        self._places = sorted({place for name in outputs for place in _makers(read, _tensor_of(read, name))})
        graph = read.subgraphs[0]
        self._sizes = [int(graph.tensors[int(graph.operators[at].outputs[0])].shape[-1]) for at in self._places]
        self.count = sum(self._sizes)
        # Each channel by its own amount, so that a number's difference says which channel it is.
        shifted = self.shifted(np.arange(1, self.count + 1, dtype=np.float32))
        before, after = (next(_answers(flatbuffer, image)) for flatbuffer in (model, shifted))
        moved = np.concatenate([(after[name] - before[name]).ravel() for name in outputs])
        near = np.rint(moved)
        self.channels = np.where(np.abs(moved - near) < _WHOLE, near, 0).astype(np.int64) - 1

    def shifted(self, shifts: Array) -> bytes:
        """The model with these added to the biases."""
        model = unpack(self._flatbuffer)
        for place, shift in zip(self._places, np.split(shifts, np.cumsum(self._sizes)), strict=False):
            operator = model.subgraphs[0].operators[place]
            add_to_bias(model, operator, WEIGHTED[operator_name(model, operator)][1], shift)
        return pack(model)


def _tensor_of(model: Any, name: str) -> int:
    for signature in model.signatureDefs or ():
        for entry in signature.outputs:
            if text(entry.name) == name:
                return int(entry.tensorIndex)
    return next(int(i) for i in model.subgraphs[0].outputs if text(model.subgraphs[0].tensors[int(i)].name) == name)


def _makers(model: Any, tensor: int) -> Iterator[int]:
    """Places of the layers whose numbers a tensor is made of by moving them alone."""
    operators = model.subgraphs[0].operators
    waiting = [tensor]
    while waiting:
        index = waiting.pop()
        for place, operator in enumerate(operators):
            if index in map(int, operator.outputs):
                kind = operator_name(model, operator)
                if kind in WEIGHTED:
                    yield place
                elif kind in _MOVING:
                    waiting += list(map(int, operator.inputs))


class _Head(Protocol):
    """How the numbers of outputs make boxes, L of them on each image."""

    outputs: tuple[OutputSpec, ...]

    def numbers(self, shapes: Shapes) -> Indices:
        """Places (L, 4, bins) of each box's numbers, in the `outputs` one after the other; L is 0 without boxes."""

    def slopes(self, bins: int) -> Array:
        """What a shift of 1 adds to the numbers (bins,) of one of the four."""

    def choose(self, answers: Iterable[Outputs]) -> _Wanted:
        """The boxes of the objects that are found."""

    def decoder(self, answers: Iterable[Outputs], rows: Indices) -> Decode:
        """What makes the corners of some boxes."""


class _LocalizerHead:
    """The boxes of a known number of objects."""

    def __init__(self, contract: Contract) -> None:
        self._contract, self._objects, self._read = contract, contract.box.objects, head_reader(contract)
        vector = contract.output("vector")
        columns = {} if vector is None else vector_columns(vector, contract)
        self._columns = columns.get("box", [0, 1, 2, 3])
        roles = ("box", "box-bins", "grid-distances", *(("vector",) if "box" in columns else ()))
        self.outputs = tuple(output for output in contract.outputs if output.role in roles)

    def numbers(self, shapes: Shapes) -> Indices:
        for output in self.outputs:
            places = np.arange(np.prod(shapes[output.tensor]))
            if output.role == "box-bins":
                return places.reshape(self._objects, 4, -1)
            if output.role == "grid-distances":
                return places[: 4 * self._objects].reshape(-1, 4, 1)  # a layer has the same channels in every cell
            return places.reshape(self._objects, -1)[:, self._columns, np.newaxis]
        return np.zeros((0, 4, 1), np.int64)

    def slopes(self, bins: int) -> Array:
        return np.linspace(0, 1, bins, dtype=np.float32) if bins > 1 else np.ones(1, np.float32)

    def choose(self, answers: Iterable[Outputs]) -> _Wanted:
        readings = [self._read(outputs) for outputs in answers]
        presence = np.concatenate([reading.presence for reading in readings])
        rows = np.flatnonzero(presence >= self._contract.thresholds.presence)
        pixels = self._contract.box.units == "pixels"
        unit = (self._contract.input.width, self._contract.input.height) if pixels else (1, 1)
        return _wanted(rows, np.concatenate([_corners(reading) for reading in readings])[rows], unit)

    def decoder(self, answers: Iterable[Outputs], rows: Indices) -> Decode:
        images = list(answers)

        def corners(shifts: Array) -> Array:
            by_image = np.zeros((len(images) * self._objects, 4), np.float32)
            by_image[rows] = shifts
            moved = map(self._moved, images, by_image.reshape(len(images), self._objects, 4))
            return np.concatenate([_corners(self._read(outputs)) for outputs in moved])[rows]

        return corners

    def _moved(self, outputs: Outputs, shifts: Array) -> Outputs:
        """The outputs of one image with the numbers of its boxes shifted by (objects, 4)."""
        (output,) = self.outputs
        values = outputs[output.tensor].copy()
        if output.role == "box-bins":
            bins = values.reshape(self._objects, 4, -1)
            bins += shifts[:, :, np.newaxis] * self.slopes(bins.shape[-1])
        elif output.role == "grid-distances":
            cells = values.reshape(-1, self._objects, 4)
            cells += shifts
        else:
            rows = values.reshape(self._objects, -1)
            rows[:, self._columns] += shifts
        return {**outputs, output.tensor: values}


def _corners(reading: Reading) -> Array:
    assert reading.corners is not None
    return reading.corners


class _DetectorHead:
    """The boxes of a detector's locations."""

    def __init__(self, contract: Contract) -> None:
        assert contract.detector is not None
        self._contract, self._spec = contract, contract.detector
        outputs = [output for output in contract.outputs if "box" in output.parts]
        self.outputs = tuple(sorted(outputs, key=lambda output: output.level or 0))
        width, height = contract.input.width, contract.input.height
        self._decode = box_decoder(self._spec.box, locate(self._spec.locations, width, height), width, height)
        self._reader = DetectorReader(contract, {})
        self._places = np.zeros((0, 4, 1), np.int64)

    def numbers(self, shapes: Shapes) -> Indices:
        sizes, found, start = part_sizes(self._spec, len(self._contract.labels)), [self._places[:0]], 0
        for output in self.outputs:
            size = int(np.prod(shapes[output.tensor]))
            places = np.arange(start, start + size).reshape(shapes[output.tensor])
            anchors = self._spec.locations.per_cell(output.level or 0)
            rows = location_rows(places, output.layout, channels_of(output, sizes), anchors)
            columns = dict(columns_of(output, sizes))["box"]
            found.append(rows[:, columns].reshape(len(rows), 4, -1))
            start += size
        self._places = np.concatenate(found[1:] or found)
        return self._places

    def slopes(self, bins: int) -> Array:
        return np.arange(bins, dtype=np.float32) if bins > 1 else np.ones(1, np.float32)

    def choose(self, answers: Iterable[Outputs]) -> _Wanted:
        rows, boxes = [], []
        for number, outputs in enumerate(answers):
            scores, _, corners = self._reader.everything(outputs)
            found = np.flatnonzero(scores >= self._contract.thresholds.presence)
            rows.append(found + number * len(scores))
            boxes.append(corners[found])
        return _wanted(
            np.concatenate(rows), np.concatenate(boxes), (self._contract.input.width, self._contract.input.height)
        )

    def decoder(self, answers: Iterable[Outputs], rows: Indices) -> Decode:
        images, locations = np.divmod(rows, len(self._places))
        found = [np.zeros((0, *self._places.shape[1:]), np.float32)]
        for number, outputs in enumerate(answers):
            flat = np.concatenate([outputs[output.tensor].ravel() for output in self.outputs])
            found.append(flat[self._places[locations[images == number]]])
        values = np.concatenate(found)
        slopes = self.slopes(values.shape[-1])
        return lambda shifts: self._decode(
            (values + shifts[:, :, np.newaxis] * slopes).reshape(len(values), -1), locations
        )
