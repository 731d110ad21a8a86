"""Two model files compared layer by layer, and the comparison as lines of text and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.files import atomic_path, require_writable
from edgeloc._support.terminal import progress
from edgeloc.data import open_dataset
from edgeloc.data.sample import spread
from edgeloc.errors import ContractError, DataError, MissingExtra, UsageError
from edgeloc.evaluation.figures import FLOAT_COLOR, MARK_COLOR, QUANTIZED_COLOR, format_names
from edgeloc.evaluation.layers.comparison import EXACT_DB, LayerError, LayerReport, compare_layers
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, own_contract, read_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LEGEND", "PLOT_SUFFIXES", "LayerOptions", "compare_files", "draw_layers", "layer_lines"]

PLOT_SUFFIXES = (".pdf", ".png", ".svg")
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
_NAMED = 5  # layers that the picture names


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """What to compare, and on which images.

    `float_model` and `quantized_model` are the paths of two `.tflite` files. `validation` is a data set as
    `open_dataset` takes it, `validation_split` the part of it to use (None: all). `max_images` are taken at most,
    spread evenly over the data's groups. `plot` is where a picture goes, if anywhere.
    """

    float_model: str
    quantized_model: str
    validation: str
    validation_split: str | None = None
    max_images: int = 16
    plot: str | None = None


def compare_files(options: LayerOptions) -> LayerReport:
    """Compare two files tensor by tensor, and draw the comparison where `options.plot` asks for it.

    The contract is the quantized file's, or that of the `.json` beside it; else the float file's. Raises UsageError
    for a `.keras` file or a plot of an unknown kind, DataError when the data holds no image, and what `compare_layers`
    and `draw_layers` raise.
    """
    _refuse_options(options)
    before, after = read_model(options.float_model), read_model(options.quantized_model)
    contract = _contract(before, after)
    dataset = open_dataset(options.validation, split=options.validation_split)
    samples = spread(dataset.samples, options.max_images)
    if not samples:
        raise DataError(f"{options.validation} holds no image to compare the two models on")
    images = (sample.load() for sample in progress(samples, label="layer by layer"))
    report = compare_layers(before, after, images, contract)
    if options.plot:
        draw_layers(report, options.plot)
    return report


def _refuse_options(options: LayerOptions) -> None:
    for path in (options.float_model, options.quantized_model):
        if Path(path).suffix == ".keras":
            raise UsageError(
                f"{path} has no tensors by TFLite's names: convert it to a float .tflite first (recipe float32)"
            )
    if options.plot is None:
        return
    if Path(options.plot).suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(field="plot", value=options.plot, allowed=f"a name that ends in {', '.join(PLOT_SUFFIXES)}")
    require_writable(options.plot, options.float_model, options.quantized_model, options.validation)


def _contract(before: ModelFile, after: ModelFile) -> Contract:
    """The contract of either file; where both have one they must make the input alike."""
    own, other = own_contract(after), own_contract(before)
    contract = own or other
    if contract is None:
        raise ContractError(
            f"neither {after.path} nor {before.path} has a contract, which defines how an image becomes their input: "
            f"write one as {after.path.with_suffix('.json').name} beside it"
        )
    if other is not None and dataclasses.replace(other.input, tensor=contract.input.tensor) != contract.input:
        raise ContractError(
            f"{before.path} and {after.path} make their input in different ways (size, colour, resize or "
            "normalization): they cannot be compared on the same images"
        )
    return contract


def layer_lines(report: LayerReport, worst: int = 10) -> Iterator[str]:
    """The report as text, line by line: the outputs, the `worst` layers to blame, then all in order of execution."""
    yield f"float       {report.float_model}"
    yield f"quantized   {report.quantized_model}, {report.images} images"
    yield f"input       {_db(report.input_snr_db)} dB signal to noise"
    for layer in report.outputs:
        yield f"output      {layer.output}: {_db(layer.snr_db)} dB, cosine {layer.cosine:.4f}"
    for name, alone in (("float", report.float_alone), ("quantized", report.quantized_alone)):
        if alone:
            yield f"no pair     {len(alone)} operators of the {name} model: {format_names(alone)}"
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


def draw_layers(report: LayerReport, path: str | Path) -> None:
    """Signal to noise (dB) of each layer in order of execution, in total and alone; the five worst are named.

    The file's kind is its suffix, one of PLOT_SUFFIXES. Raises MissingExtra without matplotlib and
    OutputError when `path` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench", "the plot") from error
    figure = Figure(figsize=(10, 5), layout="constrained")
    _draw(figure.add_subplot(), report)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw(axes: Axes, report: LayerReport) -> None:
    # Exact layers (a reshape, a maximum) have no error to show and would only stretch the axis.
    shown = [layer for layer in report.layers if layer.own_snr_db is not None and layer.own_rmse]
    axes.plot(
        [layer.position for layer in shown],
        [layer.own_snr_db or 0.0 for layer in shown],
        "o", ms=4, color=FLOAT_COLOR, label="error of the layer alone",
    )  # fmt: skip
    axes.plot(
        [layer.position for layer in report.layers if layer.snr_db < EXACT_DB],
        [layer.snr_db for layer in report.layers if layer.snr_db < EXACT_DB],
        "-", lw=1.2, color=QUANTIZED_COLOR, label="total error at this tensor",
    )  # fmt: skip
    for rank, layer in enumerate(report.blame[:_NAMED], start=1):
        place = (layer.position, layer.own_snr_db or 0.0)
        axes.plot(*place, "o", ms=8, mfc="none", color=MARK_COLOR)
        axes.annotate(str(rank), place, xytext=(6, 4), textcoords="offset points", color=MARK_COLOR)
    names = [f"{rank} {layer.tensor.split(';')[0]}" for rank, layer in enumerate(report.blame[:_NAMED], start=1)]
    axes.set_title("\n".join(["most error added:", *names]), fontsize=8, loc="left")
    axes.set(xlabel="operator, in order of execution", ylabel="signal to noise, dB")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
