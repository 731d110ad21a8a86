"""Python programs in a process of their own: what they load may crash, hang or abort, and only they end by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

__all__ = ["DIE_WITH_PARENT", "ChildFailed", "Ending", "program_line", "run_child"]

Ending = Literal["not started", "timeout", "signal", "exception", "no answer"]

# Long: an emulated or loaded board takes minutes for what takes a second elsewhere.
_TIMEOUT_S = 120.0
# PR_SET_PDEATHSIG: the kernel kills the child when the thread that waits for it ends; Linux alone has it.
DIE_WITH_PARENT = """
def _die_with(parent):
    import ctypes, os, signal
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (AttributeError, OSError):
        return
    if os.getppid() != parent:
        os._exit(1)
_die_with({parent})
"""
# An answer is the last line on standard output, since libraries print there too; an exception is data as well.
# Memory is counted as RLIMIT_DATA: an address space (RLIMIT_AS) is reserved by the gigabyte and never used.
_ANSWER = """
import json, sys
def answer(value):
    print("\\n" + json.dumps(value), flush=True)
def limit(memory, seconds):
    import math, resource, time
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 5))
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            taken = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (taken + memory, taken + memory))
def _raised(kind, error, trace):
    sys.__excepthook__(kind, error, trace)
    names = [one.__module__ + "." + one.__qualname__ for one in kind.__mro__]
    answer({"raised": names, "message": str(error)})
sys.excepthook = _raised
"""


class ChildFailed(Exception):
    """A program gave no answer; the text goes on "it ...".

    `ending` is how: `not started`, `timeout`, ended by `signal` (its name in `signal`), an `exception` (the names of
    its class and their bases, such as "edgeloc.errors.ModelError", in `raised`, its text in `message`), or an end
    with `no answer`. `answers` are the lines that it printed as JSON before.
    """

    def __init__(
        self, text: str, ending: Ending, *, signal_name: str = "", raised: Sequence[str] = (), message: str = ""
    ) -> None:
        super().__init__(text)
        self.ending, self.signal, self.raised, self.message = ending, signal_name, tuple(raised), message
        self.answers: list[Any] = []

    def is_a(self, *kinds: type[BaseException]) -> bool:
        """Whether the program raised one of `kinds`, or a subclass."""
        return any(f"{kind.__module__}.{kind.__qualname__}" in self.raised for kind in kinds)


def program_line(program: str, *arguments: str, interpreter: Sequence[str] = ()) -> list[str]:
    """The command that runs `program`, Python text, with this process's search path less the current folder.

    Files of the current folder may bear the name of a package, and must not run in its place. The program is at least
    as isolated as this process (-I, -E, -s). `interpreter` is what runs a program given by -c where it is not this
    Python; its own search path is kept.
    """
    if interpreter:
        return [
            *interpreter,
            "-c",
            "import sys; sys.path[:] = [one for one in sys.path if one]\n" + program,
            *arguments,
        ]
    return [sys.executable, *_isolation(), "-c", f"import sys; sys.path[:] = {_search_path()!r}\n{program}", *arguments]


def _isolation() -> Iterator[str]:
    """-P keeps the current folder out from the start; -I alone would lose PYTHONPATH and the user's packages."""
    if sys.flags.isolated:
        yield "-I"
    if sys.flags.ignore_environment:
        yield "-E"
    if sys.flags.no_user_site:
        yield "-s"
    if sys.version_info >= (3, 11):
        yield "-P"


def _search_path() -> list[str]:
    here = _resolved("")
    kept = [folder for folder in sys.path if folder and _resolved(folder) != here]
    # Whoever works in the folder that this package is installed in gets it all the same, but last.
    package = Path(__file__).parents[1]
    return [*kept, here] if package.name == "edgeloc" and _resolved(str(package.parent)) == here else kept


def _resolved(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except OSError:  # the current folder was removed
        return folder


def run_child(
    program: str,
    *arguments: str,
    stdin: bytes = b"",
    timeout_s: float = _TIMEOUT_S,
    interpreter: Sequence[str] = (),
) -> Any:
    """Run `program`, Python text, in a process of its own; return the value of its last `answer(value)`.

    The program finds `answer` defined; a value is what JSON can hold. It may call `limit(memory, seconds)`: more bytes
    than that are refused to it, and after so much processor time SIGXCPU ends it. It is killed after `timeout_s`, and
    when this process ends. Raises ChildFailed with the reason as data.
    """
    if not (interpreter or sys.executable):
        raise ChildFailed("could not be started: this Python is within another program", "not started")
    text = DIE_WITH_PARENT.format(parent=os.getpid()) + _ANSWER + program
    line = program_line(text, *arguments, interpreter=interpreter)
    try:
        done = subprocess.run(line, input=stdin, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise _with_answers(ChildFailed(f"did not end within {timeout_s:g} s", "timeout"), error.stdout) from error
    except OSError as error:
        raise ChildFailed(f"could not be started: {error.strerror or error}", "not started") from error
    answers = _answers(done.stdout)
    if done.returncode == 0 and answers:
        return answers[-1]
    raise _with_answers(_failure(done, answers), done.stdout)


def _failure(done: subprocess.CompletedProcess[bytes], answers: list[Any]) -> ChildFailed:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return ChildFailed(f"ended its process by {name}", "signal", signal_name=name)
    match answers[-1:]:
        case [{"raised": raised, "message": message}]:
            name = raised[0].removeprefix("builtins.")
            return ChildFailed(f"raised {name}: {message}", "exception", raised=raised, message=message)
    shown = _last_line(done.stderr) or "it printed no answer"
    return ChildFailed(f"ended with status {done.returncode}: {shown}", "no answer")


def _with_answers(failure: ChildFailed, stdout: bytes | None) -> ChildFailed:
    answers = _answers(stdout or b"")
    failure.answers = answers[:-1] if failure.ending == "exception" else answers
    return failure


def _answers(stdout: bytes) -> list[Any]:
    """The lines that hold a list or an object as JSON."""
    found = []
    for line in stdout.decode(errors="replace").splitlines():
        if line.startswith(("[", "{")):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
