"""The process that an engine runs in, seen from both ends: the memory they share, questions and answers, its end."""

from __future__ import annotations

import fcntl
import logging
import math
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.children import program_line
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EdgelocError, EngineError, first_line
from edgeloc.findings import Finding

__all__ = ["DiedError", "EngineProcess", "HungError", "Loader", "Opened", "Word", "serve"]

_PROGRAM = "from edgeloc.engines.worker import serve; serve({channel}, {life}, {memory})"
_END_S = 2.0
_LONGEST_REASON = 300
_ALIGNMENT = 64
# What a library may print before it is thrown away.
_MOST_WORDS = 1 << 16
# A socket takes no longer one at once.
_LONGEST_MESSAGE = 1 << 17
# No time at all would mean not to wait.
_SHORTEST_S = 1e-6
# What an engine says beside its answers.
Word = logging.LogRecord | Finding


class Loader(Protocol):
    """What the process loads: an object that can be pickled, with a method that gives a loaded engine."""

    def load(self) -> Engine:
        """The engine; EdgelocError where it cannot be loaded."""


class HungError(Exception):
    """The process did not answer in time, and was ended."""


class DiedError(Exception):
    """The process ended; the text is how, with its own last line."""

    def __init__(self, status: int, words: str) -> None:
        self.signal = -status
        how = f"its process ended by {signal.Signals(-status).name}" if status < 0 else "its process ended"
        super().__init__(f"{how} ({words})" if words else how)


@dataclass(frozen=True)
class Opened:
    """A loaded engine's version, inputs and outputs."""

    version: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


class _Memory:
    """Memory without a name that two processes map; it grows with what is put there, and goes with the last of them."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, 0)

    def array(self, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array that lies `at` so many bytes from the beginning."""
        end = at + math.prod(shape) * dtype.itemsize
        if end > len(self._map):
            if os.fstat(self.descriptor).st_size < end:
                os.ftruncate(self.descriptor, end)
            self._map = mmap.mmap(self.descriptor, 0)
        array: NDArray[Any] = np.ndarray(shape, dtype, self._map, at)
        return array


class _Channel:
    """One end of a socket: whole messages, of which one that equals the last is a single byte."""

    _SAME = b"="  # which no pickle begins with

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._buffer = bytearray(_LONGEST_MESSAGE)
        # Engines may log from threads of their own.
        self._lock = threading.Lock()
        self._sent: object = None
        self._received: Any = None

    def send(self, message: object) -> None:
        """Send what can be pickled; OSError where the other end is closed."""
        with self._lock:
            self._end.send(self._SAME if message == self._sent else pickle.dumps(message))
            self._sent = message

    def receive(self, limit_s: float = math.inf) -> Any:
        """The next message; TimeoutError after `limit_s`, EOFError where the other end is closed."""
        self._end.settimeout(None if limit_s == math.inf else max(limit_s, _SHORTEST_S))
        size = self._end.recv_into(self._buffer)
        if not size:
            raise EOFError
        if self._buffer[:size] != self._SAME:
            self._received = pickle.loads(memoryview(self._buffer)[:size])
        return self._received

    def close(self) -> None:
        """Close this end."""
        self._end.close()


class EngineProcess:
    """A Python process that runs `serve`, with one question and one answer at a time.

    `begun` is how many inferences earlier processes were asked for; `heard` gives what takes the engine's findings and
    what it logs.
    """

    def __init__(self, loader: Loader, begun: int, heard: Callable[[], Callable[[Word], None] | None]) -> None:
        self._heard = heard
        with ExitStack() as ends:
            ours, theirs = (ends.enter_context(end) for end in socket.socketpair(type=socket.SOCK_SEQPACKET))
            self._channel = _Channel(ours)
            # Nothing is ever written to it: the other end closes with this process.
            life, held = os.pipe()
            ends.callback(os.close, held)
            # What it prints goes to memory and not to a pipe, which would fill up while the process runs.
            self._words, memory = os.memfd_create("edgeloc-engine-words"), os.memfd_create("edgeloc-engine")
            ends.callback(os.close, self._words)
            ends.callback(os.close, memory)
            fcntl.fcntl(self._words, fcntl.F_SETFL, os.O_APPEND)
            # The first question lies in the memory, so that no process that hangs can leave it half sent.
            with open(memory, "wb", closefd=False) as file:
                pickle.dump((loader, begun, logging.getLogger("edgeloc").getEffectiveLevel()), file)
                file.seek(0)
            self._memory = _Memory(memory)
            self._process = _started(channel=theirs.fileno(), life=life, memory=memory, words=self._words)
            theirs.close()
            self.close = weakref.finalize(self, _end, self._process, ends.pop_all())

    @property
    def alive(self) -> bool:
        """Whether it takes questions."""
        return self.close.alive

    def opened(self, limit_s: float) -> Opened:
        """The engine that it has loaded; HungError after `limit_s`, DiedError, or what the loader raised."""
        try:
            opened: Opened = self._answer(limit_s)
        except EdgelocError:
            self.close()
            raise
        return opened

    def run(self, tensor: NDArray[Any], limit_s: float) -> dict[str, NDArray[Any]]:
        """The outputs for a tensor; HungError after `limit_s`, DiedError, or the engine's EngineError."""
        self._memory.array(0, tensor.shape, tensor.dtype)[...] = tensor
        outputs = self._answer(limit_s, (tensor.shape, tensor.dtype))
        return {name: self._memory.array(*place).copy() for name, place in outputs}

    def _answer(self, limit_s: float, question: object = None) -> Any:
        try:
            if question is not None:
                self._channel.send(question)
            answer = self._receive(time.monotonic() + limit_s)
        except TimeoutError:
            self._kill()
            raise HungError from None
        except (EOFError, OSError):
            raise self._death() from None
        except BaseException:  # no later question may get this one's answer
            self._kill()
            raise
        if isinstance(answer, EdgelocError):
            raise answer
        return answer

    def _receive(self, deadline: float) -> Any:
        while isinstance(answer := self._channel.receive(deadline - time.monotonic()), Word):
            if heard := self._heard():
                heard(answer)
        return answer

    def _kill(self) -> None:
        self._process.kill()
        self.close()

    def _death(self) -> DiedError:
        _wait(self._process)
        words = os.pread(self._words, 2 * _MOST_WORDS, 0)
        self.close()
        lines = words.decode(errors="replace").strip().splitlines()
        return DiedError(self._process.returncode or 0, lines[-1][-_LONGEST_REASON:] if lines else "")


def _started(channel: int, life: int, memory: int, words: int) -> subprocess.Popen[bytes]:
    """A process that serves and prints to `words`; all are descriptors, of which `life` is closed here."""
    line = program_line(_PROGRAM.format(channel=channel, life=life, memory=memory))
    shared = [channel, life, memory]
    try:
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=words, stderr=words, pass_fds=shared)
    except OSError as error:
        raise EngineError(f"a process for the engine cannot be started: {error}") from error
    finally:
        os.close(life)


def _end(process: subprocess.Popen[bytes], ends: ExitStack) -> None:
    """Let the process end, which it does when the other ends are closed; else make it."""
    ends.close()
    _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Reap the process, killed if need be; one that a driver holds fast in the kernel is left behind."""
    for _ in range(2):
        try:
            process.wait(_END_S)
            return
        except subprocess.TimeoutExpired:
            process.kill()


def serve(channel: int, life: int, memory: int) -> None:
    """In the process: load the engine, then answer each tensor until the parent's end of the channel is closed.

    All three are descriptors. `life` is a pipe that closes with the parent, and `memory` holds the pickled loader.
    """
    # Ctrl-C and a service's stop go to all processes; this one is needed until its parent has ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _converse(_Channel(socket.socket(fileno=channel)), _Parent(life), memory)


class _Parent:
    """Inside, the kernel kills this process when its parent ends: a driver that hangs lets no Python run that would.

    A signal for the parent's death (PR_SET_PDEATHSIG) comes already when the thread ends that started this process.
    Outside, the process closes the device and ends by itself, since its channel ends.
    """

    def __init__(self, life: int) -> None:
        self._life = life
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        self._closed = select.poll()
        self._closed.register(life, select.POLLIN)

    def __enter__(self) -> None:
        fcntl.fcntl(self._life, fcntl.F_SETFL, os.O_ASYNC)
        if self._closed.poll(0):  # it has ended before
            raise SystemExit

    def __exit__(self, *_: object) -> None:
        fcntl.fcntl(self._life, fcntl.F_SETFL, 0)


class _Relay(logging.Handler):
    """Sends what is logged to the parent."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self._channel.send(record)


def _converse(channel: _Channel, parent: _Parent, descriptor: int) -> None:
    with open(descriptor, "rb", closefd=False) as file:
        loader, begun, level = pickle.load(file)
    memory = _Memory(descriptor)
    logger = logging.getLogger("edgeloc")
    logger.setLevel(level)
    logger.addHandler(_Relay(channel))
    logger.propagate = False
    try:
        with parent:
            engine = loader.load()
    except EdgelocError as error:
        channel.send(error)
        return
    engine.notify, engine._begun_before = channel.send, begun
    channel.send(Opened(engine.version, dict(engine.inputs), dict(engine.outputs)))
    while (question := _next(channel)) is not None:
        try:
            with parent:
                answer: object = _store(engine.invoke(memory.array(0, *question)), memory, *question)
        except EngineError as error:
            answer = error
        except Exception as error:
            answer = EngineError(f"the engine {engine.name} raised {type(error).__name__}: {first_line(error)}")
        channel.send(answer)
        if os.fstat(1).st_size > _MOST_WORDS:
            os.ftruncate(1, 0)


def _next(channel: _Channel) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and dtype of the next tensor; None at the end."""
    try:
        question: tuple[tuple[int, ...], np.dtype[Any]] = channel.receive()
    except (EOFError, OSError):
        return None
    return question


def _store(
    outputs: Mapping[str, NDArray[Any]], memory: _Memory, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> list[tuple[str, tuple[int, tuple[int, ...], np.dtype[Any]]]]:
    """Put the outputs behind the input; each with its name and place."""
    at = math.prod(shape) * dtype.itemsize
    places = []
    for name, values in outputs.items():
        if values.dtype.hasobject:
            raise EngineError(f"the output {name} is text, which an engine with a deadline does not pass on")
        at += -at % _ALIGNMENT
        memory.array(at, values.shape, values.dtype)[...] = values
        places.append((name, (at, values.shape, values.dtype)))
        at += values.nbytes
    return places
