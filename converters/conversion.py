"""From a trained Keras network to one `.tflite` that carries its contract, checked before it is written."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeloc._version import __version__
from edgeloc.contract import Contract
from edgeloc.converters.bias_correction import correct_biases
from edgeloc.converters.keras_file import load_network
from edgeloc.converters.quantization.calibration import Calibration, calibrate
from edgeloc.converters.quantization.recipes import Recipe, recipe
from edgeloc.converters.tflite import check_outputs, to_flatbuffer
from edgeloc.converters.training.batchnorm import batch_norm_lag
from edgeloc.errors import ContractError, ModelError, UsageError
from edgeloc.files import require_writable
from edgeloc.inspection import ModelReport, inspect_model, report_flatbuffer
from edgeloc.localizer import Localizer
from edgeloc.modelfile import Golden, read_keras_contract, write_model
from edgeloc.scenes import SceneGenerator

if TYPE_CHECKING:
    import keras

    from edgeloc.data import Dataset

__all__ = ["convert"]

_BIAS_IMAGES = 64
_LAG_IMAGES = 64
# Statistics that are up to date give 0.2 to 0.3 here, ones that lag above 1.
_LAG_LIMIT = 0.6
_GOLDEN_CANDIDATES = 16
_GOLDEN_SIZE = (160, 120)


def convert(
    model: str | Path,
    out: str | Path,
    *,
    calibration: Dataset | None = None,
    recipe_name: str = "int8",
    contract: Contract | None = None,
    images: int = 200,
    seed: int = 0,
    skip_bad: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> ModelReport:
    """Convert the `.keras` file `model` by a recipe and write `out` with everything behind it.

    `calibration` is a data set, needed by the recipe int8 and used by no other, of which `images` are drawn with
    `seed`. `contract` is only for a model that carries none. `tell` is called with each finding
    that a user should see. Returns the report on the written file.

    Raises UsageError when the recipe needs images and none are given, ContractError when there is
    no contract or it does not fit, DataError for bad images, OutputError when `out` cannot be
    written, and ModelError when the result is not what the recipe promises; then nothing is written.
    """
    chosen, out = recipe(recipe_name), Path(out)
    if chosen.calibrated and calibration is None:
        raise UsageError(f"the recipe {chosen.name} needs images to calibrate on: give --calibration DATA")
    if images < 1 or seed < 0:
        raise UsageError(f"images is {images} and seed {seed}: they must be at least 1 and 0")
    require_writable(out)
    network = load_network(model)
    contract = _contract(model, network, contract)
    drawn = None
    if calibration is not None and not chosen.calibrated:
        tell(f"the recipe {chosen.name} needs no calibration: {calibration.name} is not used")
    elif calibration is not None:
        drawn = calibrate(calibration, contract.input, images, seed, skip_bad)
        _tell_about_calibration(network, drawn, tell)
    flatbuffer = _quantize(network, contract, chosen, drawn)
    report = report_flatbuffer(flatbuffer, str(out))
    _refuse_what_is_not(chosen, report)
    _tell_about_presence(report, contract, tell)
    contract = _signed(contract, chosen, Path(model), drawn)
    golden = _golden(flatbuffer, contract)
    write_model(out, flatbuffer, contract, calibration=drawn.manifest if drawn else None, golden=golden)
    return inspect_model(out)


def _contract(model: str | Path, network: keras.Model, given: Contract | None) -> Contract:
    # An .h5 is no archive and carries nothing.
    own = read_keras_contract(model) if zipfile.is_zipfile(model) else None
    if own is not None and given is not None:
        raise UsageError(f"{model} carries its own contract: leave --contract out")
    contract = own or given
    if contract is None:
        raise ContractError(
            f"{model} carries no contract: say what its input and outputs mean with --contract FILE.json"
        )
    check_outputs(network, contract)
    return contract


def _tell_about_calibration(network: keras.Model, drawn: Calibration, tell: Callable[[str], None]) -> None:
    count = drawn.manifest["count"]
    tell(f"calibrating on {count} images of {drawn.manifest['dataset']} (seed {drawn.manifest['seed']})")
    if drawn.manifest["skipped"]:
        tell(f"left out {len(drawn.manifest['skipped'])} damaged images")
    lag = batch_norm_lag(network, drawn.images[:_LAG_IMAGES])
    if lag > _LAG_LIMIT:
        tell(
            f"warning: the batch-norm statistics lag behind the weights (outputs differ by {lag:.2f} standard "
            "deviations from those with the images' own statistics): train longer or re-estimate them"
        )


def _quantize(network: keras.Model, contract: Contract, chosen: Recipe, drawn: Calibration | None) -> bytes:
    if drawn is None:
        return to_flatbuffer(network, contract, chosen, None)
    corrected = correct_biases(network, drawn.images[:_BIAS_IMAGES])
    return to_flatbuffer(corrected, contract, chosen, drawn.images)


def _refuse_what_is_not(chosen: Recipe, report: ModelReport) -> None:
    """A file goes out only as what it is: no float islands called int8, no output that never changes."""
    if report.constant_outputs:
        names = ", ".join(report.constant_outputs)
        raise ModelError(f"the output {names} does not depend on the input: the head is dead, train it anew")
    if report.precision != chosen.precision:
        reasons = "; ".join(report.reasons) or "see edgeloc inspect"
        raise ModelError(f"the recipe {chosen.name} gave a model that is {report.precision}, not that: {reasons}")


def _tell_about_presence(report: ModelReport, contract: Contract, tell: Callable[[str], None]) -> None:
    """In int8 a presence output can only say what it said on the calibration images."""
    output = contract.output("presence")
    port = next((port for port in report.outputs if output is not None and port.name == output.tensor), None)
    if output is None or port is None or port.scale is None or port.zero_point is None:
        return
    threshold = contract.thresholds.presence
    if not 0 < threshold < 1:
        return
    if output.activation == "sigmoid":
        threshold = math.log(threshold / (1 - threshold))
    limits = np.iinfo(port.dtype)
    lowest, highest = ((limit - port.zero_point) * port.scale for limit in (limits.min, limits.max))
    if not lowest < threshold <= highest:
        word = "present" if lowest >= threshold else "absent"
        tell(
            f"warning: the presence output can only say {word!r}, as on every calibration image: "
            "calibrate on images with and without an object"
        )


def _signed(contract: Contract, chosen: Recipe, model: Path, drawn: Calibration | None) -> Contract:
    import tensorflow as tf

    hashes = {"float_model": hashlib.sha256(model.read_bytes()).hexdigest()}
    if drawn is not None:
        hashes["calibration"] = drawn.digest
    tools = {"edgeloc": __version__, "tensorflow": tf.__version__}
    return dataclasses.replace(contract, recipe=chosen.name, tools=tools, hashes=hashes)


def _golden(flatbuffer: bytes, contract: Contract) -> Golden:
    """The self-test: the generated scene that this model is surest about, and what it answers on it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        write_model(path, flatbuffer, contract)
        localizer = Localizer(path)
        scenes = SceneGenerator(seed=0, size=_GOLDEN_SIZE)
        answers = [
            (localizer(pixels), pixels) for pixels in (scenes.scene(i).pixels for i in range(_GOLDEN_CANDIDATES))
        ]
    result, pixels = max(answers, key=lambda answer: answer[0].presence)
    if not np.isfinite(result.presence):
        raise ModelError("the converted model answers with numbers that are not finite")
    return Golden(pixels, result.presence, result.box, result.label)
