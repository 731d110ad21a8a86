"""What `edgeloc inspect --compare` does: read two files and images, compare, tell; the comparing is in `layers`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeloc.benchmarks.layer_plot import PLOT_SUFFIXES, draw_layers
from edgeloc.benchmarks.layer_table import layer_lines
from edgeloc.benchmarks.layers import LayerReport, compare_layers
from edgeloc.benchmarks.sources import spread
from edgeloc.contract import Contract, read_contract
from edgeloc.data import open_dataset
from edgeloc.errors import ContractError, DataError, UsageError
from edgeloc.files import require_writable
from edgeloc.modelfile import ModelFile, read_model
from edgeloc.progress import progress

__all__ = ["LayerOptions", "compare_files"]


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """What to compare: paths of the float and the quantized `.tflite`, and images of `data` (its `split`).

    At most `images` are taken, spread evenly over the data's groups; `plot` is where a picture goes.
    """

    float_model: str
    quantized_model: str
    data: str
    split: str | None = None
    images: int = 16
    plot: str | None = None
    as_json: bool = False


def compare_files(options: LayerOptions, tell: Callable[[str], None] = print) -> LayerReport:
    """Compare, tell the report (a table, or JSON) and draw it where a plot is asked for.

    The contract is the quantized file's, or of the `.json` beside it; else the float file's. Raises UsageError
    for a `.keras` file or a plot of an unknown kind, DataError when the data holds no image, and
    what `compare_layers` and `draw_layers` raise.
    """
    _refuse_options(options)
    before, after = read_model(options.float_model), read_model(options.quantized_model)
    contract = _contract(before, after)
    dataset = open_dataset(options.data, split=options.split)
    samples = spread(dataset.samples, options.images)
    if not samples:
        raise DataError(f"{options.data} holds no image to compare the two models on")
    images = (sample.load() for sample in progress(samples, label="layer by layer"))
    report = compare_layers(before, after, images, contract)
    if options.plot:
        draw_layers(report, options.plot)
    if options.as_json:
        tell(json.dumps(report.to_dict(), indent=2))
    else:
        tell("\n".join(layer_lines(report)))
    return report


def _refuse_options(options: LayerOptions) -> None:
    for path in (options.float_model, options.quantized_model):
        if Path(path).suffix == ".keras":
            raise UsageError(
                f"{path} has no tensors by TFLite's names: make it a float .tflite first "
                f"(edgeloc convert {path} --recipe float32 --out float.tflite)"
            )
    if options.plot is None:
        return
    if Path(options.plot).suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"--plot {options.plot}: the name must end in {', '.join(PLOT_SUFFIXES)}")
    require_writable(options.plot, options.float_model, options.quantized_model, options.data)


def _contract(before: ModelFile, after: ModelFile) -> Contract:
    """The contract of either file; where both have one they must make the input alike."""
    own, other = _own_contract(after), _own_contract(before)
    contract = own or other
    if contract is None:
        raise ContractError(
            f"neither {after.path} nor {before.path} has a contract, so nobody knows how an image becomes their input: "
            f"write one as {after.path.with_suffix('.json').name} beside it"
        )
    if other is not None and dataclasses.replace(other.input, tensor=contract.input.tensor) != contract.input:
        raise ContractError(
            f"{before.path} and {after.path} make their input in different ways (size, colour, resize or "
            "normalization): they cannot be compared on the same images"
        )
    return contract


def _own_contract(model: ModelFile) -> Contract | None:
    beside = model.path.with_suffix(".json")
    if model.contract is not None or not beside.is_file():
        return model.contract
    return read_contract(beside)
