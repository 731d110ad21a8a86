"""What a user can ask of a conversion, checked; the conversion itself is in `conversion`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeloc.converters.quantization.recipes import AUTO, recipe
from edgeloc.errors import UsageError

__all__ = ["TARGETS", "ConvertOptions", "Target"]

Target = Literal["tflite", "edgetpu", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert; see `edgeloc convert --help` for each.

    `recipe` is a name in RECIPES or "auto"; `images` are drawn to calibrate on, by `seed`;
    `keep_float` are regular expressions of operators that stay in float; `weights` is the file of
    a PyTorch factory's weights. `max_iou_drop` (None: 0.005) and `limit` are the gate's;
    `min_mapped` (None: 0.9) is the least share of operators on the Edge TPU.
    """

    recipe: str = "int8"
    target: Target = "tflite"
    images: int = 200
    seed: int = 0
    keep_float: tuple[str, ...] = ()
    fix_head: bool = False
    repair_batch_norm: bool = False
    weights: str | None = None
    max_iou_drop: float | None = None
    limit: int | None = None
    min_mapped: float | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.images < 1 or self.seed < 0:
            raise UsageError(f"images is {self.images} and seed {self.seed}: they must be at least 1 and 0")
        if self.target not in TARGETS:
            raise UsageError(f"--target is {self.target!r}: choose one of {', '.join(TARGETS)}")
        if self.recipe != AUTO:
            recipe(self.recipe)
        if self.target != "tflite" and self.recipe != "int8":
            raise UsageError(f"--target {self.target} computes in int8: leave --recipe {self.recipe} out")
        if self.target != "tflite" and self.keep_float:
            raise UsageError(f"--target {self.target} computes in int8 throughout: leave --keep-float out")
        if self.min_mapped is not None and self.target != "edgetpu":
            raise UsageError("--min-mapped is for --target edgetpu")
        for name in ("max_iou_drop", "min_mapped"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value:g}: it must be 0 to 1")

    @property
    def calibrated(self) -> bool:
        """Whether images to calibrate on are needed."""
        return self.recipe == AUTO or recipe(self.recipe).calibrated
