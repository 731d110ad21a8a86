"""The part of `edgeloc bench` that measures on many boards: its flags, the command line for each, and what it prints.

Dask is imported when `--fleet` is given, and not before.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeloc._support.json import print_json
from edgeloc._support.numbers import at_least_one
from edgeloc._support.terminal import write_line
from edgeloc.data.opening import is_synthetic
from edgeloc.errors import DataError, UsageError, printable
from edgeloc.model.file import contract_file

if TYPE_CHECKING:
    from edgeloc.benchmarks.fleet.bench import Outcome
    from edgeloc.benchmarks.fleet.boards import Fleet
    from edgeloc.benchmarks.fleet.onboard import BenchJob
    from edgeloc.benchmarks.measurement import BenchOptions
    from edgeloc.benchmarks.result import BenchResult

__all__ = ["configure", "job_of", "run", "spread"]

_FOLDER = "results"
_ALL_BOARDS, _DEADLINE_S = "all", 900
# What the flags name is read here and sent along.
_FILES = ("model", "against", "contract")
# What only frames that are timed have.
_OF_LATENCY = (
    "camera",
    "scenario",
    "frames",
    "warmup",
    "min_frames",
    "min_seconds",
    "max_seconds",
    "minutes",
    "fps",
    "loadgen",
    "power",
)
_UNMEASURED = {"power": "none"}
_OWN = ("fleet", "boards", "deadline", "spread", "out", "json", "verbose", "help")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a fleet."""
    add = parser.add_argument
    add("--fleet", metavar="tls://HOST:PORT", help="measure on the boards of this Dask scheduler; --out is a folder")
    add("--boards", metavar="NAMES", default=_ALL_BOARDS, help="which of them, as pi5,orin (default: %(default)s)")
    add(
        "--deadline",
        metavar="SECONDS",
        type=at_least_one,
        default=_DEADLINE_S,
        help="how long a board may take: for its benchmark, with --spread for a part of it (default: %(default)s)",
    )
    add(
        "--spread",
        action="store_true",
        help="share the labelled images between boards of one kind: the accuracy that one would measure, no latency",
    )


def run(arguments: argparse.Namespace, options: BenchOptions, parser: argparse.ArgumentParser) -> int:
    """Measure on every board; 0 when all gave their results, 3 where one did not.

    `options`: what the arguments ask for.
    `parser`: knows which of them are not as they would be without flags.
    """
    from edgeloc.benchmarks.fleet.bench import bench_boards

    folder = _folder(arguments.out, parser.get_default("out"))
    _require_absolute(arguments)
    with _connected(arguments) as fleet, _Bars() as bars:
        fleet.on_progress = bars.move
        job = job_of(fleet.run, arguments, options, parser)
        outcomes = bench_boards(fleet, _boards(fleet, arguments.boards), job, folder, bars.end)
    if arguments.json:
        print_json({"boards": {one.board: _figures(one) for one in outcomes}})
    else:
        print(printable("\n".join(_lines(outcomes))))
    return 3 if any(one.failure for one in outcomes) else 0


def spread(arguments: argparse.Namespace, options: BenchOptions) -> BenchResult:
    """The result of `options` without latency, its labelled images shared between the boards."""
    from edgeloc.benchmarks.fleet.onboard import SpreadJob
    from edgeloc.benchmarks.fleet.spread import bench_spread

    if not arguments.fleet:
        raise UsageError("images are shared between the boards of a fleet", hint="give {fleet}, or leave {spread} out")
    if options.validation is None:
        raise UsageError("there are no labelled images to share between boards", hint="give {validation}")
    usual = {entry.name: entry.default for entry in dataclasses.fields(options)}
    timed = [name for name in _OF_LATENCY if getattr(options, name) not in (usual[name], _UNMEASURED.get(name))]
    if timed:
        message = f"boards that share images time no frames, so that {timed[0].replace('_', ' ')} means nothing"
        raise UsageError(message, hint=f"leave {{{timed[0]}}} or {{spread}} out")
    _require_absolute(arguments)
    options = dataclasses.replace(options, power="none")
    files = {place: _content(path) for place, path in _sent(options).items()}
    with _connected(arguments) as fleet, _Bars() as bars:
        job = SpreadJob(fleet.run, options, files)
        return bench_spread(fleet, _boards(fleet, arguments.boards), job, arguments.deadline, bars.count)


@contextmanager
def _connected(arguments: argparse.Namespace) -> Iterator[Fleet]:
    from edgeloc.benchmarks.fleet.boards import Fleet

    with Fleet(arguments.fleet) as fleet:
        yield fleet


def _boards(fleet: Fleet, names: str) -> list[str]:
    from edgeloc.errors import DeviceError

    if names == _ALL_BOARDS:
        if not fleet.names:
            raise DeviceError("no board is connected to the scheduler", hint="start `dask worker` on each")
        return fleet.names
    wanted = [name for name in dict.fromkeys(name.strip() for name in names.split(",")) if name]
    if not wanted:
        raise UsageError(field="boards", value=names, allowed="names of boards, as pi5,orin, or all")
    return wanted


def _folder(out: str, default: str) -> Path:
    if out != default and out.endswith(".json"):
        raise UsageError(field="out", value=out, allowed="a folder: each board of a fleet has a file in it")
    return Path(_FOLDER if out == default else out)


def require_fleet(arguments: argparse.Namespace) -> None:
    """UsageError for a flag of a fleet that is given without one."""
    for name, usual in (("boards", _ALL_BOARDS), ("deadline", _DEADLINE_S)):
        if not arguments.fleet and getattr(arguments, name) != usual:
            hint = f"give {{fleet}}, or leave {{{name}}} out"
            raise UsageError(f"there is no fleet for --{name} to mean something", hint=hint)


def job_of(run: str, arguments: argparse.Namespace, options: BenchOptions, parser: argparse.ArgumentParser) -> BenchJob:
    """The benchmark that each board runs: these very flags, with the files where the board has them."""
    from edgeloc.benchmarks.fleet.onboard import RESULT, BenchJob, place_of

    sent = _sent(options)
    places = {role: place_of(role, getattr(options, role)) for role in _FILES if getattr(options, role)}
    words = [
        word for action in parser._actions for word in _words(action, getattr(arguments, action.dest, None), places)
    ]
    return BenchJob(
        run=run,
        words=(*words, "--out", RESULT),
        command=options.command,
        files={place: _content(path) for place, path in sent.items()},
        sources={place: str(path) for place, path in sent.items()},
        validation=arguments.validation,
        deadline_s=arguments.deadline,
    )


def _sent(options: BenchOptions) -> dict[str, str | Path]:
    """The files that go along, by the places that they have on a board; a contract that lies beside a model, too."""
    from edgeloc.benchmarks.fleet.onboard import place_of

    given = [(role, getattr(options, role)) for role in _FILES if getattr(options, role)]
    beside = [(role, contract_file(path)) for role, path in given if role != "contract"]
    return {place_of(role, path): path for role, path in [*given, *((role, path) for role, path in beside if path)]}


def _words(action: argparse.Action, value: Any, places: Mapping[str, str]) -> list[str]:
    """An argument as it is written on the command line; nothing where it is as it would be anyhow."""
    if action.dest in _OWN or value is None or value == action.default:
        return []
    flag = list(action.option_strings[-1:])
    if action.nargs == 0:
        return flag
    values = value if isinstance(value, list) else [places.get(action.dest, value)]
    return [*flag, *map(str, values)]


def _require_absolute(arguments: argparse.Namespace) -> None:
    """UsageError for a path that would be another one on a board."""
    data = arguments.validation
    if data is not None and not is_synthetic(data) and not Path(data).is_absolute():
        allowed = "the whole path of a data set as the boards have it, or synthetic"
        raise UsageError(field="validation", value=data, allowed=allowed)


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _figures(outcome: Outcome) -> dict[str, Any]:
    result = outcome.result
    return {
        "result": str(outcome.path) if outcome.path else None,
        "complete": bool(result and result.complete),
        "p50_ms": result.latency["total"].p50_ms if result and result.latency else None,
        "error": outcome.failure.message.partition(": ")[2] if outcome.failure else None,
    }


def _lines(outcomes: list[Outcome]) -> list[str]:
    """A line for each board."""
    width = max(len(one.board) for one in outcomes)
    return [f"{one.board:<{width}}  {_line(one)}" for one in sorted(outcomes, key=lambda one: one.board)]


def _line(outcome: Outcome) -> str:
    result = outcome.result
    if result is None:
        return "no result"
    timed = result.latency.get("total")
    frame = f"p50 {timed.p50_ms:.1f} ms, " if timed else ""
    return f"{frame}{'' if result.complete else 'in part, '}{outcome.path}"


class _Bars:
    """A progress bar for each board on a terminal, where tqdm is installed; else a line for each that is done."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}
        self._tqdm: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._tqdm = tqdm

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def move(self, board: str, report: Mapping[str, Any]) -> None:
        """Show how far a board is."""
        if self._tqdm is None:
            return
        if board not in self._bars:
            self._bars[board] = self._tqdm(
                position=len(self._bars), leave=False, dynamic_ncols=True, bar_format="{desc}"
            )
        bar = self._bars[board]
        bar.total = report["total"]
        # The rate would be that of the reports, not of the frames.
        share = "{percentage:3.0f} % |{bar}| {n_fmt}/{total_fmt}" if bar.total else "{n_fmt}"
        bar.bar_format = f"{{desc}} {share} [{{elapsed}}]"
        bar.n = report["done"]
        bar.set_description(f"{board}: {report['label']}")

    def end(self, outcome: Outcome) -> None:
        """Say that a board is done; why one is not is a finding."""
        bar = self._bars.pop(outcome.board, None)
        if bar is not None:
            bar.close()
        if outcome.result is not None:
            write_line(f"{outcome.board}: {_line(outcome)}")

    def count(self, done: int, total: int) -> None:
        """Show how many images are done."""
        self.move("all boards", {"label": "images", "done": done, "total": total})
