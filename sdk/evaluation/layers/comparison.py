"""The error of a quantized model, tensor by tensor over many images, and which layer adds it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.engines import TensorInfo, open_engine
from edgeloc.errors import ContractError, DataError, ModelError
from edgeloc.evaluation.layers.graph import (
    Pair,
    Pairing,
    TensorRunner,
    counterparts,
    cut_graph,
    pair_graphs,
    reached,
    reads_alike,
)
from edgeloc.model.contract import Contract, InputSpec
from edgeloc.model.file import ModelFile
from edgeloc.model.flatbuffer import TfliteModel, parse_flatbuffer
from edgeloc.model.precision import FLOAT32, WEIGHTED, judge
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Pixels

__all__ = ["EXACT_DB", "ErrorSums", "LayerError", "LayerReport", "compare_layers", "snr_db"]

# About what float32 arithmetic itself has; JSON knows no infinity.
EXACT_DB = 140.0
CLIPPED_SHARE = 0.001
# Even 4-bit weights keep 15 dB or so to those they were rounded from; below, they are other weights.
_OTHER_WEIGHTS_DB = 6.0


@dataclass(frozen=True, slots=True)
class LayerError:
    """One tensor of the quantized model against the float model's, over all values of all images.

    `snr_db` is 10 log10(sum x^2 / sum (x - q)^2), from -140 to 140 (exact); `cosine` that of the angle
    between the two; `max_abs_error` in the tensor's own units. All three hold the error carried
    from before as well. `own_snr_db` and `own_rmse` are of what this layer adds alone, and None where an
    input has no counterpart; `own_steps` is `own_rmse` in steps of the tensor's scale: rounding
    the output alone gives 1/sqrt(12) = 0.29. `float_range` is what the float model's values span,
    `int_range` what the tensor can hold (None where it is float), `clipped` the share (0 to 1) of the
    float model's values that lie beyond it. `weight_snr_db` is of the layer's stored weights. `output` is
    the name of the model's output that this is, "" where it is none.
    """

    position: int
    operator: str
    tensor: str
    quantized_tensor: str
    shape: tuple[int, ...]
    dtype: str
    paired_by: str
    output: str
    snr_db: float
    cosine: float
    max_abs_error: float
    own_snr_db: float | None
    own_rmse: float | None
    own_steps: float | None
    float_range: tuple[float, float]
    int_range: tuple[float, float] | None
    clipped: float
    weight_snr_db: float | None

    @property
    def range_used(self) -> float | None:
        """How much of what the tensor can hold the float model's values span: each half leaves a bit unused."""
        if self.int_range is None or self.int_range[1] <= self.int_range[0]:
            return None
        low, high = max(self.float_range[0], self.int_range[0]), min(self.float_range[1], self.int_range[1])
        return max(0.0, high - low) / (self.int_range[1] - self.int_range[0])

    @property
    def cause(self) -> str:
        """What most of the layer's own error comes from, in a word; "" where it has none or it is not known.

        `clipping`: more than a thousandth of the values lie beyond the range. `rounding`: over half of the
        noise power is that of rounding the output, step^2 / 12. Else `weights`, or `other` without any.
        """
        if not self.own_rmse:
            return ""
        if self.clipped > CLIPPED_SHARE:
            return "clipping"
        if self.own_steps is not None and self.own_steps**2 < 2 / 12:
            return "rounding"
        return "weights" if self.weight_snr_db is not None else "other"


class ErrorSums:
    """Sums over images of one tensor: x is the float model's, q the quantized one's, alone what a float layer makes.

    `representable` is what the quantized tensor can hold and `step` its scale, None where it is float.
    """

    def __init__(self, representable: tuple[float, float] | None = None, step: float | None = None) -> None:
        self._representable, self._step = representable, step
        self._count = self._clipped = self._own_count = 0
        self._x2 = self._q2 = self._xq = self._error2 = self._alone2 = self._own2 = 0.0
        self._max_abs_error, self._low, self._high = 0.0, math.inf, -math.inf

    def add(self, x: NDArray[Any], q: NDArray[Any], alone: NDArray[Any] | None = None) -> None:
        """Take in one image; arrays of equal size, `alone` None where the layer's own error is not known."""
        x, q = x.ravel().astype(np.float64), q.ravel().astype(np.float64)
        error = x - q
        self._count += x.size
        self._x2 += _dot(x, x)
        self._q2 += _dot(q, q)
        self._xq += _dot(x, q)
        self._error2 += _dot(error, error)
        self._max_abs_error = max(self._max_abs_error, float(np.abs(error).max(initial=0.0)))
        self._low, self._high = min(self._low, float(x.min())), max(self._high, float(x.max()))
        if self._representable is not None:
            low, high = self._representable
            half_step = (self._step or 0.0) / 2
            self._clipped += int(np.count_nonzero((x < low - half_step) | (x > high + half_step)))
        if alone is not None:
            alone = alone.ravel().astype(np.float64)
            own = alone - q
            self._own_count += x.size
            self._alone2 += _dot(alone, alone)
            self._own2 += _dot(own, own)

    @property
    def snr_db(self) -> float:
        """Signal to noise so far, carried error included."""
        return snr_db(self._x2, self._error2)

    def layer(self, **known: Any) -> LayerError:
        """The figures, with what else is `known` of the tensor."""
        own_rmse = math.sqrt(self._own2 / self._own_count) if self._own_count else None
        length = math.sqrt(self._x2 * self._q2)
        return LayerError(
            snr_db=self.snr_db,
            cosine=self._xq / length if length else float(self._x2 == self._q2),
            max_abs_error=self._max_abs_error,
            own_snr_db=None if own_rmse is None else snr_db(self._alone2, self._own2),
            own_rmse=own_rmse,
            own_steps=own_rmse / self._step if self._step and own_rmse is not None else None,
            float_range=(self._low, self._high),
            int_range=self._representable,
            clipped=self._clipped / self._count,
            **known,
        )


def snr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers, held within -140 and 140 dB; 140 where there is no noise."""
    if noise <= 0:
        return EXACT_DB
    if signal <= 0:
        return -EXACT_DB
    return min(EXACT_DB, max(-EXACT_DB, 10 * math.log10(signal / noise)))


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # Not a @ b: BLAS wakes all its threads for it, which costs more than the sum on a machine that is busy.
    return float(np.einsum("i,i", a, b))


@dataclass(frozen=True, slots=True)
class LayerReport:
    """How far each tensor of a quantized model is from the float model's, and what each layer adds.

    `layers` are in order of execution. `input_snr_db` is what quantizing the image itself costs
    (140 where it costs nothing). `float_alone` and `quantized_alone` name operators without a
    counterpart in the other model, of which no figure is taken.
    """

    float_model: str
    quantized_model: str
    images: int
    input_snr_db: float
    layers: tuple[LayerError, ...]
    float_alone: tuple[str, ...] = ()
    quantized_alone: tuple[str, ...] = ()

    @property
    def blame(self) -> tuple[LayerError, ...]:
        """The layers that add error, the one that adds most relative to its signal (lowest `own_snr_db`) first.

        Those that only move numbers about, and those whose own error is not known, are left out.
        """
        adding = [(layer.own_snr_db, layer) for layer in self.layers if layer.own_snr_db is not None and layer.own_rmse]
        return tuple(layer for _, layer in sorted(adding, key=lambda pair: (pair[0], pair[1].position)))

    @property
    def outputs(self) -> tuple[LayerError, ...]:
        """The layers that write an output of the model."""
        return tuple(layer for layer in self.layers if layer.output)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values; `blame` lists the tensors' names, worst first."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for value, layer in zip(values["layers"], self.layers, strict=True):
            value.update(range_used=layer.range_used, cause=layer.cause)
        return {**values, "blame": [layer.tensor for layer in self.blame]}


def compare_layers(
    float_model: ModelFile, quantized_model: ModelFile, images: Iterable[Pixels], contract: Contract
) -> LayerReport:
    """Run both models on `images` (BGR uint8, any size) with every tensor kept, and compare tensor by tensor.

    `contract` is how an image becomes the input of either. Two figures are taken of each tensor,
    over all images: its error as it stands (carried from before and added here), and the error of
    its layer alone: the float operator, given what the quantized model gave its own, against what
    the quantized operator made of it. The latter is what TensorFlow's Quantization Debugger measures
    (RMSE / scale), here also as a signal-to-noise ratio: 10 log10(sum x^2 / sum (x - q)^2).

    Raises ModelError when a file is damaged, when the first is not float32 or the second nothing
    but float, or when they are not the same network; ContractError when the contract is for
    another input; DataError without an image; EngineError when the runtime fails.
    """
    comparison = _Comparison(float_model, quantized_model, contract.input)
    count = 0
    for pixels in images:
        comparison.add(pixels)
        count += 1
    if not count:
        raise DataError("comparing layer by layer needs at least one image: give data that holds some")
    return comparison.report(count)


class _Comparison:
    """Both models and the cut float graph, loaded; and the sums over the images so far."""

    def __init__(self, float_model: ModelFile, quantized_model: ModelFile, spec: InputSpec) -> None:
        self._files = (float_model, quantized_model)
        before, after = (parse_flatbuffer(file.payload, str(file.path)) for file in self._files)
        _refuse_precisions(self._files, before, after)
        self._graph, self._quantized_graph = before.graphs[0], after.graphs[0]
        self._outputs = _output_names(before)
        inputs = [_input_info(file) for file in self._files]
        _refuse_sizes(self._files, inputs, spec)
        self._pairing = pair_graphs(self._graph, self._quantized_graph)
        _refuse_unrelated(self._files, self._pairing)
        self._preprocessors = [Preprocessor(spec, info.dtype, info.scale, info.zero_point) for info in inputs]
        self._float = TensorRunner.open(float_model)
        self._quantized = TensorRunner.open(quantized_model)
        cut, self._given = cut_graph(float_model.payload)
        self._cut = TensorRunner(cut)
        graphs = self._graph, self._quantized_graph
        self._counterparts = counterparts(*graphs, self._pairing.pairs)
        # Indices and other whole numbers have no noise to speak of.
        self._pairs = [pair for pair in self._pairing.pairs if self._graph.tensors[pair.float_tensor].is_float]
        self._fed = {pair.float_tensor for pair in self._pairs if reads_alike(pair, *graphs, self._counterparts)}
        self._sums = {pair.float_tensor: self._new_sums(pair) for pair in self._pairs}
        self._input = ErrorSums()

    def add(self, pixels: Pixels) -> None:
        """Take one image through both models and through the cut graph."""
        for runner, graph, make in zip(
            (self._float, self._quantized), (self._graph, self._quantized_graph), self._preprocessors, strict=True
        ):
            runner.set(graph.inputs[0], make(pixels)[0])
            runner.run()
        for index, given in self._given.items():
            counterpart = self._counterparts.get(index)
            self._cut.set(given, self._float.real(index) if counterpart is None else self._quantized.real(counterpart))
        self._cut.run()
        image = self._graph.inputs[0]
        self._input.add(self._float.real(image), self._quantized.real(self._counterparts[image]))
        for pair in self._pairs:
            self._sums[pair.float_tensor].add(
                self._float.real(pair.float_tensor),
                self._quantized.real(pair.quantized_tensor),
                self._cut.real(pair.float_tensor) if pair.float_tensor in self._fed else None,
            )

    def _new_sums(self, pair: Pair) -> ErrorSums:
        counterpart = self._quantized_graph.tensors[pair.quantized_tensor]
        step = counterpart.scales[0] if counterpart.is_quantized else None
        return ErrorSums(self._quantized.representable(pair.quantized_tensor), step)

    def report(self, images: int) -> LayerReport:
        """The figures of all images so far."""
        layers = tuple(self._layer(pair) for pair in self._pairs)
        _refuse_other_weights(self._files, [layer.weight_snr_db for layer in layers])
        return LayerReport(
            float_model=str(self._files[0].path),
            quantized_model=str(self._files[1].path),
            images=images,
            input_snr_db=self._input.snr_db,
            layers=layers,
            float_alone=self._pairing.float_alone,
            quantized_alone=self._pairing.quantized_alone,
        )

    def _layer(self, pair: Pair) -> LayerError:
        tensor, counterpart = (
            self._graph.tensors[pair.float_tensor],
            self._quantized_graph.tensors[pair.quantized_tensor],
        )
        return self._sums[pair.float_tensor].layer(
            position=pair.position,
            operator=pair.operator.name,
            tensor=tensor.name,
            quantized_tensor=counterpart.name,
            shape=tuple(abs(size) for size in tensor.shape),
            dtype=counterpart.dtype,
            paired_by=pair.by,
            output=self._outputs.get(pair.float_tensor, ""),
            weight_snr_db=self._weight_snr(pair),
        )

    def _weight_snr(self, pair: Pair) -> float | None:
        """How well the layer's weights kept their values; None for an operator without weights of its own."""
        if pair.operator.name not in WEIGHTED or len(pair.operator.inputs) < 2:
            return None
        index, counterpart = pair.operator.inputs[1], pair.quantized_operator.inputs[1]
        if index in reached(self._graph) or min(index, counterpart) < 0:
            return None
        weights, rounded = self._float.real(index), self._quantized.real(counterpart)
        if weights.shape != rounded.shape:
            return None
        return snr_db(_power(weights), _power(weights - rounded))


def _output_names(model: TfliteModel) -> dict[int, str]:
    """What the outputs are called, by tensor: the signature's names where it has any."""
    graph = model.graphs[0]
    named = {} if model.signature is None else {index: name for name, index in model.signature.outputs.items()}
    return {index: named.get(index, graph.tensors[index].name) for index in graph.outputs}


def _power(values: NDArray[Any]) -> float:
    return float(np.sum(np.square(values, dtype=np.float64)))


def _input_info(file: ModelFile) -> TensorInfo:
    """The model's one input, through the engine, which tries an untrusted file in a process of its own."""
    return next(iter(open_engine("auto", file).inputs.values()))


def _refuse_precisions(files: tuple[ModelFile, ModelFile], before: TfliteModel, after: TfliteModel) -> None:
    first, second = judge(before).precision, judge(after).precision
    if first == FLOAT32 and second != FLOAT32:
        return
    if second == FLOAT32 and first != FLOAT32:
        raise ModelError(f"{files[1].path} is the float model and {files[0].path} is {first}: give the float one first")
    if second == FLOAT32:
        raise ModelError(f"{files[1].path} is float32 like {files[0].path}: the second must be a quantized model")
    raise ModelError(f"{files[0].path} is {first}: the first must be the float32 model (recipe float32)")


def _refuse_sizes(files: tuple[ModelFile, ModelFile], inputs: list[TensorInfo], spec: InputSpec) -> None:
    first, second = ("x".join(map(str, info.shape[1:])) for info in inputs)
    if first != second:
        raise ModelError(f"{files[1].path} is not {files[0].path} quantized: it takes {second}, the other {first}")
    wanted = f"{spec.height}x{spec.width}x{1 if spec.color == 'gray' else 3}"
    if first != wanted:
        raise ContractError(f"the contract makes an input of {wanted}, but {files[0].path} takes {first}")


def _refuse_unrelated(files: tuple[ModelFile, ModelFile], pairing: Pairing) -> None:
    alone = max(pairing.float_alone, pairing.quantized_alone, key=len)
    if len(alone) > len(pairing.pairs):
        raise ModelError(
            f"{files[1].path} is not {files[0].path} quantized: {len(alone)} of {len(alone) + len(pairing.pairs)} "
            f"operators have no counterpart, {alone[0]} the first; give the float model that it was made from"
        )


def _refuse_other_weights(files: tuple[ModelFile, ModelFile], found: list[float | None]) -> None:
    known = [value for value in found if value is not None]
    if known and median(known) < _OTHER_WEIGHTS_DB:
        raise ModelError(
            f"{files[1].path} is not {files[0].path} quantized: the operators are the same but the weights are others "
            f"(median SNR {median(known):.0f} dB); give the float model that it was made from"
        )
