"""Quantization recipes by name; what each promises of its result, cheapest on the device first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeloc.errors import UsageError

__all__ = ["AUTO", "RECIPES", "Recipe", "recipe"]

# Not a recipe but a choice among them: the cheapest that passes the gate.
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named way to quantize: what becomes integer, and how `edgeloc inspect` must describe the result.

    `activation_bits` is 8 or 16 where activations become integers, which asks for images to
    calibrate on, else 32. `weights` tells how they are stored. `float_head` leaves the last layer
    of each output in float.
    """

    name: str
    summary: str
    precision: str
    weights: Literal["int8", "float16", "float32"]
    activation_bits: Literal[8, 16, 32] = 32
    float_head: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether it needs images to calibrate on."""
        return self.activation_bits != 32

    @property
    def keeps_float(self) -> bool:
        """Whether single operators can stay in float: the quantizer for 16-bit activations takes all or none."""
        return self.activation_bits == 8


# In the order of their median invoke, measured by edgeloc.benchmarks.methods on x86-64 with LiteRT 2.3: from 0.65 of
# float32's for int8 to 1.6 for dynamic and 33 or more for 16-bit activations, which have no fast kernels there.
RECIPES = {
    entry.name: entry
    for entry in (
        Recipe("int8", "weights, activations, input and outputs as integers, biases corrected",
               "int8 (full integer)", "int8", 8),
        Recipe("int8-float-head", "int8, but the last layer of each output in float: for CPUs",
               "mixed: float island", "int8", 8, float_head=True),
        Recipe("float16", "weights as float16, arithmetic in float32", "float16 weights", "float16"),
        Recipe("float32", "no quantization", "float32", "float32"),
        Recipe("dynamic", "weights as int8, activations in float32", "dynamic range", "int8"),
        Recipe("int16-activations", "weights as int8, activations as int16, input and outputs in float",
               "int8 with 16-bit activations, float I/O", "int8", 16),
    )
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of this name; UsageError lists those there are."""
    if name not in RECIPES:
        raise UsageError(f"--recipe is {name!r}: choose one of {', '.join(RECIPES)}, {AUTO}")
    return RECIPES[name]
