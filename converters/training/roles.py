"""A network's outputs as the losses read them, by the roles that its contract gives them; over keras.ops."""

from __future__ import annotations

import math
from typing import Any

from edgeloc.contract import Contract
from edgeloc.errors import ContractError
from edgeloc.heads import BOX_PARTS, vector_columns

__all__ = ["check_roles", "read_roles"]

_READ = {"presence", "class", "box", "vector", "grid-weights", "grid-distances", "box-bins"}
_KEYS = {"grid-weights": "weights", "grid-distances": "distances", "box-bins": "bins"}
# Where x comes before y and width before height, for the forms that have it otherwise.
_ORDER = {"yxyx": (1, 0, 3, 2), "cxcyhw": (0, 1, 3, 2)}
# A probability this near to 0 or 1 is one that a loss can still tell from it.
_LEAST = 1e-6


def check_roles(contract: Contract) -> None:
    """Raise ContractError where the outputs have a role that training cannot read, or none of them is a box."""
    for output in contract.outputs:
        if output.role not in _READ:
            raise ContractError(f"outputs[{output.tensor}].role is {output.role!r}: training cannot learn from it")
    if contract.box.objects != 1:
        raise ContractError(f"box.objects is {contract.box.objects}: training knows of one object an image")
    vector = contract.output("vector")
    columns = {} if vector is None else vector_columns(vector, contract)
    if "box" not in columns and not {output.role for output in contract.outputs} & {"box", *_KEYS}:
        raise ContractError("outputs: no output holds a box: training has nothing to measure")


def read_roles(outputs: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """What the losses take, from the network's outputs by tensor name.

    `presence` (batch, 1) and `class` (batch, K) as logits, where there are any; the box as
    `weights` and `distances`, as `bins`, or as `corners` (batch, 4), x1, y1, x2, y2 in fractions.
    """
    read: dict[str, Any] = {}
    for output in contract.outputs:
        values = outputs[output.tensor]
        if output.role == "vector":
            read |= _vector(values, output, contract)
        elif output.role in ("presence", "class"):
            flat = _flat(values)
            read[output.role] = flat if output.activation != "none" else _logits(flat, output.role)
        elif output.role == "box":
            read["corners"] = _corners(_flat(values), output.activation, contract.box.form, contract)
        else:
            read[_KEYS[output.role]] = values
    return read


def _vector(values: Any, output: Any, contract: Contract) -> dict[str, Any]:
    from keras import ops

    read, values = {}, _flat(values)
    for role, columns in vector_columns(output, contract).items():
        part = ops.take(values, columns, axis=-1)
        activation = output.class_activation if role == "class" else output.activation
        if role == "box":
            form = BOX_PARTS[tuple(output.slots[i] for i in columns)]
            read["corners"] = _corners(part, activation, form, contract)
        else:
            read[role] = part if activation != "none" else _logits(part, role)
    return read


def _flat(values: Any) -> Any:
    from keras import ops

    return ops.reshape(values, (-1, math.prod(values.shape[1:])))


def _logits(probabilities: Any, role: str) -> Any:
    """What a sigmoid, or for classes a softmax, makes these probabilities of."""
    from keras import ops

    safe = ops.clip(probabilities, _LEAST, 1 - _LEAST)
    return ops.log(safe) if role == "class" else ops.log(safe) - ops.log(1 - safe)


def _corners(numbers: Any, activation: str, form: str, contract: Contract) -> Any:
    from keras import ops

    numbers = ops.sigmoid(numbers) if activation == "sigmoid" else numbers
    numbers = ops.take(numbers, _ORDER.get(form, (0, 1, 2, 3)), axis=-1)
    if form not in ("xyxy", "yxyx"):
        start, size = ops.split(numbers, 2, axis=-1)
        start = start if form == "xywh" else start - size / 2
        numbers = ops.concatenate([start, start + size], axis=-1)
    if contract.box.units == "fraction":
        return numbers
    return numbers / ops.convert_to_tensor((contract.input.width, contract.input.height) * 2, "float32")
