"""Where TensorFlow Lite's quantizer will round in a Keras network: read off its graph, nothing is computed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

__all__ = ["Graph", "Step", "read_graph"]

_LINEAR = {"Conv2D", "DepthwiseConv2D", "Dense"}
_FUSED_ACTIVATIONS = {"linear", "relu", "relu6"}
# What a ReLU behind it is fused into, beside the linear ones.
_ARITHMETIC = {"Add", "Subtract", "Multiply", "BatchNormalization"}
# The values that come out went in: they stay on the grid they are on.
_MOVES = {
    "ActivityRegularization", "Cropping2D", "Dropout", "ExpandDims", "Flatten", "GaussianDropout", "GaussianNoise",
    "GetItem", "GlobalMaxPooling2D", "Identity", "MaxPooling2D", "Permute", "Reshape", "SpatialDropout2D", "Squeeze",
    "Transpose", "ZeroPadding2D",
}  # fmt: skip
# New values, rounded to the grid of those that went in.
_INTERPOLATES = {"AveragePooling2D", "UpSampling2D"}
_COMPUTES = {
    "Activation", "Average", "Concatenate", "ELU", "GlobalAveragePooling2D", "HardSigmoid", "HardSilu", "LeakyReLU",
    "LeakyRelu", "Maximum", "Mean", "Minimum", "Normalization", "PReLU", "ReLU", "Relu", "Relu6", "Rescaling",
    "Sigmoid", "Silu", "Softmax", "Tanh",
}  # fmt: skip
_SIGMOID_RANGE = (0.0, 255 / 256)
# Outputs whose grid is the operator's own, whatever was seen in calibration.
_FIXED = {"sigmoid": _SIGMOID_RANGE, "softmax": _SIGMOID_RANGE, "tanh": (-1.0, 127 / 128)}


@dataclass(slots=True)
class Step:
    """One call of a layer.

    `grid` is the index of the grid that its output is rounded to, None where it is not rounded;
    `inner` that of the values between the two operators of a layer that becomes two: a linear one
    whose activation is not fused, a batch norm of its own. `linear` layers have their kernel
    rounded, as it is once `batch_norm` is folded into it; `folded` is a batch norm that has gone
    into the layer before. `graph` is that of a network inside.
    """

    node: Any
    linear: bool = False
    batch_norm: Any = None
    folded: bool = False
    grid: int | None = None
    inner: int | None = None
    graph: Graph | None = None

    @property
    def layer(self) -> Any:
        return self.node.operation


@dataclass(slots=True)
class Graph:
    """The steps of a network in the order of their computation.

    `ranges` holds for each grid the range that is its operator's own, None where it is measured;
    it is shared with the networks inside. `inputs` are the grids of the network's inputs.
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
    """Follow a functional network's graph and place the grids."""
    graph = Graph(network, [], [])
    graph.inputs = [_new_grid(graph.ranges) for _ in network.inputs]
    _place(graph, dict(zip(map(id, network.inputs), graph.inputs, strict=True)))
    return graph


def _new_grid(ranges: list[tuple[float, float] | None], fixed: tuple[float, float] | None = None) -> int:
    ranges.append(fixed)
    return len(ranges) - 1


def _place(graph: Graph, grids: dict[int, int | None]) -> None:
    """Fill `graph` with its steps; `grids` tells for each tensor, by id, the grid that it is on."""
    nodes = _ordered_nodes(graph.network)
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in graph.network.outputs)
    makers: dict[int, Step] = {}
    for node in nodes:
        step = Step(node)
        sources = [id(tensor) for tensor in node.input_tensors]
        own = [makers.get(source) if uses[source] == 1 else None for source in sources]
        _take_in(graph, step, own, [grids.get(source) for source in sources])
        graph.steps.append(step)
        for tensor in node.outputs:
            makers[id(tensor)] = step
            grids[id(tensor)] = step.grid


def _ordered_nodes(network: keras.Model) -> list[Any]:
    """Every call of a layer behind what it needs; Keras has no public way to ask for it."""
    by_depth = network._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def _take_in(graph: Graph, step: Step, own: list[Step | None], sources: list[int | None]) -> None:
    """Say of one step where it rounds; `own` are the steps that work for it alone, whose rounding may move here."""
    kind, before = _kind(step.layer), own[0]
    if hasattr(step.layer, "_nodes_by_depth") or kind == "Sequential":
        _enter(graph, step, sources)
    elif kind in _LINEAR:
        step.linear = True
        fused = _activation(step.layer) in _FUSED_ACTIVATIONS
        step.inner = None if fused else _new_grid(graph.ranges)
        step.grid = _new_grid(graph.ranges, _FIXED.get(_activation(step.layer)))
    elif kind == "BatchNormalization" and _takes(before, step.layer):
        assert before is not None
        before.batch_norm, step.folded = step.layer, True
        step.grid, before.grid = before.grid, None
    elif _is_relu(step.layer) and before is not None and _fuses(before):
        step.grid, before.grid = before.grid, None
    elif kind in _MOVES or kind in _INTERPOLATES or _activation(step.layer) == "linear":
        step.grid = sources[0]
    elif kind in _COMPUTES or kind in _ARITHMETIC:
        # A batch norm becomes a product and a sum.
        step.inner = _new_grid(graph.ranges) if kind == "BatchNormalization" else None
        step.grid = grid = _new_grid(graph.ranges, _FIXED.get(_activation(step.layer)))
        if kind == "Concatenate":
            _share_grid(graph, grid, own)
    else:
        graph.unquantized.append(step.layer.name)


def _share_grid(graph: Graph, grid: int, parts: list[Step | None]) -> None:
    """What is put side by side is on one grid from where it was computed."""
    merged = {part.grid for part in parts if part is not None and part.grid is not None}
    for step in graph.steps:
        if step.grid in merged:
            step.grid = grid


def _enter(graph: Graph, step: Step, sources: list[int | None]) -> None:
    """Read the network inside; what comes out of it has been rounded there."""
    inside = getattr(step.layer, "_functional", None) or step.layer
    step.graph = Graph(inside, graph.ranges, graph.unquantized)
    known: dict[int, int | None] = dict(zip(map(id, inside.inputs), sources, strict=True))
    _place(step.graph, known)
    step.grid = known[id(inside.outputs[0])] if len(inside.outputs) == 1 else None


def _kind(layer: Any) -> str:
    """The class's name where Keras brings the class, else none: a user's own may do anything."""
    return type(layer).__name__ if type(layer).__module__.startswith("keras.") else ""


def _activation(layer: Any) -> str:
    """The name of what the layer applies to its values, empty where it has none."""
    import keras

    kind = _kind(layer)
    if kind in ("Sigmoid", "Softmax", "Tanh"):
        return kind.lower()
    if kind not in _LINEAR and kind != "Activation":
        return ""
    name = keras.activations.serialize(layer.activation)
    return name if isinstance(name, str) else "unknown"


def _takes(before: Step | None, batch_norm: Any) -> bool:
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
