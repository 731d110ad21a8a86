"""The faults of a run: each is logged once, goes out with the next result, and counts in the summary by its kind."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque

from edgeloc.findings import Finding, report

__all__ = ["MOST_AT_ONCE", "Faults"]

# More of them than this between two results are one fault that repeats.
MOST_AT_ONCE = 32

logger = logging.getLogger("edgeloc.loop")


class Faults:
    """Takes findings from any thread, in bounded memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: deque[Finding] = deque(maxlen=MOST_AT_ONCE)
        self._kinds: dict[str, tuple[int, Finding]] = {}

    def notice(self, finding: Finding) -> Finding:
        """Log a fault, and keep it for the next result and for the summary."""
        with self._lock:
            count, _ = self._kinds.get(finding.code, (0, finding))
            self._kinds[finding.code] = (count + 1, finding)
        return self.pass_on(finding)

    def pass_on(self, finding: Finding) -> Finding:
        """The same for one that the summary has from elsewhere."""
        with self._lock:
            self._new.append(finding)
        return report(logger, finding)

    def take(self) -> tuple[Finding, ...]:
        """Those since the last call."""
        if not self._new:
            return ()
        with self._lock:
            taken = tuple(self._new)
            self._new.clear()
        return taken

    @property
    def summary(self) -> tuple[Finding, ...]:
        """The newest of each kind, with how often it came where that was more than once."""
        with self._lock:
            kinds = list(self._kinds.values())
        return tuple(
            finding
            if count == 1
            else dataclasses.replace(finding, message=f"{finding.message} ({count} times; this was the last)")
            for count, finding in kinds
        )
