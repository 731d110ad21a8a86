"""Whether a new model, program or setting is worse than the base, by the results of `edgeloc bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeloc.benchmarks.comparison.change import Change, CompareLimits, Verdict, worst_verdict
from edgeloc.benchmarks.comparison.comparability import differences, reasons_against, require_one_model
from edgeloc.benchmarks.comparison.cost import cost_changes, scenario_of
from edgeloc.benchmarks.comparison.quality import Lost, answers_of, lost_most, quality_changes
from edgeloc.benchmarks.result import BenchResult, machine
from edgeloc.errors import DataError
from edgeloc.findings import Finding

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The base and the new side, figure by figure.

    Parameters:
        machine: the base's.
        scenario: the base's.
        runs: how many results each side has.
        changes: the figures that both sides have.
        differences: what else changed, such as the model or the engine: by name, both values.
        lost: the images of a localizer that lost most IoU with the truth.
        only_in: figures that one side alone has: by name, the side.
        findings: why the sides are not to be compared; empty unless that was overruled.
    """

    machine: str
    scenario: str
    runs: tuple[int, int]
    changes: tuple[Change, ...]
    differences: dict[str, tuple[str, str]]
    lost: tuple[Lost, ...] = ()
    only_in: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """`regression`, `undecided` or `ok`, over all figures with a limit."""
        return worst_verdict(self.changes)

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The figures that are worse than allowed."""
        return tuple(change for change in self.changes if change.verdict == "regression")

    @property
    def undecided(self) -> tuple[Change, ...]:
        """The figures whose interval reaches beyond what is allowed."""
        return tuple(change for change in self.changes if change.verdict == "undecided")

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values, with each verdict."""
        values = asdict(self)
        for entry, change in zip(values["changes"], self.changes, strict=True):
            entry["verdict"] = change.verdict
        findings = [finding.to_dict() for finding in self.findings]
        return {"verdict": self.verdict, **values, "findings": findings}


def compare(
    base: BenchResult | Sequence[BenchResult],
    new: BenchResult | Sequence[BenchResult],
    limits: CompareLimits | None = None,
    *,
    anyway: bool = False,
) -> Comparison:
    """Compare two results of `bench`, or two lists of repeats, which show how much runs differ.

    Parameters:
        base: what it was.
        new: what it became.
        limits: by how much it may be worse; None is the defaults.
        anyway: compare what is not comparable too (another machine, scenario or data, a busy or throttled machine); the
            reasons are then `findings`.

    Raises DataError where the two are not comparable, or one side has results of different models or scenarios, and
    MissingExtra for a detector's average precision without pycocotools.
    """
    before, after = _as_results(base), _as_results(new)
    require_one_model("base", before)
    require_one_model("new", after)
    reasons = reasons_against(before, after)
    if reasons and not anyway:
        raise _refusal(reasons)
    limits = limits or CompareLimits()
    first, second = answers_of(before), answers_of(after)
    quality: tuple[Change, ...] = ()
    lost: tuple[Lost, ...] = ()
    if first is not None and second is not None:
        quality, lost = tuple(quality_changes(first, second, limits)), lost_most(first, second)
    return Comparison(
        machine=machine(before[0]),
        scenario=scenario_of(before[0]),
        runs=(len(before), len(after)),
        changes=(*quality, *cost_changes(before, after, limits)),
        differences=differences(before[0], after[0]),
        lost=lost,
        only_in=_only_in(before, after),
        findings=reasons,
    )


def _as_results(side: BenchResult | Sequence[BenchResult]) -> tuple[BenchResult, ...]:
    return (side,) if isinstance(side, BenchResult) else tuple(side)


def _refusal(reasons: Sequence[Finding]) -> DataError:
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return DataError(
        f"the results are not comparable: {reasons[0].message}{more}", hint="measure again alike, or give {anyway}"
    )


def _only_in(before: Sequence[BenchResult], after: Sequence[BenchResult]) -> dict[str, str]:
    """What one side has measured and the other has not."""
    parts = {
        "accuracy": [answers_of(side) is not None for side in (before, after)],
        "latency": [all(result.latency for result in side) for side in (before, after)],
        "energy": [all(result.energy.per_frame_mj is not None for result in side) for side in (before, after)],
    }
    return {name: "base" if has[0] else "new" for name, has in parts.items() if has[0] != has[1]}
