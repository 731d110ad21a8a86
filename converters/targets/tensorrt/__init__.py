"""A float flatbuffer as the `.onnx` that a Jetson builds its engine from, compared box by box."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import require_writable
from edgeloc._version import __version__
from edgeloc.converters.calibration import Calibration
from edgeloc.converters.quantization.bias_correction import correct_biases
from edgeloc.converters.targets.tensorrt.onnx import count_pairs, quantize_onnx, require_extra, to_onnx
from edgeloc.decode import Decoder
from edgeloc.engines import Engine, open_engine
from edgeloc.engines.onnxruntime import OnnxRuntimeEngine
from edgeloc.errors import ModelError, UsageError
from edgeloc.findings import Finding
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, write_model
from edgeloc.model.golden import make_golden
from edgeloc.model.trust import trust
from edgeloc.preprocess import Placement
from edgeloc.types import Box, Result

__all__ = ["RECIPE", "Agreement", "TensorRtReport", "check_onnx", "convert_tensorrt", "to_qdq_onnx"]

RECIPE = "int8-qdq"
_BIAS_IMAGES = 64
_TRANSLATION_IMAGES = 2
_CHECK_IMAGES = 50
# A quantized box that shares less than half with the float one is another box: such a file is broken, not rounded.
_LEAST_IOU = 0.5
_IN_INPUT = Placement(1, 1, 0, 0)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two models are apart on some images.

    `images` were compared, on `boxes` of which the first model found an object. `iou` is the mean
    intersection over union of the two boxes there, 0 where the second found none. `box_px_median`, `box_px_p95` and
    `box_px_max` are the greatest difference of an edge where both found one, in pixels of the model's input;
    `presence_max` is the greatest difference of the probability of presence. None where there was nothing to compare.
    """

    images: int
    boxes: int
    iou: float | None
    box_px_median: float | None
    box_px_p95: float | None
    box_px_max: float | None
    presence_max: float

    def to_dict(self) -> dict[str, Any]:
        """The figures by name."""
        return dataclasses.asdict(self)

    def finding(self, min_box_iou: float) -> Finding | None:
        """A warning where the boxes' mean IoU is less than `min_box_iou`, 0 to 1; else None."""
        if self.iou is None or self.iou >= min_box_iou:
            return None
        message = (
            f"the quantized model's boxes share only {self.iou:.2f} with the float model's (mean IoU on {self.boxes} "
            f"calibration images, less than {min_box_iou:g})"
        )
        fix = "calibrate on more and typical images, try {fix_head}, and measure what it costs with {validation}"
        return Finding("quantized-boxes-move", "warning", message, fix)

    def __str__(self) -> str:
        if self.iou is None:
            return f"presence differs by {self.presence_max:.3f} at most ({self.images} images, no box among them)"
        if self.box_px_median is None:
            return f"none of the {self.boxes} boxes is found ({self.images} images)"
        return (
            f"boxes share {self.iou:.3f} (mean IoU), their edges differ by {self.box_px_median:.1f} pixels "
            f"(median; 95 %: {self.box_px_p95:.1f}, most: {self.box_px_max:.1f}), {self.boxes} of {self.images} images"
        )


def check_onnx(model: bytes, flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]) -> Agreement:
    """Compare an ONNX model with a `.tflite` of the same network, float or quantized.

    `images` are normalized inputs, float32 (n, height, width, channels). Raises ModelError when
    the ONNX model cannot be run, answers with numbers that are not finite, or finds other boxes:
    a mean IoU under 0.5 is no rounding.
    """
    original, other = open_engine("auto", flatbuffer), OnnxRuntimeEngine(model)
    decode = Decoder(contract)
    pairs = []
    for image in images:
        answers = _answer(original, decode, contract, image), _answer(other, decode, contract, image)
        if not np.isfinite(answers[1].presence):
            raise ModelError("the ONNX model answers with numbers that are not finite")
        pairs.append(answers)
    agreement = _agreement(pairs)
    if agreement.iou is not None and agreement.iou < _LEAST_IOU:
        raise ModelError(
            f"the quantized ONNX model finds other boxes than the original (mean IoU {agreement.iou:.2f} on the "
            "calibration images)",
            hint="calibrate on more and typical images",
        )
    return agreement


def _answer(engine: Engine, decode: Decoder, contract: Contract, image: NDArray[np.float32]) -> Result:
    """One image's result in pixels of the model's input."""
    info = engine.inputs[contract.input.tensor]
    tensor = image[np.newaxis]
    if info.scale is not None:
        limits = np.iinfo(info.dtype)
        levels = np.round(tensor / info.scale) + (info.zero_point or 0)
        tensor = np.clip(levels, limits.min, limits.max).astype(info.dtype)
    raw = engine.invoke(tensor)
    outputs = {}
    for output in contract.outputs:
        port, values = engine.outputs[output.tensor], raw[output.tensor].astype(np.float32)
        outputs[output.tensor] = values if port.scale is None else (values - (port.zero_point or 0)) * port.scale
    return decode(outputs, _IN_INPUT, (contract.input.width, contract.input.height))


def _agreement(pairs: list[tuple[Result, Result]]) -> Agreement:
    presence = max((abs(before.presence - after.presence) for before, after in pairs), default=0.0)
    found = [(before.box, after.box) for before, after in pairs if before.box is not None]
    overlaps = [before.iou(after) if after is not None else 0.0 for before, after in found]
    edges = [_worst_edge(before, after) for before, after in found if after is not None]
    median, p95, most = (float(np.percentile(edges, q)) if edges else None for q in (50, 95, 100))
    iou = float(np.mean(overlaps)) if overlaps else None
    return Agreement(len(pairs), len(found), iou, median, p95, most, float(presence))


def _worst_edge(before: Box, after: Box) -> float:
    return max(abs(a - b) for a, b in zip(before, after, strict=True))


@dataclass(frozen=True, slots=True)
class TensorRtReport:
    """What `convert_tensorrt` wrote.

    `int8` of `weighted` convolutions and matrix products compute in int8; `agreement` is with the
    float model, on calibration images; `size` is the file's, in bytes.
    """

    path: Path
    size: int
    int8: int
    weighted: int
    agreement: Agreement

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**dataclasses.asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        return (
            f"{self.path}: ONNX with symmetric int8 in {self.int8} of {self.weighted} convolutions and dense layers, "
            f"{self.size / 1e6:.1f} MB\nagainst the float model: {self.agreement}"
        )


def to_qdq_onnx(float_flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]) -> bytes:
    """A float32 flatbuffer as ONNX with symmetric Q/DQ pairs, batch 1, NHWC input, float outputs.

    `images` calibrate it: float32 (n, height, width, channels), normalized. Input and outputs have
    the contract's names. Raises MissingExtra, ContractError where contract and model do not fit,
    and ModelError when the model cannot be translated or quantized.
    """
    corrected = correct_biases(float_flatbuffer, images[:_BIAS_IMAGES])
    model = to_onnx(corrected, contract, images[:_TRANSLATION_IMAGES])
    quantized: bytes = quantize_onnx(model, contract.input, images).SerializeToString()
    return quantized


def convert_tensorrt(
    float_flatbuffer: bytes,
    contract: Contract,
    calibration: Calibration,
    out: str | Path,
    judge: Callable[[bytes, Contract, Engine], Contract] = lambda model, contract, engine: contract,
) -> TensorRtReport:
    """Write `out`, an `.onnx` with Q/DQ pairs and everything that the runtime needs, checked against the float model.

    Parameters:
        float_flatbuffer: the float model.
        contract: its contract, whose hashes and tools are kept and added to.
        calibration: the images that give the ranges.
        out: the file, `.onnx`.
        judge: sees the ONNX model, its contract and an engine that runs it here before anything is written; it gives
            the contract to write, or raises.

    Raises what `to_qdq_onnx` and `check_onnx` do, UsageError for a name without `.onnx`, and OutputError when `out`
    cannot be written; then nothing is written.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise UsageError(f"{out}: a model for TensorRT is an ONNX file", field="out", hint="give it the suffix .onnx")
    versions = require_extra()
    require_writable(out)
    model = to_qdq_onnx(float_flatbuffer, contract, calibration.images)
    agreement = check_onnx(model, float_flatbuffer, contract, calibration.images[:_CHECK_IMAGES])
    contract = dataclasses.replace(
        contract,
        recipe=RECIPE,
        tools={**contract.tools, "edgeloc": __version__, **versions},
        hashes={**contract.hashes, "calibration": calibration.digest},
        measured={**contract.measured, "onnx_to_float": agreement.to_dict()},
    )
    engine = OnnxRuntimeEngine(model)
    contract = judge(model, contract, engine)
    file = ModelFile(out, model, "onnx", contract=contract, trusted=True)
    golden = make_golden(Localizer(file, engine=engine))
    write_model(out, model, contract, calibration=calibration.manifest, golden=golden)
    trust(file.digest)
    return TensorRtReport(out, out.stat().st_size, *count_pairs(model), agreement)
