"""Tries a few lines of Python in a process of their own, since what they load may end the process that loads it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["Crash", "try_program"]

# -c puts the current folder first on the path, where a file may bear the name of a package.
_NOT_FROM_HERE = "import sys; sys.path[:] = [folder for folder in sys.path if folder]\n"
# Long: an emulated or loaded board takes minutes for what takes a second elsewhere.
_TIMEOUT_S = 120.0


class Crash(Exception):
    """A program was ended by a signal, did not end, or said nothing; the text goes on "it ..."."""


def try_program(program: str, *arguments: str, command: Sequence[str] = ()) -> list[Any]:
    """Run `program`, which prints a JSON list as its last line, and return that list.

    `command` is what runs a program given by -c: this Python, unless told otherwise. Raises Crash.
    """
    line = [*(command or (sys.executable,)), "-c", _NOT_FROM_HERE + program, *arguments]
    try:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise Crash(f"did not end within {_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise Crash(f"could not be started: {error.strerror or error}") from error
    if done.returncode < 0:
        raise Crash(f"ended its process by {signal.Signals(-done.returncode).name}")
    try:
        return list(json.loads(_last_line(done.stdout)))
    except (TypeError, ValueError) as error:
        said = _last_line(done.stderr) or "it said nothing of use"
        raise Crash(f"ended with status {done.returncode}: {said}") from error


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
