"""Checks of a conversion: same answers as the original, the ports and precision asked for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.quantization.quantize import Recipe
from edgeloc.converters.sources.base import Source, answer_each
from edgeloc.engines import open_engine
from edgeloc.errors import ContractError, ModelError
from edgeloc.findings import Finding
from edgeloc.model.contract import Contract, InputSpec
from edgeloc.model.file import ModelFile
from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.model.inspection import ModelReport

__all__ = [
    "check_parity",
    "check_ports",
    "check_presence_range",
    "require_precision",
    "run_flatbuffer",
]

_FLOAT_PARTS = "mixed: float island"
# Of an output's spread over the images, and of its largest number: two float32 networks that do
# the same sums in another order stay a hundred times below; a wrong layout is far above.
_OF_SPREAD = 1e-3
_OF_LARGEST = 1e-4


def check_ports(flatbuffer: bytes, contract: Contract, name: str) -> None:
    """Raise ContractError when the contract names an output that the float model does not have."""
    signature = parse_flatbuffer(flatbuffer, name).signature
    names = tuple(signature.outputs) if signature is not None else ()
    for output in contract.outputs:
        if output.tensor not in names:
            raise ContractError(
                f"the contract names the output {output.tensor!r}, which the model does not have; "
                f"it has {', '.join(names)}"
            )


def require_precision(chosen: Recipe, report: ModelReport, kept_float: bool) -> None:
    """Raise ModelError where the model is not what its recipe is for, or has an output that never changes.

    Parameters:
        chosen: the recipe.
        report: what was read out of the result.
        kept_float: whether operators were asked to stay in float.
    """
    if report.constant_outputs:
        names = ", ".join(report.constant_outputs)
        raise ModelError(f"the output {names} does not depend on the input: the head is dead, train it again")
    wanted = (chosen.precision, _FLOAT_PARTS) if kept_float else (chosen.precision,)
    if report.precision not in wanted:
        reasons = "; ".join(report.reasons) or "see edgeloc inspect"
        message = f"the recipe {chosen.name} gave a model that is {report.precision} instead of {chosen.precision}"
        raise ModelError(f"{message}: {reasons}", hint=_keep_float_hint(chosen, report))


def _keep_float_hint(chosen: Recipe, report: ModelReport) -> str:
    """What helps where the quantizer has no integer form of some operators."""
    if report.precision != _FLOAT_PARTS or not chosen.keeps_float:
        return ""
    names = " ".join(f"{{keep_float}} {name}" for name in sorted({reason.split()[0] for reason in report.reasons}))
    return f"build the network without them, or, for CPUs, allow it with {names}"


def check_presence_range(report: ModelReport, contract: Contract) -> Finding | None:
    """Whether the quantized presence output can reach both sides of its threshold; None where it can."""
    output = contract.output("presence")
    port = next((port for port in report.outputs if output is not None and port.name == output.tensor), None)
    if output is None or port is None or port.scale is None or port.zero_point is None:
        return None
    threshold = contract.thresholds.presence
    if not 0 < threshold < 1:
        return None
    if output.activation == "sigmoid":
        threshold = math.log(threshold / (1 - threshold))
    limits = np.iinfo(port.dtype)
    lowest, highest = ((limit - port.zero_point) * port.scale for limit in (limits.min, limits.max))
    if lowest < threshold <= highest:
        return None
    word = "present" if lowest >= threshold else "absent"
    message = f"the presence output can only be {word!r}, as on every calibration image"
    return Finding("presence-saturated", "warning", message, "calibrate on images with and without an object")


def check_parity(source: Source, flatbuffer: bytes, spec: InputSpec, images: NDArray[np.float32]) -> float:
    """Raise ModelError when the float32 flatbuffer and its source disagree; the largest difference, as a share.

    `images` is float32 (n, height, width, channels), normalized as `spec` says; a few real scenes
    do, blank or equal images show no layout. An output may differ by a thousandth of its spread
    over the images and a ten-thousandth of its largest number. The result is the largest difference
    of any output in units of what is allowed.
    """
    original = source.answer(images)
    converted = run_flatbuffer(flatbuffer, source.name, spec, images)
    worst = 0.0
    for name, expected in original.items():
        if name not in converted:
            raise ModelError(
                f"{source.name}: the converted network lost the output {name}; it has {', '.join(converted)}"
            )
        worst = max(worst, _compare(source.name, name, expected, converted[name]))
    return worst


def run_flatbuffer(
    flatbuffer: bytes, name: str, spec: InputSpec, images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The outputs of a float32 flatbuffer on each image, (n, ...) by name; `name` is for errors."""
    engine = open_engine("auto", ModelFile(Path(name), flatbuffer, "tflite", trusted=True))
    if list(engine.inputs) != [spec.tensor]:
        raise ModelError(f"{name}: the converted network's input is {', '.join(engine.inputs)}, not {spec.tensor}")
    return answer_each(images, engine.invoke)


def _compare(model: str, output: str, expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    if expected.shape != got.shape:
        raise ModelError(
            f"{model}: the output {output} is {expected.shape[1:]} in the original and {got.shape[1:]} after conversion"
        )
    if not np.isfinite(expected).all() or not np.isfinite(got).all():
        where = "original" if not np.isfinite(expected).all() else "converted network"
        raise ModelError(f"{model}: the {where} answers {output} with numbers that are not finite")
    difference = float(np.abs(expected - got).max())
    largest = float(np.abs(expected).max())
    allowed = _OF_SPREAD * float(np.ptp(expected, axis=0).max()) + _OF_LARGEST * max(largest, 1e-6)
    if difference > allowed:
        raise ModelError(
            f"{model}: after conversion the output {output} differs by up to {difference:.3g} (allowed {allowed:.2g}, "
            f"its largest number is {largest:.3g}): the conversion is wrong, most often in the image's layout"
        )
    return difference / allowed
