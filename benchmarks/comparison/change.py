"""One figure of two sides, how it changed, and whether that is a regression; the limits of all figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from edgeloc.errors import UsageError

__all__ = ["Change", "CompareLimits", "Verdict", "worst_verdict"]

Verdict = Literal["regression", "undecided", "ok", "no limit"]


@dataclass(frozen=True, slots=True)
class CompareLimits:
    """By how much the new side may be worse than the base; shares are 0 to 1 and more, 0.05 is 5 %.

    Parameters:
        max_latency_increase: of the time of an answer at the median and the 90th percentile, as a share; of a stream
            of the frame's age, of a cold start of the mean.
        max_energy_increase: of the energy of a frame and of an inference, as a share.
        max_size_increase: of the model file's bytes, as a share.
        max_iou_drop: how much mean IoU may be lost; of a localizer.
        max_map_drop: how much average precision may be lost; of a detector.
        max_recall_drop: how much of the share of objects found may be lost.
        max_false_alarm_rise: how much the share of images with a false alarm may grow.
        max_accuracy_drop: how much of the share of right classes may be lost.
    """

    max_latency_increase: float = 0.05
    max_energy_increase: float = 0.05
    max_size_increase: float = 0.05
    max_iou_drop: float = 0.005
    max_map_drop: float = 0.01
    max_recall_drop: float = 0.02
    max_false_alarm_rise: float = 0.02
    max_accuracy_drop: float = 0.02

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 <= value < math.inf:
                raise UsageError(field=entry.name, value=value, allowed="at least 0")

    def of(self, option: str) -> float:
        """The limit of that name."""
        return float(getattr(self, option))


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of the base and the new side.

    Parameters:
        name: the figure's.
        unit: ms, mJ, MiB, bytes, or "" for a share or an IoU.
        before: its value on the base side.
        after: on the new side.
        change: what it grew by, as a share of `before` where `relative`, else the difference.
        ci95: the 95 % interval of the change; both ends are the change itself where the figure is exact, None where the
            samples are too few.
        relative: whether the change is a share.
        higher_is_worse: whether growing is a loss.
        basis: what the interval is made of, in words.
        option: the field of CompareLimits that limits the loss; None for a figure that is only shown.
        limit: its value.
    """

    name: str
    unit: str
    before: float
    after: float
    change: float
    ci95: tuple[float, float] | None
    relative: bool
    higher_is_worse: bool
    basis: str
    option: str | None = None
    limit: float | None = None

    @property
    def verdict(self) -> Verdict:
        """`regression` where the loss is above the limit and its interval above 0.

        `ok` where no loss above the limit lies within the interval; else `undecided`: too few or too noisy samples.
        """
        if self.limit is None:
            return "no limit"
        if self.ci95 is None or not all(map(math.isfinite, (self.change, *self.ci95))):
            return "undecided"
        sign = 1 if self.higher_is_worse else -1
        loss, (least, most) = sign * self.change, sorted(sign * end for end in self.ci95)
        if loss > self.limit + _ROUNDING and least > _ROUNDING:
            return "regression"
        return "undecided" if most > self.limit + _ROUNDING else "ok"


_ROUNDING = 1e-9


def worst_verdict(changes: Sequence[Change]) -> Verdict:
    """The verdict on all of them together: any regression, else anything undecided, else ok."""
    found = {change.verdict for change in changes}
    worst: tuple[Verdict, ...] = ("regression", "undecided", "ok")
    return next((verdict for verdict in worst if verdict in found), "no limit")
