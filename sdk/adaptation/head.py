"""The class or presence head in an int8 flatbuffer: found, its features made outputs, rows added to it or replaced.

A head is one fully connected layer, or several whose outputs are added, behind features that the rest of the network
computes. The rest stays as it is, byte for byte, and so do the weights and biases of the rows that are not replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import ModelError
from edgeloc.model.flatbuffer import constant, operator_name, pack, set_constant, text, unpack

__all__ = ["Branch", "Head"]

Array = NDArray[np.float64]

_INT8 = 9
_PASSED = ("RESHAPE", "SQUEEZE")
_CAN_BE = "only an int8 head of fully connected layers, added where there are several, can be adapted"


@dataclass(frozen=True)
class Branch:
    """One fully connected layer of the head: its operator, and the tensors on the way to where branches are added."""

    layer: Any
    way: tuple[int, ...]

    @property
    def features(self) -> int:
        """The tensor that the layer reads."""
        return int(self.layer.inputs[0])


class Head:
    """The head that computes the `rows` numbers of output `name`; ModelError where it is none that can be adapted."""

    def __init__(self, flatbuffer: bytes, name: str, rows: int, file: str) -> None:
        self.model: Any = unpack(flatbuffer)
        self._main: Any = self.model.subgraphs[0]
        self.name, self._file, self._rows = name, file, rows
        self._makers = {int(out): op for op in self._main.operators for out in op.outputs}
        self._added: list[Any] = []
        self._sums: list[int] = []
        outputs = self._signature().outputs
        found = next((int(entry.tensorIndex) for entry in outputs if text(entry.name) == name), None)
        if found is None:
            raise self._refusal(f"it has no output {name}")
        self.output = found
        self.branches = tuple(self._branches(found, ()))
        for branch in self.branches:
            self._check(branch)

    def with_features(self) -> bytes:
        """The flatbuffer with the features of each branch as further outputs `features-0`, `features-1` ..."""
        model = copy.deepcopy(self.model)
        main, signature = model.subgraphs[0], self._signature(model)
        for number, branch in enumerate(self.branches):
            entry = type(signature.outputs[0])()
            entry.name, entry.tensorIndex = f"features-{number}", branch.features
            signature.outputs.append(entry)
        named = [int(entry.tensorIndex) for entry in signature.outputs]
        main.outputs = list(dict.fromkeys([*map(int, main.outputs), *named]))
        return pack(model)

    def with_rows(self, rows: Sequence[Array], biases: Sequence[Array], reach: Mapping[int, Any]) -> bytes:
        """The flatbuffer with more classes behind those that are there.

        Parameters:
            rows: for each branch the new weights, (new, features of the branch), in real numbers.
            biases: for each branch the new biases, (new,).
            reach: for some tensors the least and the greatest number that they must hold now; the scale of one that
                does not reach so far is widened.
        """
        for branch, weights, own in zip(self.branches, rows, biases, strict=True):
            self._extend(branch, weights, own)
        for tensor in {*self._sums, *(index for branch in self.branches for index in branch.way)}:
            self._grow(self._main.tensors[tensor], len(biases[0]))
        return self._reaching(reach)

    def with_replaced(self, rows: Sequence[Array], biases: Sequence[Array], reach: Mapping[int, Any]) -> bytes:
        """The flatbuffer with other weights and biases, for each branch as `real` gives them; `reach` as above."""
        for branch, weights, own in zip(self.branches, rows, biases, strict=True):
            self._replace(branch, weights, own)
        return self._reaching(reach)

    def real(self, branch: Branch) -> tuple[Array, Array]:
        """A branch's weights (rows, features) and biases (rows,) in real numbers."""
        scales = self._scales(branch)
        weights, biases = (constant(self.model, int(branch.layer.inputs[position])) for position in (1, 2))
        assert weights is not None and biases is not None
        return weights * scales[:, None], biases.reshape(-1) * scales * self.scale(branch.features)[0]

    def scale(self, tensor: int) -> tuple[float, int]:
        """The scale and the zero point of a computed tensor."""
        quantization = self._main.tensors[tensor].quantization
        return float(quantization.scale[0]), int(quantization.zeroPoint[0])

    def _signature(self, model: Any = None) -> Any:
        found = [one for one in (model or self.model).signatureDefs or [] if not one.subgraphIndex]
        if not found:
            raise self._refusal("it has no signature that names its outputs")
        return next((one for one in found if text(one.signatureKey) == "serving_default"), found[0])

    def _branches(self, tensor: int, way: tuple[int, ...]) -> Iterator[Branch]:
        """Every fully connected layer behind a tensor, through sums and new shapes."""
        operator: Any = self._makers.get(tensor)
        kind = "" if operator is None else operator_name(self.model, operator)
        if kind == "ADD" and not operator.builtinOptions.fusedActivationFunction:
            if way:
                raise self._refusal("what is added is shaped again")
            self._sums.append(tensor)
            for one in operator.inputs:
                yield from self._branches(int(one), ())
        elif kind in _PASSED:
            self._added.append(operator)
            yield from self._branches(int(operator.inputs[0]), (tensor, *way))
        elif kind == "FULLY_CONNECTED":
            yield Branch(operator, (tensor, *way))
        else:
            raise self._refusal(f"its {self.name} comes from {kind or 'a constant'}")

    def _check(self, branch: Branch) -> None:
        layer, tensors = branch.layer, self._main.tensors
        weights = constant(self.model, int(layer.inputs[1]))
        types = {tensors[int(layer.inputs[0])].type, tensors[int(layer.inputs[1])].type, tensors[branch.way[0]].type}
        if weights is None or types != {_INT8}:
            raise self._refusal(f"its {self.name} head is not int8")
        if weights.shape[0] != self._rows:
            raise self._refusal(f"its {self.name} head has {weights.shape[0]} rows, not {self._rows}")
        if len(layer.inputs) < 3 or int(layer.inputs[2]) < 0 or layer.builtinOptions.fusedActivationFunction:
            raise self._refusal(f"its {self.name} head has no bias, or an activation behind it")

    def _refusal(self, why: str) -> ModelError:
        return ModelError(f"{self._file} cannot be adapted: {why}; {_CAN_BE}")

    def _reaching(self, reach: Mapping[int, Any]) -> bytes:
        for way in (*(branch.way for branch in self.branches), *((tensor,) for tensor in self._sums)):
            self._widen(way, reach.get(way[-1]))
        return pack(self.model)

    def _extend(self, branch: Branch, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        """Put rows behind the layer's weights and biases, each with a scale of its own where the others have one."""
        weight, biases = (self._own(branch.layer, position) for position in (1, 2))
        tensors = self._main.tensors
        scales = np.asarray(tensors[weight].quantization.scale, np.float32)
        scale = _row_scales(weights)
        each = len(scales) == self._rows
        if each:
            _append_scales(tensors[weight].quantization, scale)
        else:
            scale = np.repeat(scales, len(bias))
        input_scale, _ = self.scale(branch.features)
        if each:
            _append_scales(tensors[biases].quantization, scale * np.float32(input_scale))
        rows, units = _quantized(weights, bias, scale, input_scale)
        for index, more in ((weight, rows), (biases, units)):
            before = constant(self.model, index)
            assert before is not None
            after = np.concatenate([before, more.astype(before.dtype)])
            set_constant(self.model, index, after)
            tensors[index].shape = list(after.shape)

    def _scales(self, branch: Branch) -> Array:
        """The scale of each row's weights, (rows,)."""
        scales = self._main.tensors[int(branch.layer.inputs[1])].quantization.scale
        return np.broadcast_to(np.asarray(scales, np.float64), (self._rows,))

    def _replace(self, branch: Branch, weights: Array, bias: Array) -> None:
        scale, (input_scale, _) = _row_scales(weights), self.scale(branch.features)
        if len(self._main.tensors[int(branch.layer.inputs[1])].quantization.scale) == 1:
            scale = scale.max(keepdims=True)
        rows, units = _quantized(weights, bias, scale, input_scale)
        for position, values, scales in ((1, rows, scale), (2, units, scale * input_scale)):
            index = self._own(branch.layer, position)
            before = constant(self.model, index)
            assert before is not None
            set_constant(self.model, index, values.astype(before.dtype))
            self._main.tensors[index].quantization.scale = scales.astype(np.float32)

    def _own(self, operator: Any, position: int) -> int:
        """The index of an operator's constant, copied where another reads it too."""
        index, tensors = int(operator.inputs[position]), self._main.tensors
        if sum(int(one) == index for other in self._main.operators for one in other.inputs) > 1:
            tensors.append(copy.deepcopy(tensors[index]))
            inputs = [int(one) for one in operator.inputs]
            inputs[position] = index = len(tensors) - 1
            operator.inputs = inputs
        return index

    def _grow(self, tensor: Any, new: int) -> None:
        """Make a computed tensor's last size, and that of an operator that gives it a shape, larger."""
        tensor.shape = _longer(tensor.shape, self._rows, new)
        if tensor.shapeSignature is not None and len(tensor.shapeSignature):
            tensor.shapeSignature = _longer(tensor.shapeSignature, self._rows, new)
        for operator in self._added:
            if self._main.tensors[int(operator.outputs[0])] is not tensor:
                continue
            if len(operator.inputs) > 1:
                index = self._own(operator, 1)
                wanted = constant(self.model, index)
                if wanted is not None:
                    set_constant(self.model, index, np.array(_longer(wanted.reshape(-1), self._rows, new)))
            if operator.builtinOptions is not None and getattr(operator.builtinOptions, "newShape", None) is not None:
                operator.builtinOptions.newShape = _longer(operator.builtinOptions.newShape, self._rows, new)

    def _widen(self, way: tuple[int, ...], reach: tuple[float, float] | None) -> None:
        scale, zero = self.scale(way[0])
        least, most = (-128 - zero) * scale, (127 - zero) * scale
        if reach is None or (reach[0] >= least - scale and reach[1] <= most + scale):
            return
        least, most = min(least, reach[0]), max(most, reach[1])
        wider = (most - least) / 255
        for index in way:
            quantization = self._main.tensors[index].quantization
            quantization.scale = np.array([wider], np.float32)
            quantization.zeroPoint = np.array([round(-128 - least / wider)], np.int64)


def _row_scales(weights: Array) -> NDArray[np.float32]:
    return np.asarray(np.maximum(np.abs(weights).max(axis=1), 1e-6).astype(np.float32) / np.float32(127))


def _quantized(weights: Array, bias: Array, scale: NDArray[np.float32], input_scale: float) -> tuple[Array, Array]:
    """Weights and biases as the whole numbers that are stored, of rows with a scale each."""
    exact = scale.astype(np.float64)
    rows = np.clip(np.rint(weights / exact[:, None]), -127, 127)
    return rows, np.clip(np.rint(bias / (exact * input_scale)), -(2**31), 2**31 - 1)


def _append_scales(quantization: Any, scales: NDArray[np.float32]) -> None:
    quantization.scale = np.concatenate([np.asarray(quantization.scale, np.float32), scales])
    zeros = np.zeros(len(scales), np.int64)
    quantization.zeroPoint = np.concatenate([np.asarray(quantization.zeroPoint, np.int64), zeros])


def _longer(shape: Any, classes: int, new: int) -> list[int]:
    sizes = [int(size) for size in shape]
    return [*sizes[:-1], sizes[-1] + new if sizes[-1] == classes else sizes[-1]]
