"""Reading the small files of sysfs, with a sentence when one cannot be read; which files, each meter knows."""

from __future__ import annotations

from pathlib import Path

from edgeloc.errors import DeviceError

__all__ = ["optional_number", "read_number", "read_text"]


def read_text(path: Path) -> str:
    """The file's text without spaces around it; DeviceError names the file and the mend."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError as error:
        raise DeviceError(
            f"{path} may be read by root only: run as root, or let your group read it with "
            f"`sudo chgrp $(id -gn) {path} && sudo chmod g+r {path}` (until the next boot)"
        ) from error
    except FileNotFoundError as error:
        raise DeviceError(f"{path} is not there: the sensor or its driver is gone (`dmesg` may say why)") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DeviceError(f"{path} cannot be read ({reason}): the sensor does not answer; check its wiring") from error


def read_number(path: Path) -> float:
    """The file's one number; DeviceError where it holds something else."""
    text = read_text(path)
    try:
        return float(text)
    except ValueError:
        raise DeviceError(f"{path} holds {text[:40]!r}, which is no number: its driver failed (see `dmesg`)") from None


def optional_number(path: Path) -> float | None:
    """The file's number, None where there is no such file."""
    return read_number(path) if path.exists() else None
