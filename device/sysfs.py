"""The kernel's small text files, and the output of a board's own tools.

`read_...` returns None for what cannot be read: on many boards a file is absent. `require_...` raises DeviceError: the
file is a sensor that is in use.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeloc.errors import DeviceError

__all__ = [
    "Run",
    "natural",
    "no_tool",
    "read_int",
    "read_text",
    "read_words",
    "require_number",
    "require_text",
    "run_tool",
]

Run = Callable[[Sequence[str]], "str | None"]
"""Runs a command and returns what it printed, or None where it is missing, fails or does not end."""
_TOOL_TIMEOUT_S = 5.0
# Tools that are not on every user's PATH.
_TOOL_FOLDERS = ("/opt/vc/bin", "/usr/sbin", "/sbin")


def read_text(path: Path) -> str | None:
    """The file's text without blanks around it; None where there is none or it cannot be read."""
    try:
        return _text(path) or None
    except OSError:  # also of a sensor that is switched off
        return None


def read_words(path: Path) -> tuple[str, ...]:
    """The NUL-separated strings of a device tree's list, such as `compatible`."""
    return tuple(word for word in (read_text(path) or "").split("\0") if word)


def read_int(path: Path) -> int | None:
    """The file's one whole number; None where there is none."""
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def natural(path: Path) -> list[tuple[bool, int | str]]:
    """A key that sorts cpu10 behind cpu9."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", path.name) if part]


def run_tool(command: Sequence[str]) -> str | None:
    """What a command prints; None where it is missing, fails or does not end within a few seconds."""
    found = shutil.which(command[0]) or next(
        (found for folder in _TOOL_FOLDERS if (found := shutil.which(command[0], path=folder))), None
    )
    if found is None:
        return None
    try:
        done = subprocess.run(
            [found, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def no_tool(command: Sequence[str]) -> str | None:
    """A board without tools, for a folder that only looks like a board."""
    return None


def require_text(path: Path) -> str:
    """The file's text without blanks around it; DeviceError where it cannot be read."""
    try:
        return _text(path)
    except PermissionError as error:
        hint = (
            f"run as root, or let your group read it with `sudo chgrp $(id -gn) {path} && sudo chmod g+r {path}` "
            "(until the next boot)"
        )
        raise DeviceError(f"{path} may be read by root only", hint=hint) from error
    except FileNotFoundError as error:
        gone = f"{path} is not there: the sensor or its driver is gone"
        raise DeviceError(gone, hint="see `dmesg` for the reason") from error
    except OSError as error:
        failed = f"{path} cannot be read ({error.strerror or error}): the sensor does not answer"
        raise DeviceError(failed, hint="check its wiring") from error


def require_number(path: Path) -> float:
    """The file's one number; DeviceError where it holds something else."""
    text = require_text(path)
    try:
        return float(text)
    except ValueError:
        failed = f"{path} holds {text[:40]!r}, which is no number: its driver failed"
        raise DeviceError(failed, hint="see `dmesg` for the reason") from None


def _text(path: Path) -> str:
    """The text without blanks, and without the NUL that ends a device tree's string."""
    return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
