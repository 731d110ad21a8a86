"""The same benchmark on every board: each result is in its file as soon as it is there."""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeloc._support.files import require_writable
from edgeloc._support.interrupt import signals_wait
from edgeloc.benchmarks.fleet.boards import Answer, Fleet
from edgeloc.benchmarks.fleet.onboard import GRACE_S, BenchJob, BenchReply, measure
from edgeloc.benchmarks.result import BenchResult, ModelInfo, older_results, read_result, write_result
from edgeloc.errors import DataError, EdgelocError, OutputError, UsageError, first_line
from edgeloc.findings import Finding, report

__all__ = ["Outcome", "bench_boards", "board_failed", "described", "result_file"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a board gave.

    Parameters:
        board: its name.
        path: where its result is; None where it gave none.
        result: the same; `complete` is false where the board measured a part.
        failure: why the board gave no result, or only a part.
    """

    board: str
    path: Path | None = None
    result: BenchResult | None = None
    failure: Finding | None = None


def result_file(folder: Path, board: str) -> Path:
    """`pi5.json` of the board pi5; of a worker without a name, which has its address, without what no file name has."""
    return folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', board).lstrip('.-') or 'board'}.json"


def board_failed(board: str, why: str) -> Finding:
    """The finding for a board that gave no result."""
    return report(logger, Finding("board-failed", "problem", f"{board}: {why}"))


def bench_boards(
    fleet: Fleet, boards: Sequence[str], job: BenchJob, folder: Path, done: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run `job` on every board at the same time, and write each result into `folder`.

    After Ctrl-C the boards are asked for what they have measured until then, which is written as well, and the error
    is raised.

    Parameters:
        fleet: the boards.
        boards: the names of those that take part.
        job: what each of them runs.
        folder: for the results.
        done: is called with each outcome as it comes.
    """
    outcomes: list[Outcome] = []

    def take(answer: Answer) -> None:
        outcomes.append(_outcome(answer, job, folder))
        done(outcomes[-1])

    files = {result_file(folder, board) for board in boards}
    if len(files) < len(boards):
        raise UsageError("the results of two boards would have one name", hint="start their workers with other names")
    for file in files:
        require_writable(file)
    for board in boards:
        why = fleet.why_not(board)
        if why is None:
            fleet.start(board, measure, job, deadline_s=job.deadline_s, grace_s=GRACE_S)
        else:
            take(Answer(board, lost=why))
    try:
        for answer in fleet.answers():
            with signals_wait():
                take(answer)
    except KeyboardInterrupt:
        logger.info("stopping the boards, and waiting up to %.0f s for what they have measured", GRACE_S)
        fleet.stop()
        for answer in fleet.answers():
            take(answer)
        raise
    older = older_results(folder, [one.path.name for one in outcomes if one.path is not None])
    if older is not None:
        report(logger, older)
    return outcomes


def _outcome(answer: Answer, job: BenchJob, folder: Path) -> Outcome:
    board, reply = answer.board, answer.value
    if not isinstance(reply, BenchReply):
        return Outcome(board, failure=board_failed(board, answer.lost or described(answer.error)))
    path = result_file(folder, board)
    try:
        result = None if reply.result is None else _received(reply.result, job, path)
    except (DataError, OutputError) as error:
        return Outcome(board, failure=board_failed(board, str(error)))
    for finding in result.findings if result else ():
        report(logger, dataclasses.replace(finding, message=f"{board}: {finding.message}"))
    why = reply.error if answer.late is None else f"it was not done within {answer.late:g} s"
    failure = board_failed(board, why) if reply.error else None
    return Outcome(board, path if result else None, result, failure)


def described(error: BaseException | None) -> str:
    """What a task raised on a board, in words."""
    if isinstance(error, ImportError):
        return f"edgeloc is not installed there, or another release ({first_line(error)})"
    if isinstance(error, EdgelocError):
        return str(error)
    return "no answer" if error is None else f"{type(error).__name__}: {first_line(error)}"


def _received(text: str, job: BenchJob, path: Path) -> BenchResult:
    """The result of a board, checked, under the names that its models have here; in its file."""
    with tempfile.TemporaryDirectory(prefix="edgeloc-fleet-") as folder:
        file = Path(folder) / path.name
        file.write_text(text, encoding="utf-8")
        result = read_result(file)
    model, against = _named(result.model, job), result.against and _named(result.against, job)
    result = dataclasses.replace(result, model=model, against=against, command=job.command)
    write_result(path, result)
    return result


def _named(model: ModelInfo, job: BenchJob) -> ModelInfo:
    return dataclasses.replace(model, path=job.sources.get(model.path, model.path))
