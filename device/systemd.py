"""Puts a unit where systemd finds it, starts it, and takes it away again; what is in a unit is not decided here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeloc.device.service import MARK, Service
from edgeloc.device.sysfs import read_text
from edgeloc.errors import DeviceError, UsageError
from edgeloc.files import atomic_path

__all__ = ["Systemctl", "install", "systemctl", "uninstall"]

Systemctl = Callable[[Sequence[str]], None]
"""Runs `systemctl` with these words; raises DeviceError when it fails."""

_OURS = Path("etc/systemd/system")
# Where a distribution's and an administrator's units lie besides.
_OTHERS = (Path("usr/lib/systemd/system"), Path("lib/systemd/system"), Path("run/systemd/system"))


def systemctl(words: Sequence[str]) -> None:
    """Run systemctl; DeviceError with its first line where it fails or this machine has none."""
    found = shutil.which("systemctl")
    if found is None:
        raise DeviceError("systemctl is not here: services need a system that runs on systemd, or use --print")
    done = subprocess.run([found, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}").rstrip(".")
        raise DeviceError(f"systemctl {' '.join(words)} failed: {said}")


def install(service: Service, control: Systemctl = systemctl, root: Path = Path("/")) -> Path:
    """Write the unit, enable it and start it anew; returns the unit's path once its first result is there.

    Raises UsageError when the name is another service's or a user's, DeviceError when systemd does
    not run here or the service does not come up: it stays installed then, and systemd tries again.
    """
    _require_systemd(root)
    _require_free(service, root)
    path = root / _OURS / service.file_name
    with atomic_path(path) as temporary:
        temporary.write_text(service.unit(), encoding="utf-8")
    # A unit that ran into its limit of starts stays refused until it is told otherwise.
    control(["daemon-reload"])
    control(["enable", service.file_name])
    control(["reset-failed", service.file_name])
    try:
        control(["restart", service.file_name])
    except DeviceError as error:
        raise DeviceError(
            f"{service.name} is installed but gave no result: {error}; `journalctl -u {service.name} -n 20` says why"
        ) from error
    return path


def uninstall(name: str, control: Systemctl = systemctl, root: Path = Path("/")) -> Path:
    """Stop the service, disable it and remove its unit; returns the unit's path. What it wrote in /var/lib is kept.

    Raises UsageError when there is none or another program wrote it.
    """
    path = root / _OURS / f"{name}.service"
    if not path.is_file():
        raise UsageError(f"there is no service {name}: {path} is not there")
    if not _is_ours(path):
        raise UsageError(f"{path} was not written by edgeloc install-service: it stays")
    _require_systemd(root)
    control(["disable", "--now", path.name])
    path.unlink()
    control(["daemon-reload"])
    return path


def _require_systemd(root: Path) -> None:
    if not (root / "run/systemd/system").is_dir():
        raise DeviceError("this system does not run on systemd: use --print, and what starts services here")


def _require_free(service: Service, root: Path) -> None:
    own = root / _OURS / service.file_name
    taken = [folder / service.file_name for folder in _OTHERS if (root / folder / service.file_name).exists()]
    if taken or (own.exists() and not _is_ours(own)):
        raise UsageError(f"the name {service.name} is another service's: give --name")
    # A dynamic user whose name is taken would be that user, with all that is theirs.
    users = [line.partition(":")[0] for line in (read_text(root / "etc/passwd") or "").splitlines()]
    if service.name in users:
        raise UsageError(f"the name {service.name} is a user's of this system: give --name")


def _is_ours(path: Path) -> bool:
    return (read_text(path) or "").startswith(MARK)
