"""What runs on a board, in its Dask worker: a whole benchmark in a process of its own, or the rows of some images."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeloc._support.children import DIE_WITH_PARENT, program_line
from edgeloc._support.interrupt import EXIT_INTERRUPTED, EXIT_TERMINATED
from edgeloc.benchmarks.measurement import BenchOptions, Measurement
from edgeloc.benchmarks.result import BenchResult
from edgeloc.data.opening import is_synthetic
from edgeloc.errors import DataError, DeviceError

__all__ = [
    "GRACE_S",
    "RESULT",
    "BenchJob",
    "BenchReply",
    "Images",
    "Rows",
    "SpreadJob",
    "begin",
    "close_images",
    "compose",
    "measure",
    "open_images",
    "place_of",
    "rows",
    "stop",
]

RESULT = "result.json"
GRACE_S = 10.0
"""How long a benchmark that is asked to stop may take to save what it has."""

_ERROR = "edgeloc: error: "
_PROGRAM = """
import sys
from edgeloc._support.terminal import report_progress_to
from edgeloc.cli import program
report_progress_to(int(sys.argv.pop(1)))
sys.exit(program())
"""


@dataclass(frozen=True, slots=True)
class BenchJob:
    """One benchmark.

    Parameters:
        run: its own name, which is also the topic of its progress.
        words: the command line behind `edgeloc bench`; the files in it are relative paths.
        command: the command line that measures the same where the files came from.
        files: their contents, by these paths.
        sources: what the files are called where they came from, by these paths.
        validation: the labelled images, which the board must have.
        deadline_s: how long it may take.
    """

    run: str
    words: tuple[str, ...]
    command: str
    files: Mapping[str, bytes] = field(repr=False)
    sources: Mapping[str, str]
    validation: str | None
    deadline_s: float


@dataclass(frozen=True, slots=True)
class BenchReply:
    """How a benchmark ended: its exit status, the text of its result, if only in part, and its error in words."""

    status: int
    result: str | None
    error: str


_running: dict[str, subprocess.Popen[bytes]] = {}
# Benchmarks that were asked to stop, of which one may begin just then.
_stopped: set[str] = set()


def begin(topic: str, key: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Say under the topic that the task of that key begins, and run it."""
    _tell(topic, {"begun": key})
    return function(*arguments)


def measure(job: BenchJob) -> BenchReply:
    """Run `edgeloc bench` as the board's user would, apart from the worker and from what that sets for its own sake."""
    try:
        _require_data(job.validation)
    except DataError as error:
        return BenchReply(error.exit_status, None, str(error))
    with tempfile.TemporaryDirectory(prefix="edgeloc-fleet-") as name:
        folder = Path(name)
        _write(job.files, folder)
        status, printed = _run(job, folder)
        result = folder / RESULT
        text = result.read_text(encoding="utf-8") if result.is_file() else None
    return BenchReply(status, text, _error(status, printed))


def stop(run: str) -> None:
    """Ask the benchmark of that name, where it runs here, to save what it has and end."""
    _stopped.add(run)
    process = _running.get(run)
    if process is not None:
        process.terminate()


def place_of(role: str, path: str | Path) -> str:
    """Where a file lies in a benchmark's folder on a board, by what it is to the benchmark."""
    return f"{role}/{Path(path).name}"


def _require_data(validation: str | Path | None) -> None:
    if validation is not None and not is_synthetic(str(validation)) and not Path(validation).exists():
        hint = "copy it there, to the same path, or give synthetic"
        raise DataError(f"the data set {validation} is not on this board", hint=hint)


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _run(job: BenchJob, folder: Path) -> tuple[int, str]:
    """The exit status, and what it printed on its standard error."""
    reader, writer = os.pipe()
    program = DIE_WITH_PARENT.format(parent=os.getpid()) + _PROGRAM
    line = program_line(program, str(writer), "bench", *job.words)
    with open(reader, encoding="utf-8") as counts, tempfile.TemporaryFile() as printed:
        try:
            process = subprocess.Popen(
                line, cwd=folder, env=_environment(), pass_fds=[writer],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=printed,
            )  # fmt: skip
        finally:
            os.close(writer)
        _running[job.run] = process
        if job.run in _stopped:
            process.terminate()
        try:
            with _ended_after(process, job.deadline_s):
                for count in counts:
                    _tell(job.run, json.loads(count))
                status = process.wait()
        finally:
            process.kill()
            process.wait()
            del _running[job.run]
        printed.seek(0)
        return status, printed.read().decode(errors="replace")


@contextmanager
def _ended_after(process: subprocess.Popen[bytes], deadline_s: float) -> Iterator[None]:
    """Inside, the process is asked to end at its deadline, and killed soon after, though nobody waits for it."""
    timers = (
        threading.Timer(deadline_s, process.terminate),
        threading.Timer(deadline_s + GRACE_S, process.kill),
    )
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _environment() -> dict[str, str]:
    """This process's, less what Dask's nanny sets in it, such as one thread for OpenMP."""
    import dask
    from distributed import get_worker

    nanny = dask.config.get("distributed.nanny.pre-spawn-environ", {}) if get_worker().nanny else {}
    return {name: value for name, value in os.environ.items() if str(nanny.get(name)) != value}


def _tell(topic: str, count: dict[str, Any]) -> None:
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(topic, {"board": str(worker.name), **count})


def _error(status: int, printed: str) -> str:
    """The error that a benchmark ended with, in its own words; "" where it ended well."""
    if status == 0:
        return ""
    if status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        return "it was stopped before it was done"
    if status < 0:
        return f"the benchmark was ended by signal {-status}"
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return (errors or lines or [f"the benchmark ended with status {status}"])[-1]


@dataclass(frozen=True, slots=True)
class SpreadJob:
    """Labelled images that several boards share.

    Parameters:
        run: its own name.
        options: what to measure on them.
        files: the content of each of its files, by the place of `place_of`.
    """

    run: str
    options: BenchOptions
    files: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Images:
    """The images as a board sees them.

    Parameters:
        count: how many.
        kind: what the board computes with, in words; boards of another kind may round differently.
        head: the result without rows and figures.
    """

    count: int
    kind: str
    head: BenchResult


@dataclass(frozen=True, slots=True)
class Rows:
    """What a board found on some images: a row for each image and crop, and the names of images that cannot be read."""

    rows: tuple[Any, ...]
    skipped: tuple[str, ...]


@dataclass(slots=True)
class _Open:
    """A spread measurement that this worker has open, its files, and when it was last used."""

    measurement: Measurement
    folder: tempfile.TemporaryDirectory[str]
    used: float


# Those of several clients, by their runs; each task of one runs while no other does.
_open: dict[str, _Open] = {}
_lock = threading.Lock()
# After which time without a task its client is taken for dead.
_FORGET_S = 3600.0


def open_images(job: SpreadJob) -> Images:
    """Open the models and the data, and keep them open until `close_images`."""
    with _lock:
        for run in [run for run, other in _open.items() if time.monotonic() - other.used > _FORGET_S]:
            _close(run)
        try:
            _require_data(job.options.validation)
        except DataError as error:
            raise DeviceError(str(error)) from error  # this board's own, where others may have the data
        folder = tempfile.TemporaryDirectory(prefix="edgeloc-fleet-")
        opened = _measurement(job, Path(folder.name))
        _open[job.run] = _Open(opened, folder, time.monotonic())
        return Images(len(opened.samples), _kind(opened), _untimed(opened.head()))


def rows(run: str, start: int, end: int) -> Rows:
    """The rows of the images from `start` to before `end`."""
    with _lock:
        images = _opened(run).images
        assert images is not None
        images.rows, images.skipped = [], []
        images.record(_opened(run).samples[start:end])
        return Rows(tuple(images.rows), tuple(images.skipped))


def compose(run: str, found: Rows, complete: bool) -> BenchResult:
    """The result of all rows, as one process on this board would have written it."""
    with _lock:
        measurement = _opened(run)
        assert measurement.images is not None
        measurement.images.rows, measurement.images.skipped = list(found.rows), list(found.skipped)
        return _untimed(measurement.save(complete=complete))


def _untimed(result: BenchResult) -> BenchResult:
    """The result without what belongs to latencies, of which it has none."""
    return dataclasses.replace(result, scenario=None, memory=None)


def close_images(run: str) -> None:
    """Let go of what `open_images` opened."""
    with _lock:
        if run in _open:
            _close(run)


def _close(run: str) -> None:
    one = _open.pop(run)
    one.measurement.close()
    one.folder.cleanup()


def _opened(run: str) -> Measurement:
    if run not in _open:
        raise DeviceError("its worker was started again meanwhile")
    _open[run].used = time.monotonic()
    return _open[run].measurement


def _measurement(job: SpreadJob, folder: Path) -> Measurement:
    """The measurement with the files in `folder`, called by the names that they have where they came from."""
    given = job.options
    _write(job.files, folder)
    roles = {place.partition("/")[0] for place in job.files}
    placed: dict[str, Any] = {role: folder / place_of(role, getattr(given, role)) for role in roles}
    opened = Measurement(dataclasses.replace(given, **placed, out=folder / RESULT))
    opened.model = dataclasses.replace(opened.model, path=str(given.model))
    if opened.against is not None:
        opened.against = dataclasses.replace(opened.against, path=str(given.against))
    return opened


def _kind(measurement: Measurement) -> str:
    machine = measurement.environment
    models = [model for model in (measurement.model, measurement.against) if model is not None]
    engines = dict.fromkeys(f"{model.engine} {model.engine_version}" for model in models)
    name = machine.board or machine.cpu or "a CPU without a name"
    software = f"edgeloc {machine.edgeloc}, NumPy {machine.numpy}, OpenCV {machine.opencv}"
    return f"{name} ({machine.machine}), {' and '.join(engines)}, {software}"
