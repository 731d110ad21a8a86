"""A float `.tflite` from another converter: one signature, channels last, pooling that can be quantized."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.sources.base import Source, answer_each, image_shape, refuse_weights
from edgeloc.engines import open_engine
from edgeloc.errors import ModelError
from edgeloc.model.contract import InputSpec
from edgeloc.model.file import own_contract, read_model
from edgeloc.model.flatbuffer import (
    TfliteModel,
    add_operator_code,
    constant,
    operator_name,
    pack,
    parse_flatbuffer,
    schema,
    unpack,
)
from edgeloc.model.precision import judge

__all__ = [
    "SERVING",
    "FloatTfliteSource",
    "drop_metadata",
    "numbered",
    "put_channels_last",
    "replace_padded_pooling",
    "set_signature",
]

SERVING = "serving_default"


def set_signature(model: Any, tensor: str, outputs: Sequence[str]) -> None:
    """Name the unpacked model's input `tensor` and its outputs, in the main graph's order, under SERVING.

    Whatever signatures it had are dropped. Raises ModelError when the graph has another number of
    inputs or outputs.
    """
    graph = model.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != len(outputs):
        raise ModelError(
            f"the converted network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, "
            f"not one and {len(outputs)} ({', '.join(outputs)})"
        )

    def named(name: str, index: int) -> Any:
        entry = schema().TensorMapT()
        entry.name, entry.tensorIndex = name, int(index)
        return entry

    signature = schema().SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SERVING, 0
    signature.inputs = [named(tensor, graph.inputs[0])]
    signature.outputs = [named(name, index) for name, index in zip(outputs, graph.outputs, strict=True)]
    model.signatureDefs = [signature]


def drop_metadata(model: Any) -> None:
    """Leave out what a converter noted: for litert-torch's `keep_stablehlo_constant` the quantizer rounds no layer."""
    model.metadata = []


def numbered(count: int) -> tuple[str, ...]:
    """The names of outputs that have none of their own: output_0, output_1 and so on."""
    return tuple(f"output_{i}" for i in range(count))


_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def put_channels_last(model: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Change those outputs of the unpacked model whose shape is the channels-first form of the one in `shapes`."""
    graph = model.subgraphs[0]
    graph.outputs = [int(index) for index in graph.outputs]
    for place, (index, wanted) in enumerate(zip(graph.outputs, shapes, strict=False)):
        shape = tuple(int(size) for size in graph.tensors[index].shape)
        if len(wanted) == 4 and shape != wanted and shape == tuple(wanted[axis] for axis in _TO_FIRST):
            graph.outputs[place] = _before_transpose(model, index) or _transposed(model, index, wanted)


def _before_transpose(model: Any, index: int) -> int | None:
    """The tensor that a transposition to channels first was made of, where it is what writes the output."""
    writer = next((operator for operator in model.subgraphs[0].operators if index in operator.outputs), None)
    if writer is None or operator_name(model, writer) != "TRANSPOSE":
        return None
    order = constant(model, int(writer.inputs[1]))
    return int(writer.inputs[0]) if order is not None and tuple(order.reshape(-1)) == _TO_FIRST else None


def _transposed(model: Any, index: int, shape: tuple[int, ...]) -> int:
    graph = model.subgraphs[0]
    buffer = schema().BufferT()
    buffer.data = np.frombuffer(np.array(_TO_LAST, np.int32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    order = _tensor(model, b"channels_last_order", (4,), schema().TensorType.INT32, len(model.buffers) - 1)
    name = bytes(graph.tensors[index].name) + b"_channels_last"
    result = _tensor(model, name, shape, graph.tensors[index].type, 0)
    operator = schema().OperatorT()
    operator.opcodeIndex = add_operator_code(model, schema().BuiltinOperator.TRANSPOSE)
    operator.inputs, operator.outputs = [index, order], [result]
    operator.builtinOptionsType = schema().BuiltinOptions.TransposeOptions
    operator.builtinOptions = schema().TransposeOptionsT()
    graph.operators.append(operator)
    return result


def _tensor(model: Any, name: bytes, shape: tuple[int, ...], kind: int, buffer: int) -> int:
    tensor = schema().TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, buffer
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1


_FAR_BELOW = -1e30
_NOT_NEGATIVE = frozenset({"RELU", "RELU6", "RELU_0_TO_1", "LOGISTIC", "SOFTMAX"})
_SAME_SIGN = frozenset({"MAX_POOL_2D", "RESHAPE", "TRANSPOSE", "PAD", "MEAN", "AVERAGE_POOL_2D"})


def replace_padded_pooling(model: Any) -> int:
    """Change each border of minus infinity before a max pooling of the unpacked model; how many there were."""
    graph = model.subgraphs[0]
    writers = {int(index): operator for operator in graph.operators for index in operator.outputs}
    replaced = 0
    for operator in graph.operators:
        if operator_name(model, operator) != "PADV2":
            continue
        paddings, value = constant(model, operator.inputs[1]), constant(model, operator.inputs[2])
        if paddings is None or value is None or float(value.reshape(-1)[0]) > _FAR_BELOW:
            continue
        readers = [reader for reader in graph.operators if operator.outputs[0] in reader.inputs]
        if not readers or any(operator_name(model, reader) != "MAX_POOL_2D" for reader in readers):
            continue
        if _never_negative(model, writers, int(operator.inputs[0])):
            _become_pad(model, operator)
        elif all(_fits_mirror(paddings, reader) for reader in readers):
            _become_mirror(model, operator)
        else:
            continue
        replaced += 1
    return replaced


def _never_negative(model: Any, writers: dict[int, Any], tensor: int) -> bool:
    while tensor in writers:
        operator = writers[tensor]
        name = operator_name(model, operator)
        kinds = schema().ActivationFunctionType
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", kinds.NONE)
        if name in _NOT_NEGATIVE or fused in (kinds.RELU, kinds.RELU6):
            return True
        if name not in _SAME_SIGN:
            return False
        tensor = int(operator.inputs[0])
    return False


def _fits_mirror(paddings: NDArray[Any], pooling: Any) -> bool:
    """Whether every window at the border holds what the mirror adds: it does up to half the window."""
    options = pooling.builtinOptions
    limits = np.array([0, options.filterHeight // 2, options.filterWidth // 2, 0])
    return bool(np.all(paddings <= limits[:, np.newaxis]))


def _become_pad(model: Any, operator: Any) -> None:
    operator.opcodeIndex = add_operator_code(model, schema().BuiltinOperator.PAD)
    operator.inputs = operator.inputs[:2]
    operator.builtinOptionsType, operator.builtinOptions = schema().BuiltinOptions.PadOptions, schema().PadOptionsT()


def _become_mirror(model: Any, operator: Any) -> None:
    operator.opcodeIndex = add_operator_code(model, schema().BuiltinOperator.MIRROR_PAD)
    operator.inputs = operator.inputs[:2]
    options = schema().MirrorPadOptionsT()
    options.mode = schema().MirrorPadMode.SYMMETRIC
    operator.builtinOptionsType, operator.builtinOptions = schema().BuiltinOptions.MirrorPadOptions, options


_FLOAT32 = "float32"


class FloatTfliteSource(Source):
    """A float32 flatbuffer; outputs go by its signature's names, or by their tensors' where it has none.

    The contract is the one inside the file, else that of a `.json` of the same name beside it.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self._file = read_model(path)
        self._model = parse_flatbuffer(self._file.payload, str(path))
        precision = judge(self._model).precision
        if precision != _FLOAT32:
            raise ModelError(f"{path} is {precision}: convert the float32 model that it was made from")
        self.name, self.tools = str(path), {}
        self.digest = hashlib.sha256(self._file.payload).hexdigest()
        self.contract = own_contract(self._file)
        self._engine = open_engine("auto", self._file)

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> FloatTfliteSource:
        """Read the file; it holds its weights itself."""
        refuse_weights(path, weights)
        return cls(path)

    def to_tflite(self, spec: InputSpec) -> bytes:
        graph, wanted = self._model.graphs[0], image_shape(spec)
        shape = next(iter(self._engine.inputs.values())).shape
        if shape != wanted:
            raise ModelError(f"{self.name} takes {shape}, the contract's image is {wanted}: correct the contract")
        model = unpack(self._file.payload)
        set_signature(model, spec.tensor, _names(self._model, graph.outputs))
        replace_padded_pooling(model)
        drop_metadata(model)
        return pack(model)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return answer_each(images, self._engine.invoke)


def _names(model: TfliteModel, outputs: tuple[int, ...]) -> list[str]:
    """The outputs' names as the engine has them: the signature's, else the tensors'."""
    signature = model.signature
    by_tensor = {index: name for name, index in signature.outputs.items()} if signature else {}
    return [by_tensor.get(index, model.graphs[0].tensors[index].name) for index in outputs]
