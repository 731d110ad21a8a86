"""Fake quantization: a float network that computes with the rounding of its int8 file while it is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

__all__ = ["FakeQuantizedNetwork", "Graph", "Step", "read_graph"]

Visit = Callable[[int, Any], Any]

_LEVELS = 127
_SMALLEST_RANGE = 1e-6
_LINEAR = {"Conv2D", "DepthwiseConv2D", "Dense"}
_FUSED_ACTIVATIONS = {"linear", "relu", "relu6"}
# What a ReLU behind it is fused into, beside the linear ones.
_ARITHMETIC = {"Add", "Subtract", "Multiply", "BatchNormalization"}
# The values that come out went in: they keep the quantizer that they have.
_MOVES = {
    "ActivityRegularization", "Cropping2D", "Dropout", "ExpandDims", "Flatten", "GaussianDropout", "GaussianNoise",
    "GetItem", "GlobalMaxPooling2D", "Identity", "MaxPooling2D", "Permute", "Reshape", "SpatialDropout2D", "Squeeze",
    "Transpose", "ZeroPadding2D",
}  # fmt: skip
# New values, rounded by the quantizer of those that went in.
_INTERPOLATES = {"AveragePooling2D", "UpSampling2D"}
_COMPUTES = {
    "Activation", "Average", "Concatenate", "ELU", "GlobalAveragePooling2D", "HardSigmoid", "HardSilu", "LeakyReLU",
    "LeakyRelu", "Maximum", "Mean", "Minimum", "Normalization", "PReLU", "ReLU", "Relu", "Relu6", "Rescaling",
    "Sigmoid", "Silu", "Softmax", "Tanh",
}  # fmt: skip
_SIGMOID_RANGE = (0.0, 255 / 256)
# Outputs whose range is the operator's own, whatever was seen in calibration.
_FIXED = {"sigmoid": _SIGMOID_RANGE, "softmax": _SIGMOID_RANGE, "tanh": (-1.0, 127 / 128)}


@dataclass(slots=True)
class Step:
    """One call of a layer.

    `quantizer` is the index of the quantizer that rounds its output, None where it is not rounded;
    `inner` that of the values between the two operators of a layer that becomes two: a linear one
    whose activation is not fused, a batch norm of its own. `linear` layers have their kernel
    rounded, as it is once `batch_norm` is folded into it; `folded` is a batch norm that has gone
    into the layer before. `graph` is that of a network inside.
    """

    node: Any
    linear: bool = False
    batch_norm: Any = None
    folded: bool = False
    quantizer: int | None = None
    inner: int | None = None
    graph: Graph | None = None

    @property
    def layer(self) -> Any:
        return self.node.operation


@dataclass(slots=True)
class Graph:
    """The steps of a network in the order of their computation.

    `ranges` holds for each quantizer the range that is its operator's own, None where it is measured;
    it is shared with the networks inside. `inputs` are the quantizers of the network's inputs.
    `unquantized` names the layers whose rounding is not known here.
    """

    network: Any
    ranges: list[tuple[float, float] | None]
    unquantized: list[str]
    steps: list[Step] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)

    def all_steps(self) -> Iterable[Step]:
        """The steps, and those of the networks inside."""
        for step in self.steps:
            yield step
            if step.graph is not None:
                yield from step.graph.all_steps()


def read_graph(network: keras.Model) -> Graph:
    """Follow a functional network's graph and place the quantizers."""
    graph = Graph(network, [], [])
    graph.inputs = [_new_quantizer(graph.ranges) for _ in network.inputs]
    _place(graph, dict(zip(map(id, network.inputs), graph.inputs, strict=True)))
    return graph


def _new_quantizer(ranges: list[tuple[float, float] | None], fixed: tuple[float, float] | None = None) -> int:
    ranges.append(fixed)
    return len(ranges) - 1


def _place(graph: Graph, quantizers: dict[int, int | None]) -> None:
    """Fill `graph` with its steps; `quantizers` holds the quantizer of each tensor, by id."""
    nodes = _ordered_nodes(graph.network)
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in graph.network.outputs)
    makers: dict[int, Step] = {}
    for node in nodes:
        step = Step(node)
        sources = [id(tensor) for tensor in node.input_tensors]
        own = [makers.get(source) if uses[source] == 1 else None for source in sources]
        _place_step(graph, step, own, [quantizers.get(source) for source in sources])
        graph.steps.append(step)
        for tensor in node.outputs:
            makers[id(tensor)] = step
            quantizers[id(tensor)] = step.quantizer


def _ordered_nodes(network: keras.Model) -> list[Any]:
    """Every call of a layer, after those whose outputs it takes; Keras has no public way to ask for it."""
    by_depth = network._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def _place_step(graph: Graph, step: Step, own: list[Step | None], sources: list[int | None]) -> None:
    """Place the rounding of one step; `own` are those that feed it alone, whose rounding may move here."""
    kind, before = _kind(step.layer), own[0]
    if hasattr(step.layer, "_nodes_by_depth") or kind == "Sequential":
        _enter(graph, step, sources)
    elif kind in _LINEAR:
        step.linear = True
        fused = _activation(step.layer) in _FUSED_ACTIVATIONS
        step.inner = None if fused else _new_quantizer(graph.ranges)
        step.quantizer = _new_quantizer(graph.ranges, _FIXED.get(_activation(step.layer)))
    elif kind == "BatchNormalization" and _folds_into(before, step.layer):
        assert before is not None
        before.batch_norm, step.folded = step.layer, True
        step.quantizer, before.quantizer = before.quantizer, None
    elif _is_relu(step.layer) and before is not None and _fuses(before):
        step.quantizer, before.quantizer = before.quantizer, None
    elif kind in _MOVES or kind in _INTERPOLATES or _activation(step.layer) == "linear":
        step.quantizer = sources[0]
    elif kind in _COMPUTES or kind in _ARITHMETIC:
        # A batch norm becomes a product and a sum.
        step.inner = _new_quantizer(graph.ranges) if kind == "BatchNormalization" else None
        step.quantizer = quantizer = _new_quantizer(graph.ranges, _FIXED.get(_activation(step.layer)))
        if kind == "Concatenate":
            _share_quantizer(graph, quantizer, own)
    else:
        graph.unquantized.append(step.layer.name)


def _share_quantizer(graph: Graph, quantizer: int, parts: list[Step | None]) -> None:
    """What is concatenated has one quantizer from where it was computed."""
    merged = {part.quantizer for part in parts if part is not None and part.quantizer is not None}
    for step in graph.steps:
        if step.quantizer in merged:
            step.quantizer = quantizer


def _enter(graph: Graph, step: Step, sources: list[int | None]) -> None:
    """Read the network inside; what comes out of it has been rounded there."""
    inside = getattr(step.layer, "_functional", None) or step.layer
    step.graph = Graph(inside, graph.ranges, graph.unquantized)
    known: dict[int, int | None] = dict(zip(map(id, inside.inputs), sources, strict=True))
    _place(step.graph, known)
    step.quantizer = known[id(inside.outputs[0])] if len(inside.outputs) == 1 else None


def _kind(layer: Any) -> str:
    """The class's name where it is one of Keras's, else "": a user's own may do anything."""
    return type(layer).__name__ if type(layer).__module__.startswith("keras.") else ""


def _activation(layer: Any) -> str:
    """The name of what the layer applies to its values, empty where it has none."""
    kind = _kind(layer)
    if kind in ("Sigmoid", "Softmax", "Tanh"):
        return kind.lower()
    if kind not in _LINEAR and kind != "Activation":
        return ""
    name = keras.activations.serialize(layer.activation)
    return name if isinstance(name, str) else "unknown"


def _folds_into(before: Step | None, batch_norm: Any) -> bool:
    """Whether the converter folds this batch norm, over the last axis, into the linear layer before."""
    if before is None or not before.linear or before.batch_norm is not None or _activation(before.layer) != "linear":
        return False
    return batch_norm.axis in (-1, len(before.layer.output.shape) - 1)


def _is_relu(layer: Any) -> bool:
    kind = _kind(layer)
    if kind == "ReLU":
        return layer.max_value in (None, 6.0) and not layer.negative_slope and not layer.threshold
    return kind in ("Relu", "Relu6") or (kind == "Activation" and _activation(layer) in ("relu", "relu6"))


def _fuses(before: Step) -> bool:
    """Whether a ReLU goes into this step's operator."""
    if before.folded:
        return True
    return _kind(before.layer) in _ARITHMETIC or (before.linear and _activation(before.layer) == "linear")


class FakeQuantizedNetwork(keras.Model):  # type: ignore[misc]
    """Wraps a functional network and shares its weights; answers in the same structure, with fake quantization.

    Batch norm works with its moving statistics in training too: they are part of the folded
    kernels, whose levels would move with every batch. `unquantized` names the layers that compute
    in float because it is not known here how the quantizer treats them. Until `measure_ranges` has
    seen images, the answers mean nothing.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="fake_quantized_network")
        self.network = network
        self._graph = _Untracked(read_graph(network))
        fixed = [given or (0.0, 0.0) for given in self._graph.value.ranges]
        self.ranges = self.add_weight(
            shape=(len(fixed), 2), initializer="zeros", trainable=False, dtype="float32", name="ranges"
        )
        self.ranges.assign(np.array(fixed, np.float32))
        self._traced_spans = tf.function(self._spans, reduce_retracing=True)
        self.built = True

    @property
    def unquantized(self) -> tuple[str, ...]:
        return tuple(self._graph.value.unquantized)

    def call(self, image: Any, training: bool | None = None) -> Any:
        del training  # only dropout cares, and asks Keras for it
        return _walk(self._graph.value, [image], self._round)

    def _round(self, quantizer: int, values: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_vars(
            values, self.ranges[quantizer, 0], self.ranges[quantizer, 1]
        )

    def measure_ranges(self, batches: Iterable[NDArray[np.float32]]) -> None:
        """Set every activation's range to what `batches` of normalized images reach, as the calibration does.

        The kernels are rounded, as they will be in the network that is converted; activations are not.
        """
        graph = self._graph.value
        ranges = np.zeros((len(graph.ranges), 2), np.float32)  # 0 is in every range
        for images in batches:
            seen = self._traced_spans(tf.convert_to_tensor(images)).numpy()
            ranges[:, 0] = np.minimum(ranges[:, 0], seen[:, 0])
            ranges[:, 1] = np.maximum(ranges[:, 1], seen[:, 1])
        for index, fixed in enumerate(graph.ranges):
            ranges[index] = fixed or ranges[index]
        ranges[:, 1] = np.maximum(ranges[:, 1], ranges[:, 0] + _SMALLEST_RANGE)
        self.ranges.assign(ranges)

    def _spans(self, images: Any) -> Any:
        """Lowest and highest value at every quantizer, (quantizers, 2)."""
        seen: dict[int, list[Any]] = {}

        def record(quantizer: int, values: Any) -> Any:
            seen.setdefault(quantizer, []).append(ops.stack([ops.min(values), ops.max(values)]))
            return values

        _walk(self._graph.value, [images], record)
        spans = [ops.stack(seen.get(quantizer, [ops.zeros(2)])) for quantizer in range(len(self._graph.value.ranges))]
        return ops.stack([ops.stack([ops.min(span[:, 0]), ops.max(span[:, 1])]) for span in spans])

    def round_kernels(self) -> None:
        """Round the network's kernels, and batch norms that are folded into none, to the levels they learnt with.

        From then on the float network differs from its int8 file by the rounding of activations
        only, and the converter finds the very same levels. A layer that is called more than once,
        into different batch norms, has no one set of levels and stays as it is.
        """
        steps = list(self._graph.value.all_steps())
        calls = Counter(id(step.layer) for step in steps)
        for step in steps:
            if calls[id(step.layer)] > 1:
                continue
            if step.linear:
                factor = np.asarray(_factor(step.layer, step.batch_norm))
                rounded = np.asarray(_rounded_kernel(step.layer, factor))
                safe = np.where(factor == 0, 1, factor)
                step.layer.kernel.assign(np.where(factor == 0, np.asarray(step.layer.kernel), rounded / safe))
            elif _is_batch_norm(step) and not step.folded:
                _round_batch_norm(step.layer)


class _Untracked:
    """Hides a graph from Keras, which would track the layers in it a second time."""

    def __init__(self, value: Graph) -> None:
        self.value = value


def _walk(graph: Graph, inputs: list[Any], visit: Visit) -> Any:
    """Compute the network step by step; `visit` rounds each tensor that has a quantizer."""
    values = {
        id(tensor): visit(quantizer, value)
        for tensor, quantizer, value in zip(graph.network.inputs, graph.inputs, inputs, strict=True)
    }
    return _steps(graph, values, visit)


def _steps(graph: Graph, values: dict[int, Any], visit: Visit) -> Any:
    for step in graph.steps:
        args, kwargs = step.node.arguments.fill_in(values)
        outputs = keras.tree.flatten(_compute(step, args, kwargs, visit))
        if step.quantizer is not None and step.graph is None:
            outputs = [visit(step.quantizer, output) for output in outputs]
        values.update(zip(map(id, step.node.outputs), outputs, strict=True))
    return keras.tree.map_structure(lambda tensor: values[id(tensor)], graph.network.output)


def _compute(step: Step, args: Any, kwargs: dict[str, Any], visit: Visit) -> Any:
    if step.graph is not None:
        inside = step.graph.network.inputs
        return _steps(step.graph, dict(zip(map(id, inside), keras.tree.flatten(args), strict=True)), visit)
    if step.folded:
        return args[0]
    if step.linear:
        return _linear(step, args[0], visit)
    if _is_batch_norm(step):
        assert step.inner is not None
        factor, offset = _constants(step.layer)
        return visit(step.inner, args[0] * factor) + offset
    # Keras notes down `training=False` while a network is built; whether it trains is asked of the call around this.
    return step.layer(*args, **{name: value for name, value in kwargs.items() if name != "training"})


def _is_batch_norm(step: Step) -> bool:
    return isinstance(step.layer, keras.layers.BatchNormalization)


def _linear(step: Step, values: Any, visit: Visit) -> Any:
    """The layer with its rounded kernel, the batch norm behind it folded in."""
    layer, factor = step.layer, _factor(step.layer, step.batch_norm)
    kernel = _rounded_kernel(layer, factor)
    if isinstance(layer, keras.layers.Dense):
        result = ops.matmul(values, kernel)
    else:
        convolve = ops.depthwise_conv if isinstance(layer, keras.layers.DepthwiseConv2D) else ops.conv
        result = convolve(
            values, kernel, strides=layer.strides, padding=layer.padding,
            data_format=layer.data_format, dilation_rate=layer.dilation_rate,
        )  # fmt: skip
    bias = 0.0 if getattr(layer, "bias", None) is None else layer.bias
    if step.batch_norm is not None:
        bias = _offset(step.batch_norm, ops.reshape(factor, (-1,)), bias)
    result = result + bias
    if step.inner is not None:
        result = visit(step.inner, result)
    return layer.activation(result)


def _factor(layer: Any, batch_norm: Any) -> Any:
    """What the batch norm multiplies each output channel by, in a shape that the kernel can be multiplied with."""
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    channels = layer.kernel.shape[-2:] if depthwise else layer.kernel.shape[-1:]
    return ops.ones(channels) if batch_norm is None else ops.reshape(_scale(batch_norm), channels)


def _scale(batch_norm: Any) -> Any:
    scale = ops.rsqrt(batch_norm.moving_variance + batch_norm.epsilon)
    return scale if batch_norm.gamma is None else scale * batch_norm.gamma


def _offset(batch_norm: Any, scale: Any, bias: Any = 0.0) -> Any:
    offset = (bias - batch_norm.moving_mean) * scale
    return offset if batch_norm.beta is None else offset + batch_norm.beta


def _constants(batch_norm: Any) -> tuple[Any, Any]:
    """A batch norm of its own as a factor and a summand: each a tensor of one range, as activations are."""
    scale = _rounded_constant(_scale(batch_norm))
    return scale, _rounded_constant(_offset(batch_norm, scale))


def _rounded_constant(values: Any) -> Any:
    low, high = ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)
    high = ops.maximum(high, low + _SMALLEST_RANGE)
    return tf.quantization.fake_quant_with_min_max_vars(values, ops.stop_gradient(low), ops.stop_gradient(high))


def _round_batch_norm(batch_norm: Any) -> None:
    scale, offset = _constants(batch_norm)
    if batch_norm.gamma is not None:
        batch_norm.gamma.assign(scale * ops.sqrt(batch_norm.moving_variance + batch_norm.epsilon))
    if batch_norm.beta is not None:
        batch_norm.beta.assign(offset + batch_norm.moving_mean * scale)


def _rounded_kernel(layer: Any, factor: Any) -> Any:
    """The folded kernel at its int8 levels, symmetric, one scale for each output channel; gradients pass."""
    folded = layer.kernel * factor
    over = tuple(range(len(folded.shape) - len(factor.shape)))
    largest = ops.max(ops.abs(folded), axis=over, keepdims=True)
    step = ops.where(largest > 0, largest / _LEVELS, 1.0)
    return folded + ops.stop_gradient(ops.round(folded / step) * step - folded)
