"""The layer-by-layer report as lines of text; the figures come ready from `layers`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edgeloc.benchmarks.layer_sums import EXACT_DB, LayerError
from edgeloc.benchmarks.layers import LayerReport

__all__ = ["LEGEND", "layer_lines"]

LEGEND = (
    "alone    dB signal to noise of what this layer adds: the float operator on the quantized model's own inputs",
    "steps    the same as RMSE in steps of the tensor's scale; rounding the output alone gives 0.29",
    "total    dB signal to noise against the float model, with what earlier layers brought; cosine likewise",
    "weights  dB signal to noise of the stored weights",
    "used     how much of the range that the tensor can hold the float values span; clipped: how many lie beyond it",
)
_HEAD = (
    f"{'#':>4} {'alone':>6} {'steps':>5} {'total':>6} {'cosine':>7} {'weights':>7} {'used':>5} {'clipped':>7} "
    f"{'cause':<8}  layer"
)


def layer_lines(report: LayerReport, worst: int = 10) -> Iterator[str]:
    """The report as text, line by line: the outputs, the `worst` layers to blame, then all in order of execution."""
    yield f"float       {report.float_model}"
    yield f"quantized   {report.quantized_model}, {report.images} images"
    yield f"input       {_db(report.input_snr_db)} dB signal to noise"
    for layer in report.outputs:
        yield f"output      {layer.output}: {_db(layer.snr_db)} dB, cosine {layer.cosine:.4f}"
    for name, alone in (("float", report.float_alone), ("quantized", report.quantized_alone)):
        if alone:
            yield f"no pair     {len(alone)} operators of the {name} model: {_some(alone)}"
    yield ""
    blame = report.blame[:worst]
    yield f"the {len(blame)} layers that add most error, worst first"
    yield from _rows(blame)
    yield ""
    yield "all layers in order of execution"
    yield from _rows(report.layers)
    yield ""
    yield from LEGEND


def _rows(layers: Iterable[LayerError]) -> Iterator[str]:
    yield _HEAD
    for layer in layers:
        steps = "-" if layer.own_steps is None else f"{layer.own_steps:.2f}"
        yield (
            f"{layer.position:>4} {_db(layer.own_snr_db):>6} {steps:>5} {_db(layer.snr_db):>6} {layer.cosine:>7.4f} "
            f"{_db(layer.weight_snr_db):>7} {_percent(layer.range_used):>5} {layer.clipped:>7.2%} {layer.cause:<8}  "
            f"{layer.operator} {_short(layer)}"
        )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _db(value: float | None) -> str:
    return "-" if value is None else "exact" if value >= EXACT_DB else f"{value:.1f}"


def _short(layer: LayerError) -> str:
    """The first of the names that the converter strung together."""
    return layer.tensor.split(";")[0]


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
