"""Turns what picamera2 and libcamera say when a camera does not start into one sentence with its mend."""

from __future__ import annotations

import sys

from edgeloc.errors import first_line

__all__ = ["missing", "refused"]

_APT = "sudo apt install python3-picamera2"
_VENV = "a venv must be made with `python3 -m venv --system-site-packages`"


def missing(name: str, error: ImportError) -> str:
    """What to install, for an import that failed."""
    in_venv = sys.prefix != sys.base_prefix
    where = f"; {_VENV} to see it, with the system's own Python" if in_venv else ""
    package = (error.name or "").partition(".")[0]
    if package == "libcamera":
        return (
            f"camera {name}: picamera2 is here but libcamera's bindings for Python are not: {_APT} (Raspberry Pi OS) or"
            f" sudo apt install python3-libcamera (Debian 13; Debian 12 has none){where}"
        )
    if package in ("kms", "pykms"):
        return f"camera {name}: picamera2 does not load without pykms: sudo apt install python3-kms++{where}"
    if package == "picamera2":
        return f"camera {name} needs picamera2: {_APT} (Raspberry Pi OS){where}"
    return f"camera {name}: picamera2 does not load: {first_line(error)}: {_APT}{where}"


def refused(name: str, error: BaseException) -> str:
    """Why a camera does not open, from the error and all that caused it."""
    text = " / ".join(_chain(error))
    if "Camera(s) not found" in text or "No camera number" in text or isinstance(error, IndexError):
        return (
            f"camera {name} is not there: `rpicam-hello --list-cameras` shows what is; check the ribbon cable, and that"
            " you are in the group video (sudo usermod -aG video $USER)"
        )
    if "busy" in text.lower() or "acquire" in text:
        return (
            f"camera {name} is busy: another program holds it (rpicam-*, libcamera-* or another Python;"
            " `fuser -v /dev/media* /dev/video*` names it)"
        )
    if "dmaHeap" in text:
        return (
            f"camera {name} may not use /dev/dma_heap: add yourself to the group video (sudo usermod -aG video $USER)"
            " and log in again; it needs the kernel of Raspberry Pi OS"
        )
    if "allocate" in text:
        return (
            f"camera {name} got no memory for its frames: ask for a smaller size, or give the camera more with cma= in"
            f" config.txt ({text})"
        )
    return f"camera {name} does not start: {text}; `rpicam-hello` shows whether the camera works at all"


def _chain(error: BaseException | None) -> list[str]:
    texts: list[str] = []
    while error is not None:
        texts.append(first_line(error))
        error = error.__cause__ or error.__context__
    return texts
