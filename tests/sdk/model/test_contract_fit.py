"""A contract held against the tensors of a model: what fits, and the sentence for what does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgeloc.engines.base import TensorInfo
from edgeloc.errors import ContractError
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.fit import check_contract

SPEC = InputSpec("image", 64, 32)
GRID = (OutputSpec("w", "grid-weights"), OutputSpec("d", "grid-distances"))


def tensors(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, shape, np.dtype(np.float32)) for name, shape in shapes.items()}


def check(outputs: tuple[OutputSpec, ...], shapes: dict[str, tuple[int, ...]], **others: Any) -> None:
    check_contract(Contract(SPEC, outputs, **others), tensors(image=(1, 32, 64, 3)), tensors(**shapes))


@pytest.mark.parametrize(
    ("outputs", "shapes", "others"),
    [
        ((OutputSpec("b", "box"),), {"b": (1, 4), "more": (1, 9)}, {}),
        ((OutputSpec("b", "box"),), {"b": (1, 2, 4)}, {"box": BoxEncoding(objects=2)}),
        ((OutputSpec("p", "presence"),), {"p": (1, 1, 1)}, {}),
        ((OutputSpec("c", "class"),), {"c": (1, 2)}, {"labels": ("a", "b")}),
        ((OutputSpec("n", "box-bins"),), {"n": (1, 4, 32)}, {}),
        ((OutputSpec("n", "box-bins"),), {"n": (1, 128)}, {}),
        (GRID, {"w": (1, 6, 8, 1), "d": (1, 6, 8, 4)}, {}),
        ((OutputSpec("b", "box"),), {"b": (1, -1)}, {}),
    ],
)
def test_what_fits_is_accepted(outputs: Any, shapes: Any, others: Any) -> None:
    check(outputs, shapes, **others)


@pytest.mark.parametrize(
    ("outputs", "shapes", "others", "words"),
    [
        (
            (OutputSpec("box", "box"),),
            {"a": (1, 4), "b": (1, 1)},
            {},
            r"'box' \(role box\) .* 'a' \(1, 4\), 'b' \(1, 1\)",
        ),
        ((OutputSpec("b", "box"),), {"b": (1, 5)}, {}, "needs 4 numbers"),
        ((OutputSpec("b", "box"),), {"b": (1, 4)}, {"box": BoxEncoding(objects=2)}, "each of 2 object"),
        ((OutputSpec("p", "presence"),), {"p": (1, 2)}, {}, "'p' is .*role presence"),
        ((OutputSpec("c", "class"),), {"c": (1, 3)}, {"labels": ("a", "b")}, "each of 2 label"),
        ((OutputSpec("v", "vector", slots=("x1", "y1", "x2", "y2")),), {"v": (1, 5)}, {}, "4 slots"),
        ((OutputSpec("n", "box-bins"),), {"n": (1, 4)}, {}, "at least 2 bins"),
        (GRID, {"w": (1, 6, 8, 1), "d": (1, 6, 8, 5)}, {}, "height, width, 4"),
        (GRID, {"w": (1, 6, 9, 1), "d": (1, 6, 8, 4)}, {}, "6 x 8 cells"),
    ],
)
def test_what_does_not_fit_is_named(outputs: Any, shapes: Any, others: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check(outputs, shapes, **others)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor": "picture"}, r"input 'picture' is not in the model, which has 'image' \(1, 32, 64, 3\)"),
        ({"width": 32}, r"\(1, 32, 32, 3\)"),
        ({"color": "gray"}, r"\(1, 32, 64, 1\)"),
    ],
)
def test_the_input_must_be_the_contracts(changes: dict[str, Any], words: str) -> None:
    contract = Contract(dataclasses.replace(SPEC, **changes), (OutputSpec("b", "box"),))
    with pytest.raises(ContractError, match=words):
        check_contract(contract, tensors(image=(1, 32, 64, 3)), tensors(b=(1, 4)))
