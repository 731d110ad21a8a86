"""What a TFLite model asks of the machine that runs it, from its bytes alone: no schema, no runtime."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from edgeloc.errors import ModelError

__all__ = ["MOST_BYTES", "Demand", "demand_of"]

MOST_BYTES = 512 * 2**20
"""The most that the tensors alive at one time may take; 64 float32 channels of 640 x 640 pixels are a fifth of it."""

# What a reader can run into when offsets and lengths are nonsense.
_DAMAGE = (struct.error, IndexError, ValueError, OverflowError)
# Of the schema's TensorType, bytes of an element; others take 4.
_SIZES = {1: 2, 3: 1, 4: 8, 6: 1, 7: 2, 8: 8, 9: 1, 10: 8, 11: 16, 12: 8, 16: 2, 17: 1, 18: 2}
# A network of 87 operators has 1,600; tables may lie upon each other, so that a small file has no end.
_MOST_NUMBERS = 500_000
# Of operators, far above those in use. A runtime takes any beyond its own for a newer one's.
_NEWEST_VERSION = 100


@dataclass(frozen=True, slots=True)
class Demand:
    """`live` bytes of tensors at the worst moment of a run, `total` when all are kept, and about how many `macs`."""

    live: int
    total: int
    macs: int


def demand_of(flatbuffer: bytes, name: str) -> Demand:
    """What one run takes, as the file states it; an open size counts as 1. `name` stands for the file in errors.

    Raises ModelError where a tensor, or those alive at one time, take more than MOST_BYTES, or the file is damaged.
    """
    try:
        bytes_ = _Bytes(flatbuffer)
        root = _Table(bytes_, bytes_.number("<I", 0))
        versions = [code.scalar(2, "<i", absent=1) for code in root.tables(1)]
        buffers = list(root.tables(4))
        graphs = [_Graph(graph, buffers) for graph in root.tables(2)]
        largest = max((size for graph in graphs for size in graph.sizes), default=0)
        # A loop or a condition runs one graph within another.
        live = sum(graph.live() for graph in graphs)
        demand = Demand(live, sum(sum(graph.computed()) for graph in graphs), sum(graph.macs() for graph in graphs))
    except _DAMAGE as error:
        raise ModelError(
            f"{name} is damaged: its structure points outside the file; copy or convert it again"
        ) from error
    if strange := [version for version in versions if not 1 <= version <= _NEWEST_VERSION]:
        raise ModelError(f"{name} is damaged: no operator has a version {strange[0]}; copy or convert it again")
    _require_fitting(largest, f"{name}: one tensor takes")
    _require_fitting(live, f"{name}: its tensors take")
    return demand


def _require_fitting(size: int, text: str) -> None:
    if size > MOST_BYTES:
        raise ModelError(
            f"{text} {_megabytes(size)} MB of memory, and at most {MOST_BYTES // 2**20} MB are allowed: "
            "the file is damaged, or no model to run here"
        )


def _megabytes(size: int) -> str:
    """A size from a file may be beyond what a float holds."""
    return f"{size >> 20:,}" if size < 2**60 else "endless"


class _Graph:
    """A subgraph's tensors, by index, and the tensors that its operators read and write."""

    def __init__(self, graph: _Table, buffers: list[_Table]) -> None:
        tensors = list(graph.tables(0))
        shapes = [[max(size, 1) for size in tensor.numbers(0)] for tensor in tensors]
        self.elements = [_elements(shape) for shape in shapes]
        self.channels = [shape[-1] if shape else 1 for shape in shapes]
        self.sizes = [
            count * _SIZES.get(tensor.scalar(1, "<b"), 4) for count, tensor in zip(self.elements, tensors, strict=True)
        ]
        self.stored = [_is_stored(buffers[tensor.scalar(2, "<I")]) for tensor in tensors]
        self.outside = _present([*graph.numbers(1), *graph.numbers(2)])
        self.operators = [
            (_present(operator.numbers(1)), _present(operator.numbers(2))) for operator in graph.tables(3)
        ]

    def computed(self) -> list[int]:
        """The sizes of the tensors that are not stored in the file, 0 for the others."""
        return [0 if stored else size for size, stored in zip(self.sizes, self.stored, strict=True)]

    def live(self) -> int:
        """The most bytes alive at one time: a tensor lives from the operator that writes it to the last that reads it.

        The graph's inputs and outputs live throughout.
        """
        sizes = self.computed()
        spans = {index: (0, len(self.operators)) for index in self.outside}
        for step, (read, written) in enumerate(self.operators):
            for index in (*read, *written):
                first, last = spans.get(index, (step, step))
                spans[index] = first, max(last, step)
        changes = [0] * (len(self.operators) + 2)
        for index, (first, last) in spans.items():
            changes[first] += sizes[index]
            changes[last + 1] -= sizes[index]
        return max(accumulate(changes))

    def macs(self) -> int:
        """About how many multiply-accumulates: those of operators with weights, each output channel with its share."""
        return sum(
            self.elements[written[0]] * max(self.elements[one] for one in weights) // self.channels[written[0]]
            for read, written in self.operators
            if written and (weights := [one for one in read if self.stored[one]])
        )


def _present(indices: list[int]) -> list[int]:
    """Without those that stand for an optional tensor that is not there."""
    return [index for index in indices if index >= 0]


def _elements(shape: list[int]) -> int:
    """How many numbers a tensor holds; of a shape beyond all reason, a count that is far too large."""
    count = 1
    for size in shape:
        count = min(count * size, 2**60)
    return count


def _is_stored(buffer: _Table) -> bool:
    # Files over 2 GB keep their constants behind the flatbuffer, at an offset.
    return buffer.length(0) > 0 or buffer.scalar(1, "<Q") > 1


class _Bytes:
    """A file's bytes, of which only so many numbers are read."""

    def __init__(self, data: bytes) -> None:
        self._data, self._left = data, _MOST_NUMBERS

    def number(self, form: str, position: int) -> int:
        if position < 0:  # struct would count from the end
            raise IndexError("before the file")
        value: int = struct.unpack_from(form, self._data, position)[0]
        return value

    def numbers(self, form: str, position: int, count: int) -> list[int]:
        self._left -= count
        if self._left < 0:
            raise ValueError("its tables lie upon each other")
        if position < 0 or count < 0:
            raise IndexError("before the file")
        # Not by NumPy: the doctor comes here where NumPy does not load.
        return list(struct.unpack_from(f"{form[0]}{count}{form[1]}", self._data, position))


class _Table:
    """A flatbuffer's table: https://flatbuffers.dev/internals/. A field is found by its number in the schema."""

    def __init__(self, data: _Bytes, position: int) -> None:
        self._data, self._position = data, position
        self._fields = position - data.number("<i", position)
        self._size = data.number("<H", self._fields)

    def scalar(self, number: int, form: str, absent: int = 0) -> int:
        """A number; `absent` where it is not there."""
        place = self._field(number)
        return self._data.number(form, place) if place else absent

    def length(self, number: int) -> int:
        """How many entries a vector has, 0 where it is absent."""
        start = self._vector(number)
        return self._data.number("<I", start) if start else 0

    def numbers(self, number: int, form: str = "<i") -> list[int]:
        """A vector of numbers, empty where it is absent."""
        start = self._vector(number)
        return self._data.numbers(form, start + 4, self.length(number)) if start else []

    def tables(self, number: int) -> Iterator[_Table]:
        """A vector of tables, empty where it is absent."""
        start = self._vector(number)
        for index, offset in enumerate(self.numbers(number, "<I")):
            yield _Table(self._data, start + 4 + 4 * index + offset)

    def _vector(self, number: int) -> int:
        place = self._field(number)
        return place + self._data.number("<I", place) if place else 0

    def _field(self, number: int) -> int:
        """Where the field lies, 0 where it is absent."""
        place = 4 + 2 * number
        offset = self._data.number("<H", self._fields + place) if place < self._size else 0
        return self._position + offset if offset else 0
