"""An ONNX graph: run by ONNX Runtime, translated by onnx2tf in a process of its own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.converters.sources.base import (
    Source,
    answer_each,
    channels_first,
    image_shape,
    refuse_weights,
    with_channels_last,
)
from edgeloc.converters.sources.tflite import (
    drop_metadata,
    numbered,
    put_channels_last,
    replace_padded_pooling,
    set_signature,
)
from edgeloc.errors import MissingExtra, ModelError, first_line
from edgeloc.model.containers import read_fields
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import pack, unpack

__all__ = ["OnnxSource", "translate"]

_PACKAGES = ("onnxruntime", "onnx2tf", "onnxsim")
_ERRORS_ONLY = 3  # ONNX Runtime's level of what it writes on the terminal
# Field numbers of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.external_data.
_GRAPH, _INITIALIZER, _EXTERNAL_DATA = 7, 5, 13
_TIMEOUT_S = 1800.0
_TRANSLATE = """
from edgeloc.converters.sources.onnx import translate
translate(*sys.argv[1:])
answer([])
"""
_SIMPLIFIED, _RESULT = "simplified.onnx", "model.tflite"
# What onnx2tf runs the graph on to find out which axes are which; without such a file it would download one.
_SAMPLES = "calibration_image_sample_data_20x128x128x3_float32.npy"


class OnnxSource(Source):
    """An `.onnx` file; outputs go by the graph's names, one with four dimensions leaves with its channels last.

    Where the channels stand is read from the input's shape; a size that the file leaves open becomes
    the contract's.
    """

    def __init__(self, path: str | Path) -> None:
        import onnxruntime

        self.name, self.contract, self._path = str(path), None, Path(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelError(f"{path} is no ONNX file that can be run: {first_line(error)}") from error
        self._input = _only_input(self.name, self._session)
        self._shape = tuple(size if isinstance(size, int) else None for size in self._input.shape)
        self.digest = _digest(self._path)
        self.tools = {"onnxruntime": importlib.metadata.version("onnxruntime")}

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> OnnxSource:
        """Load the file; it holds its weights itself, or names the files beside it that do."""
        refuse_weights(path, weights)
        for package in _PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(package, "onnx", "converting an ONNX file")
        return cls(path)

    def takes_channels_first(self, image: Sequence[int]) -> bool:
        return channels_first(self._shape, image, self.name)

    def to_tflite(self, spec: InputSpec) -> bytes:
        first = self.takes_channels_first(image_shape(spec))
        self.tools = {package: importlib.metadata.version(package) for package in (*_PACKAGES, "tensorflow")}
        model = unpack(self._translated(image_shape(spec, first=first), first))
        outputs = self.answer(np.zeros(image_shape(spec), np.float32))
        _order_outputs(model, len(outputs))
        put_channels_last(model, [values.shape for values in outputs.values()])
        set_signature(model, spec.tensor, list(outputs))
        replace_padded_pooling(model)
        drop_metadata(model)
        return pack(model)

    def _translated(self, shape: tuple[int, ...], first: bool) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (str(self._path.resolve()), folder, json.dumps(shape), "first" if first else "last")
            try:
                run_child(_TRANSLATE, *arguments, timeout_s=_TIMEOUT_S)
            except ChildFailed as error:
                reason = error.message if error.is_a(ModelError) else f"the translation {error}"
                raise ModelError(f"{self.name} cannot be converted: {reason}") from error
            return Path(folder, _RESULT).read_bytes()

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        names = [output.name for output in self._session.get_outputs()]
        first = self.takes_channels_first((1, *images.shape[1:]))

        def call(image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            image = np.ascontiguousarray(image.transpose(0, 3, 1, 2)) if first else image
            outputs = dict(zip(names, self._session.run(names, {self._input.name: image}), strict=True))
            return (
                with_channels_last(outputs, lambda value: value.transpose(0, 2, 3, 1), self.kept) if first else outputs
            )

        return answer_each(images, call)


def translate(path: str, folder: str, shape: str, channels: str) -> None:
    """Write the graph at `path` as a float flatbuffer into `folder`, which becomes the current one.

    Its outputs are `output_0`, `output_1` ... in the graph's order, most with their channels last. For a process of its
    own: onnx2tf switches Keras, TensorFlow, warnings and seeds for the whole program.

    Parameters:
        path: absolute; the files of its weights lie beside it.
        shape: of the input, as a JSON list.
        channels: "first" or "last", in the input.

    Raises ModelError with the reason.
    """
    import onnx2tf  # first, since it chooses the Keras that TensorFlow loads

    os.chdir(folder)
    _write_simplified(path, json.loads(shape))
    np.save(_SAMPLES, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    kept = ["image"] if channels == "last" else None
    try:
        network = onnx2tf.convert(
            _SIMPLIFIED, not_use_onnxsim=True, disable_model_save=True, keep_shape_absolutely_input_names=kept
        )
        flatbuffer = _flatbuffer(network)
    except ModelError:
        raise
    except Exception as error:  # onnx2tf's own, TensorFlow's and Python's
        raise ModelError(_reason(error)) from error
    Path(_RESULT).write_bytes(flatbuffer)


def _write_simplified(path: str, shape: list[int]) -> None:
    """The graph for one image, with what is constant computed: onnx2tf loses the axes behind computed shapes."""
    import onnx
    import onnx_graphsurgeon
    import onnxsim

    model = onnx.shape_inference.infer_shapes(onnx.load(path))  # the checker wants outputs with a shape
    weights = {tensor.name for tensor in model.graph.initializer}
    name = next(port.name for port in model.graph.input if port.name not in weights)
    try:
        model, _ = onnxsim.simplify(model, overwrite_input_shapes={name: shape})
    except Exception as error:  # of C++, without a class of its own
        raise ModelError(f"onnxsim cannot simplify it: {first_line(error)}") from error
    graph = onnx_graphsurgeon.import_onnx(model)
    # Names as TensorFlow takes them: without ":", and starting with a letter or number.
    graph.inputs[0].name = "image"
    for output, own in zip(graph.outputs, numbered(len(graph.outputs)), strict=True):
        output.name = own
    for node in graph.nodes:
        if node.op == "Constant" and "value" in node.attrs:  # onnx2tf takes a weight as one, and not always such a node
            node.outputs[0].to_constant(node.attrs["value"].values)
            node.outputs.clear()
        node.name = re.sub(r"[^\w./-]+", "_", node.name, flags=re.ASCII).lstrip("_/-")
    onnx.save(onnx_graphsurgeon.export_onnx(graph.cleanup()), _SIMPLIFIED)


def _reason(error: Exception) -> str:
    """The operator that onnx2tf stopped at, and why."""
    import onnx

    where = getattr(error, "onnx_op_name", None)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("onnx2tf.ops."):
        return f"onnx2tf has no operator {str(error.name).rpartition('.')[2]}"
    if any(node.op_type == "TopK" for node in onnx.load(_SIMPLIFIED).graph.node):
        return "it selects its objects itself (TopK), which onnx2tf cannot translate: export it with its raw outputs"
    return f"onnx2tf failed{f' at the operator {where}' if where else ''}: {first_line(error)}"


def _flatbuffer(network: Any) -> bytes:
    import tensorflow as tf

    from edgeloc.converters.sources.tensorflow import to_flatbuffer

    def named(image: Any) -> dict[str, Any]:
        outputs = network(image)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return dict(zip(numbered(len(outputs)), outputs, strict=True))

    (image,) = network.inputs
    return to_flatbuffer(named, tf.TensorSpec(image.shape, image.dtype, "image"))


def _order_outputs(model: Any, count: int) -> None:
    """The unpacked model's outputs in the order of their numbers, which TensorFlow sorts as text."""
    (signature,) = model.signatureDefs
    places = {bytes(entry.name).decode(): int(entry.tensorIndex) for entry in signature.outputs}
    model.subgraphs[0].outputs = [places[name] for name in numbered(count) if name in places]


def _only_input(name: str, session: Any) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelError(
            f"{name} has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}): a localizer has one, the image"
        )
    if inputs[0].type != "tensor(float)":
        raise ModelError(f"{name} takes {inputs[0].type}: export it with a float32 input")
    return inputs[0]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for name in (path.name, *_weight_files(path)):
        digest.update((path.parent / name).read_bytes())
    return digest.hexdigest()


def _weight_files(path: Path) -> list[str]:
    """The files that hold weights outside the graph, each by its path from the graph's folder.

    Raises ModelError for one that lies elsewhere.
    """
    tensors = _submessages(_submessages([path.read_bytes()], _GRAPH), _INITIALIZER)
    entries = [dict(read_fields(entry)) for entry in _submessages(tensors, _EXTERNAL_DATA)]
    places = [entry.get(2) for entry in entries if entry.get(1) == b"location"]
    names = dict.fromkeys(place.decode() for place in places if isinstance(place, bytes))
    for name in names:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ModelError(f"{path} keeps weights outside of its folder, in {name}: export it with both in one")
    return list(names)


def _submessages(messages: Iterable[bytes], number: int) -> list[bytes]:
    """The fields `number` of protobuf messages, where they have a length."""
    fields = (field for message in messages for field in read_fields(message))
    return [content for field, content in fields if field == number and isinstance(content, bytes)]
