"""The boards behind a Dask scheduler: one task at a time on each, a deadline for each, and the names of those lost.

Dask would wait for ever for a task that is pinned to a dead worker, and lists a frozen one for five minutes more.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeloc.errors import DeviceError, MissingExtra, UsageError, first_line

__all__ = ["RESOURCE", "Answer", "Fleet"]

logger = logging.getLogger(__name__)

RESOURCE = "BOARD"
"""What a worker offers one of (`--resources BOARD=1`) and a task takes, so that a board does one thing at a time."""

_SCHEME = "tls://"
_CONNECT_S = 10.0
_LOOK_EVERY_S = 0.25
# Workers give a sign of life twice a second, and once in 5 s where there are a thousand of them.
_PULSE_S, _SILENCE_S = 6.0, 30.0
_CLOSE_S = 5.0
_TLS_HINT = (
    "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and "
    "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY to the paths of ca.pem, cert.pem and key.pem, or name them in Dask's "
    "configuration"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the task of a board.

    Parameters:
        board: its name.
        value: what the task returned.
        error: what it raised.
        lost: why there is no answer and will be none: the board is dead, frozen or too slow. It gets no further task.
        late: how long the task was given, where it was asked to stop then.
    """

    board: str
    value: Any = None
    error: BaseException | None = None
    lost: str | None = None
    late: float | None = None


@dataclass(slots=True)
class _Task:
    board: str
    address: str
    future: Any
    deadline_s: float
    due: float
    grace_s: float
    begun: bool = False
    stopped: bool = False
    late: bool = False


class Fleet:
    """A connection to a scheduler, and the boards that it had when the connection was made.

    Parameters:
        address: as `tls://scheduler:8786`; the certificates are those of Dask's configuration.

    Attributes:
        run: a name that no other use of the fleet has: what tasks report under it goes to `on_progress`.
        on_progress: is called with the name of a board and what its task reports.

    Raises MissingExtra without Dask, UsageError for another kind of address or without certificates, DeviceError where
    no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        self.run = f"edgeloc-{uuid.uuid4().hex}"
        self.on_progress: Callable[[str, Mapping[str, Any]], None] = lambda board, report: None
        self._client = _connected(address)
        self._address = address
        self._workers = _workers(self._client)
        self._tasks: dict[str, _Task] = {}
        self._events: queue.SimpleQueue[tuple[str, Any, Any, BaseException | None]] = queue.SimpleQueue()
        self._watch = _Watch(self._client)
        self._client.subscribe_topic(self.run, self._heard)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """The boards, by their names."""
        return sorted(str(worker["name"]) for worker in self._workers.values())

    def why_not(self, name: str) -> str | None:
        """Why a board can be given no task; None where it can."""
        worker = self._workers.get(self._address_of(name))
        if worker is None:
            return f"it is not connected to {self._address}; connected are: {', '.join(self.names) or 'none'}"
        if not worker.get("resources", {}).get(RESOURCE):
            return f"its worker was started without --resources {RESOURCE}=1"
        return None

    def _address_of(self, name: str) -> str:
        return next((address for address, worker in self._workers.items() if str(worker["name"]) == name), "")

    def start(
        self, board: str, function: Callable[..., Any], *arguments: Any, deadline_s: float, grace_s: float = 0.0
    ) -> None:
        """Begin a task on a board that has none.

        Parameters:
            board: its name.
            function: what the board runs; a function of a module that is installed there.
            arguments: its arguments.
            deadline_s: the time in which it must answer, from when the board begins: until then it may do another's.
            grace_s: how much longer one may take that was asked to stop at its deadline (see `stop`); 0: is not asked.
        """
        from edgeloc.benchmarks.fleet.onboard import begin

        address, key = self._address_of(board), f"edgeloc-{uuid.uuid4().hex}"
        future = self._client.submit(
            begin, self.run, key, function, *arguments,
            key=key, workers=[address], allow_other_workers=False, resources={RESOURCE: 1}, pure=False,
        )  # fmt: skip
        due = time.monotonic() + deadline_s
        self._tasks[key] = _Task(board, address, future, deadline_s, due, grace_s)
        future.add_done_callback(self._done)

    def answers(self) -> Iterator[Answer]:
        """What becomes of every task, each once, as it comes; tasks may be started meanwhile."""
        while self._tasks:
            try:
                topic, key, value, error = self._events.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                yield from self._lost()
                continue
            if topic == "progress" and "begun" in value:
                self._begun(value["begun"])
            elif topic == "progress":
                self.on_progress(key, value)
            elif key in self._tasks:
                task = self._tasks.pop(key)
                yield Answer(task.board, value, error, late=task.deadline_s if task.late else None)
            yield from self._lost()

    def _begun(self, key: str) -> None:
        task = self._tasks.get(key)
        if task is not None and not task.begun:
            task.begun = True
            task.due = time.monotonic() + (0 if task.stopped else task.deadline_s)

    def stop(self, boards: Sequence[str] | None = None) -> None:
        """Ask the benchmarks on these boards (None: on all that have one) to save what they have; does not wait."""
        from edgeloc.benchmarks.fleet.onboard import stop

        asked = [task for task in self._tasks.values() if boards is None or task.board in boards]
        for task in asked:
            task.stopped = True
            task.due = min(task.due, time.monotonic())
            _in_background(self._client.run, stop, self.run, workers=[task.address], on_error="ignore")

    def drop(self) -> None:
        """Let go of all tasks: those that have not begun never do, and no answer of the others is listened to."""
        for task in self._tasks.values():
            _in_background(task.future.release)
        self._tasks.clear()

    def close(self) -> None:
        """Let go of all tasks, and of the scheduler; a frozen board does not hold it up."""
        self._watch.close()
        self._tasks.clear()
        with suppress(Exception):  # what it says then, it says of a connection that is of no use any more
            self._client.close(timeout=_CLOSE_S)

    def _heard(self, event: tuple[float, Mapping[str, Any]]) -> None:
        self._events.put(("progress", event[1]["board"], event[1], None))

    def _done(self, future: Any) -> None:
        _in_background(self._fetch, future)

    def _fetch(self, future: Any) -> None:
        """In a thread of its own: the value still has to come from the board, which may freeze or die just then."""
        from concurrent.futures import CancelledError

        value: Any = None
        error: BaseException | None = None
        try:
            value = future.result()
        except CancelledError:
            error = DeviceError(f"the connection to the scheduler at {self._address} was lost")
        except BaseException as failure:
            error = failure
        self._events.put(("done", future.key, value, error))

    def _lost(self) -> Iterator[Answer]:
        for key, task in list(self._tasks.items()):
            why = self._why_lost(task)
            if why is not None:
                del self._tasks[key]
                _in_background(task.future.release)
                yield Answer(task.board, lost=why)

    def _why_lost(self, task: _Task) -> str | None:
        now = time.monotonic()
        silent_s = self._watch.silent_s(task.address)
        if silent_s is None:
            return "its worker died, or its connection was cut"
        if self._watch.scheduler_silent_s > _SILENCE_S:
            return f"the scheduler at {self._address} does not answer any more"
        if silent_s > _SILENCE_S or (now > task.due and silent_s > min(_PULSE_S, task.deadline_s / 2)):
            return f"no sign of life for {silent_s:.0f} s: it is frozen, or its network is gone"
        if not task.begun:
            return "it had not begun: another benchmark is running there" if task.stopped else None
        if now > task.due + task.grace_s:
            if task.stopped and not task.late:
                return f"it was asked to stop, and did not within {task.grace_s:g} s"
            return f"it is alive, but was not done within {task.deadline_s:g} s"
        if now > task.due and not task.stopped:
            task.late = True
            self.stop([task.board])
        return None


class _Watch:
    """When each worker last gave a sign of life, looked up in a thread of its own, which a dead scheduler may hold."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._signs: dict[str, tuple[float, float]] = {}
        self._heard = time.monotonic()
        self._closed = threading.Event()
        self._look()
        _in_background(self._run)

    @property
    def scheduler_silent_s(self) -> float:
        """How long the scheduler has not answered."""
        return time.monotonic() - self._heard

    def silent_s(self, address: str) -> float | None:
        """How long a worker has given no sign of life; None where the scheduler does not have it any more."""
        sign = self._signs.get(address)
        return None if sign is None else time.monotonic() - sign[1]

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(2 * _LOOK_EVERY_S):
            with suppress(Exception):  # the scheduler is not there: it gets older by itself
                self._look()

    def _look(self) -> None:
        workers = _workers(self._client)
        self._heard = now = time.monotonic()
        before = self._signs
        # The time stamps are of the scheduler's clock: what counts is that they change.
        stamps = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        self._signs = {
            address: before[address] if address in before and before[address][0] == stamp else (stamp, now)
            for address, stamp in stamps.items()
        }


def _workers(client: Any) -> dict[str, Any]:
    """Every worker by its address. `Client.scheduler_info()` at times has none, since another thread renews it too."""
    workers: dict[str, Any] = client.sync(client.scheduler.identity)["workers"]
    return workers


def _in_background(function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Call a function that may hang, without waiting; its errors do not matter."""

    def call() -> None:
        with suppress(Exception):
            function(*arguments, **named)

    threading.Thread(target=call, name="edgeloc-fleet", daemon=True).start()


def _connected(address: str) -> Any:
    if not address.startswith(_SCHEME):
        raise UsageError(field="fleet", value=address, allowed=f"the scheduler's {_SCHEME}host:port")
    try:
        import dask
        from distributed import Client
        from distributed.security import Security
    except ImportError as error:
        raise MissingExtra("distributed", "fleet", "a fleet") from error
    if not logger.isEnabledFor(logging.DEBUG):
        # What they have to say of lost boards is said here, in fewer words. Dask's configuration gives some own levels.
        for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"})
    security = Security(require_encryption=True)
    _require_certificates(security)
    try:
        return Client(address, security=security, timeout=_CONNECT_S, set_as_default=False, name="edgeloc")
    except (OSError, ValueError, TimeoutError) as error:
        hint = "start it, open its port, and give it a certificate of the same CA"
        raise DeviceError(f"no scheduler answers at {address}: {first_line(error)}", hint=hint) from error


def _require_certificates(security: Any) -> None:
    """UsageError where Dask's configuration names no certificates, or such as are not there."""
    for path in (security.tls_ca_file, security.tls_client_cert):
        if not path:
            raise UsageError("a fleet needs certificates", hint=_TLS_HINT)
    for path in (security.tls_ca_file, security.tls_client_cert, security.tls_client_key):
        if path and "\n" not in path and not Path(path).is_file():
            raise UsageError(f"the certificate {path} does not exist", hint=_TLS_HINT)
