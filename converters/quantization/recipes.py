"""Quantization recipes by name; what each asks of the TensorFlow Lite converter."""

from __future__ import annotations

from dataclasses import dataclass

from edgeloc.errors import UsageError

__all__ = ["RECIPES", "Recipe", "recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named way to quantize: which numbers become integers, and what it needs.

    `calibrated` recipes need images; `precision` is how `edgeloc inspect` must describe the result.
    """

    name: str
    summary: str
    precision: str
    calibrated: bool = False


RECIPES = {
    entry.name: entry
    for entry in (
        Recipe("float32", "no quantization", "float32"),
        Recipe("float16", "weights as float16, arithmetic in float32", "float16 weights"),
        Recipe("dynamic", "weights as int8, activations in float32", "dynamic range"),
        Recipe("int8", "weights, activations, input and output as integers, biases corrected",
               "int8 (full integer)", calibrated=True),
    )
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of this name; UsageError lists those there are."""
    if name not in RECIPES:
        raise UsageError(f"--recipe is {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
