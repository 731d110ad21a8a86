"""From a float flatbuffer to the `.onnx` that a Jetson builds its engine from; the engine is built there, not here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._version import __version__
from edgeloc.contract import Contract
from edgeloc.converters.golden import make_golden
from edgeloc.converters.quantization.bias_correction import correct_biases
from edgeloc.converters.quantization.calibration import Calibration
from edgeloc.converters.tensorrt.check import Agreement, check_onnx
from edgeloc.converters.tensorrt.quantize import count_pairs, quantize_onnx
from edgeloc.converters.tensorrt.runtime import OnnxRuntimeEngine
from edgeloc.converters.tensorrt.translation import require_extra, to_onnx
from edgeloc.engines import Engine
from edgeloc.errors import UsageError
from edgeloc.files import require_writable
from edgeloc.localizer import Localizer
from edgeloc.modelfile import ModelFile
from edgeloc.onnxfile import write_onnx_model

__all__ = ["RECIPE", "TensorRtReport", "convert_tensorrt", "to_qdq_onnx"]

RECIPE = "int8-qdq"
_BIAS_IMAGES = 64
_TRANSLATION_IMAGES = 2
_CHECK_IMAGES = 50


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

    `contract.hashes` and `contract.tools` are kept and added to. `judge` sees the ONNX model, its
    contract and an engine that runs it here before anything is written; it gives the contract to
    write, or raises. Raises what `to_qdq_onnx` and
    `check_onnx` do, UsageError for a name without `.onnx`, and OutputError when `out` cannot be
    written; then nothing is written.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise UsageError(f"{out}: a model for TensorRT is an ONNX file; give it the suffix .onnx")
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
    file = ModelFile(out, model, contract=contract, verified=True)
    golden = make_golden(Localizer(file, engine=engine))
    write_onnx_model(out, model, contract, calibration=calibration.manifest, golden=golden)
    return TensorRtReport(out, out.stat().st_size, *count_pairs(model), agreement)
