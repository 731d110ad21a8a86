"""What a user should know: one record for every check, and how modules report it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeloc.errors import mask_credentials, name_parameters, with_fix

if TYPE_CHECKING:
    import logging  # below it is imported where there is something to log, which most programs start without

__all__ = ["Finding", "Reporting", "Severity", "report"]

Severity = Literal["ok", "note", "warning", "problem"]

_LEVELS = {"ok": "INFO", "note": "INFO", "warning": "WARNING", "problem": "ERROR"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Parameters:
        code: the kind in words (`batch-norm-lags`); docs/findings.md explains each.
        severity: `ok` (checked, as it should be), `note` (worth knowing), `warning` (works, but worse than it could) or
            `problem` (does not work).
        message: what was found, with its figures.
        fix: what to do about it, where something can be done. It names parameters in braces, as the hint of an error
            does: "try {fix_head}".
    """

    code: str
    severity: Severity
    message: str
    fix: str | None = None

    def __post_init__(self) -> None:
        # A finding ends in results and reports that others read.
        object.__setattr__(self, "message", mask_credentials(self.message))
        if self.fix:
            object.__setattr__(self, "fix", mask_credentials(self.fix))

    def __str__(self) -> str:
        """The message and its fix in one line."""
        return self.sentence()

    def sentence(self, spelling: Callable[[str], str] = str) -> str:
        """The same, with each parameter as `spelling` writes it."""
        return with_fix(self.message, self.fix, spelling)

    def to_dict(self) -> dict[str, str | None]:
        """The finding as JSON-ready values."""
        fix = None if self.fix is None else name_parameters(self.fix)
        return {"code": self.code, "severity": self.severity, "message": self.message, "fix": fix}


def report(logger: logging.Logger, finding: Finding) -> Finding:
    """Log `finding` at its severity's level and return it; the log record carries it in its attribute `finding`."""
    import logging

    logger.log(getattr(logging, _LEVELS[finding.severity]), "%s", finding, extra={"finding": finding})
    return finding


class Reporting:
    """What cameras, engines and sinks share: each fault goes out as a finding when it is noticed.

    Attributes:
        notify: takes each of them; a run sets it, and without one they are logged.
    """

    notify: Callable[[Finding], object] | None = None

    def _notice(self, finding: Finding) -> None:
        if self.notify is None:
            import logging

            report(logging.getLogger(type(self).__module__), finding)
        else:
            self.notify(finding)
