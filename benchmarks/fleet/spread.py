"""The labelled images of one benchmark spread over boards of one kind, with the figures that one of them would give."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from edgeloc._support.files import require_writable
from edgeloc.benchmarks.fleet.bench import board_failed, described
from edgeloc.benchmarks.fleet.boards import Fleet
from edgeloc.benchmarks.fleet.onboard import Images, Rows, SpreadJob, close_images, compose, open_images, rows
from edgeloc.benchmarks.result import BenchResult, write_result
from edgeloc.errors import DataError, DeviceError, EdgelocError, MissingExtra
from edgeloc.findings import Finding, report

__all__ = ["bench_spread"]

logger = logging.getLogger(__name__)

_LARGEST_PART = 64
# So many parts for each board, so that a slow one does not hold up the others at the end.
_PARTS = 4
# A part that has cost so many boards is not given to another.
_MOST_LOST = 3
_STOP_S, _CLOSE_S = 15.0, 3.0


def bench_spread(
    fleet: Fleet, boards: Sequence[str], job: SpreadJob, deadline_s: float, done: Callable[[int, int], None]
) -> BenchResult:
    """Measure the images of `job` on all `boards`, and write the result to its options' `out`.

    A part of the images goes to one board at a time. What a dead, frozen or slow one had is done again by another, and
    whatever it may still say is not listened to. The last step, from rows to figures, is a board's too. After Ctrl-C or
    an error, what was found until then is written with `complete` false, and the error is raised.

    Parameters:
        fleet: the boards.
        boards: the names of those that take part.
        job: what to measure.
        deadline_s: how long a board may take for a part, and to open models and data.
        done: is called with the number of images that are done, and of all.

    Raises DataError where two boards do not have the same images or are not of one kind, or where an image is damaged;
    DeviceError where no board is left.
    """
    require_writable(job.options.out, *job.options.inputs)
    spread = _Spread(fleet, boards, job, deadline_s)
    try:
        spread.open()
        spread.compute(done)
        result = spread.composed(complete=True)
    except BaseException:
        _save_the_rest(spread)
        raise
    finally:
        spread.close()
    write_result(job.options.out, result)
    for finding in result.findings:
        report(logger, finding)
    return result


def _save_the_rest(spread: _Spread) -> None:
    """Save what was found; the error that ended it is the one to raise."""
    if not spread.found:
        return
    write_result(spread.job.options.out, spread.raw())
    try:
        write_result(spread.job.options.out, spread.composed(complete=False))
    except Exception as error:
        report(
            logger, Finding("result-not-composed", "problem", f"the figures are missing, the rows are there: {error}")
        )
    logger.info("stopped; what was measured until then is in %s", spread.job.options.out)


class _Spread:
    """What is still to be done of the images, and what was found.

    Attributes:
        boards: those that take part still.
        found: rows by the number of their part, each part once.
    """

    def __init__(self, fleet: Fleet, boards: Sequence[str], job: SpreadJob, deadline_s: float) -> None:
        self.fleet, self.job = fleet, job
        self.boards = list(boards)
        self.found: dict[int, Rows] = {}
        self._deadline_s = deadline_s
        self._parts: list[tuple[int, int]] = []
        self._left: list[int] = []
        self._at: dict[str, int] = {}
        self._cost: dict[int, int] = {}
        self._head: BenchResult | None = None

    def open(self) -> None:
        """Have every board open models and data, and cut the images into parts."""
        for board in list(self.boards):
            why = self.fleet.why_not(board)
            if why is None:
                self._start(board, open_images, self.job)
            else:
                self._lose(board, why)
        opened = {board: value for board, value in self._values() if isinstance(value, Images)}
        self._require_boards()
        _require_alike(opened)
        self._head = next(iter(opened.values())).head
        count = next(iter(opened.values())).count
        size = min(_LARGEST_PART, math.ceil(count / (_PARTS * len(opened))))
        self._parts = list(pairwise([*range(0, count, size), count]))
        self._left = list(range(len(self._parts)))

    def compute(self, done: Callable[[int, int], None]) -> None:
        """Have the boards compute every part."""
        count = self._parts[-1][1]
        done(0, count)
        for board in list(self.boards):
            self._next(board)
        for board, value in self._values():
            self.found[self._at.pop(board)] = value
            self._next(board)
            done(sum(end - start for start, end in map(self._parts.__getitem__, self.found)), count)
        self._require_boards()

    def composed(self, *, complete: bool) -> BenchResult:
        """The result of what was found; the board that composes it may be lost, too."""
        every = self._every()
        deadline_s = self._deadline_s if complete else min(_STOP_S, self._deadline_s)
        self.fleet.drop()
        self._at.clear()
        while self.boards:
            self._start(self.boards[0], compose, self.job.run, every, complete, deadline_s=deadline_s)
            for _, value in self._values():
                if isinstance(value, BenchResult):
                    return dataclasses.replace(value, command=self.job.options.command)
        raise DeviceError("no board is left to compute the figures")

    def raw(self) -> BenchResult:
        """The rows that were found, without the figures that a board would make of them."""
        assert self._head is not None
        name = next(name for name in ("regression", "accuracy", "detection") if getattr(self._head, name) is not None)
        part = dataclasses.replace(getattr(self._head, name), rows=self._every().rows)
        return dataclasses.replace(self._head, command=self.job.options.command, **{name: part})

    def _every(self) -> Rows:
        parts = [self.found[number] for number in sorted(self.found)]
        rows = tuple(row for part in parts for row in part.rows)
        return Rows(rows, tuple(name for part in parts for name in part.skipped))

    def close(self) -> None:
        """Have the boards close what they opened."""
        self.fleet.drop()
        for board in self.boards:
            self._start(board, close_images, self.job.run, deadline_s=_CLOSE_S)
        for _ in self.fleet.answers():
            pass

    def _start(self, board: str, function: Callable[..., Any], *arguments: Any, deadline_s: float = 0.0) -> None:
        self.fleet.start(board, function, *arguments, deadline_s=deadline_s or self._deadline_s)

    def _next(self, board: str) -> None:
        """Give a board the next part that nobody has."""
        if self._left:
            self._at[board] = number = self._left.pop(0)
            self._start(board, rows, self.job.run, *self._parts[number])

    def _values(self) -> Any:
        """What the boards answer as it comes, with their names; those that do not are named and take part no more."""
        for answer in self.fleet.answers():
            if answer.lost is None and answer.error is None:
                yield answer.board, answer.value
            else:
                _raise_if_shared(answer.error)
                self._lose(answer.board, answer.lost or described(answer.error))
                self._redo(answer.board)

    def _lose(self, board: str, why: str) -> None:
        board_failed(board, why)
        self.boards.remove(board)

    def _redo(self, board: str) -> None:
        """Give a lost board's part to one that has nothing to do, else to the first that is done with its own."""
        number = self._at.pop(board, None)
        if number is None:
            return
        self._left.insert(0, number)
        self._cost[number] = self._cost.get(number, 0) + 1
        if self._cost[number] == _MOST_LOST:
            start, end = self._parts[number]
            raise DeviceError(f"the images {start} to {end - 1} have cost {_MOST_LOST} boards: no other is given them")
        idle = next((name for name in self.boards if name not in self._at), None)
        if idle is not None:
            self._next(idle)

    def _require_boards(self) -> None:
        if not self.boards:
            raise DeviceError("no board is left", hint="each is named above, with what became of it")


def _raise_if_shared(error: BaseException | None) -> None:
    """An image or a model that one board cannot read, no other can; what one board lacks leaves its part to others."""
    if isinstance(error, EdgelocError) and not isinstance(error, (DeviceError, MissingExtra)):
        raise error


def _require_alike(opened: dict[str, Images]) -> None:
    (first, images), *others = opened.items()
    for board, other in others:
        if other.kind != images.kind:
            message = f"{first} and {board} are not of one kind: {images.kind}; {other.kind}"
            raise DataError(message, hint="name the boards of one kind with {boards}")
        if other.head.data != images.head.data:
            message = f"{first} and {board} do not have the same images ({images.count} and {other.count})"
            raise DataError(message, hint="copy the same data set to both")
