"""Holds what came out of a conversion against what was promised: the contract's ports, the recipe's precision."""

from __future__ import annotations

import math

import numpy as np

from edgeloc.contract import Contract
from edgeloc.converters.quantization.recipes import Recipe
from edgeloc.errors import ContractError, ModelError
from edgeloc.flatbuffer import parse_flatbuffer
from edgeloc.inspection import ModelReport

__all__ = ["check_ports", "presence_warning", "refuse_what_is_not"]

_FLOAT_PARTS = "mixed: float island"


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


def refuse_what_is_not(chosen: Recipe, report: ModelReport, kept_float: bool) -> None:
    """A file goes out only as what it is: no float islands called int8, no output that never changes."""
    if report.constant_outputs:
        names = ", ".join(report.constant_outputs)
        raise ModelError(f"the output {names} does not depend on the input: the head is dead, train it anew")
    wanted = (chosen.precision, _FLOAT_PARTS) if kept_float else (chosen.precision,)
    if report.precision not in wanted:
        reasons = "; ".join(report.reasons) or "see edgeloc inspect"
        raise ModelError(
            f"the recipe {chosen.name} gave a model that is {report.precision} instead of {chosen.precision}: {reasons}"
            + _float_mend(chosen, report)
        )


def _float_mend(chosen: Recipe, report: ModelReport) -> str:
    """What helps where the quantizer has no integer form of some operators."""
    if report.precision != _FLOAT_PARTS or not chosen.keeps_float:
        return ""
    flags = " ".join(f"--keep-float {name}" for name in sorted({reason.split()[0] for reason in report.reasons}))
    return f". Build the network without them, or, for CPUs, allow it with {flags}"


def presence_warning(report: ModelReport, contract: Contract) -> str | None:
    """A sentence where the presence output can only say one thing: in int8, what it said on calibration images."""
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
    return (
        f"warning: the presence output can only say {word!r}, as on every calibration image: "
        "calibrate on images with and without an object"
    )
