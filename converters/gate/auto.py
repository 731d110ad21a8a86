"""Chooses a recipe: the first that passes the gate, in order of what it costs the device; it quantizes nothing itself.

choice = choose_recipe(tuple(RECIPES.values()), make, lambda model: gate.judge(model, contract), tell=print)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgeloc.converters.gate import GateReport
from edgeloc.converters.gate.report import aligned
from edgeloc.converters.quantization.quantize import Recipe
from edgeloc.errors import GateFailed, ModelError, UsageError
from edgeloc.evaluation.figures import format_drop, format_interval
from edgeloc.model.inspection import report_flatbuffer

__all__ = ["AUTO_LIMIT", "Choice", "Trial", "choose_recipe"]

AUTO_LIMIT = 500
"""On how many labelled images recipes are tried, where the user sets no number."""

_HEAD = ("recipe", "MB", "mean IoU drop", "95 % interval", "precision", "verdict")


@dataclass(frozen=True)
class Trial:
    """One recipe: the model it gave, what that computes in as read from its bytes, and what the gate said.

    Where the recipe gave no model, `flatbuffer` and `report` are None and `reason` says why; a
    recipe that was not tried has no reason either.
    """

    recipe: Recipe
    flatbuffer: bytes | None = field(default=None, repr=False)
    precision: str = ""
    report: GateReport | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the gate let the model through."""
        return self.report is not None and self.report.passed


@dataclass(frozen=True)
class Choice:
    """The recipe that was kept, its model and the gate's report on it, and all candidates in their order."""

    recipe: Recipe
    flatbuffer: bytes = field(repr=False)
    report: GateReport
    trials: tuple[Trial, ...]


def choose_recipe(
    candidates: Sequence[Recipe],
    make: Callable[[Recipe], bytes],
    judge: Callable[[bytes], GateReport],
    tell: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Quantize by each of `candidates`, cheapest on the device first, until one passes the gate, and keep that one.

    `make` gives the flatbuffer of a recipe, or raises ModelError where the network cannot be
    quantized so; `judge` is a gate's. The table of all candidates goes to `tell` line by line,
    whether one has passed or not. Raises GateFailed when none has, UsageError without candidates.
    """
    if not candidates:
        raise UsageError("there is no recipe to choose from: name one with --recipe")
    trials: list[Trial] = []
    for recipe in candidates:
        trials.append(_trial(recipe, make, judge))
        if trials[-1].passed:
            break
    rest = [Trial(recipe) for recipe in candidates[len(trials) :]]
    for line in aligned([_HEAD, *(_row(trial) for trial in [*trials, *rest])]):
        tell(line)
    last = trials[-1]
    if last.flatbuffer is None or last.report is None or not last.report.passed:
        raise GateFailed(
            f"none of the recipes {', '.join(trial.recipe.name for trial in trials)} passes the gate, so nothing is "
            "written: calibrate on images like those of the camera, or allow more with --max-iou-drop"
        )
    return Choice(last.recipe, last.flatbuffer, last.report, (*trials, *rest))


def _trial(recipe: Recipe, make: Callable[[Recipe], bytes], judge: Callable[[bytes], GateReport]) -> Trial:
    try:
        flatbuffer = make(recipe)
        precision = report_flatbuffer(flatbuffer, recipe.name).precision
        return Trial(recipe, flatbuffer, precision, judge(flatbuffer))
    except ModelError as error:
        return Trial(recipe, reason=str(error))


def _row(trial: Trial) -> tuple[str, ...]:
    if trial.flatbuffer is None or trial.report is None:
        return trial.recipe.name, "", "", "", "", trial.reason or "not tried: it costs the device more"
    regression, report = trial.report.regression, trial.report
    drop = format_drop(regression.mean_iou_float, regression.mean_iou_quantized)
    verdict = "kept" if report.passed else "failed: " + ", ".join(check.name for check in report.failures)
    size = f"{len(trial.flatbuffer) / 1e6:.2f}"
    return trial.recipe.name, size, drop, format_interval(regression), trial.precision, verdict
