"""A systemd unit with few permissions: its text, installing and removing it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeloc._support.files import atomic_path
from edgeloc.device.service.permissions import HIDDEN, Needs
from edgeloc.device.sysfs import read_text
from edgeloc.errors import DeviceError, UsageError

__all__ = ["MARK", "Service", "Systemctl", "install", "systemctl", "uninstall"]

MARK = "# Written by `edgeloc install-service`, which replaces and removes it."
# Longer than the wait for a camera that went away, so that such a run ends by itself with its files whole.
_WATCHDOG_S = 60
_START_S = 90
# TensorRT builds its plan before the first result, on a slow Jetson for many minutes.
_BUILD_S = 1800
_STOP_S = 20
_RESTART_S = 5
_MOST_STARTS, _STARTS_WITHIN_S = 10, 900
# 2 is bad input, which no restart fixes; 130 and 143 are an interrupted run over a file.
_HOPELESS, _ENDED = "2", "130 143"
_HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
PrivateTmp=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
KeyringMode=private
LimitCORE=0
UMask=0022
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM""".splitlines()
Systemctl = Callable[[Sequence[str]], None]
"""Runs `systemctl` with these words; raises DeviceError when it fails."""
_OURS = Path("etc/systemd/system")
# Where a distribution's and an administrator's units lie besides.
_OTHERS = (Path("usr/lib/systemd/system"), Path("lib/systemd/system"), Path("run/systemd/system"))


@dataclass(frozen=True, slots=True)
class Service:
    """A run as a service.

    The unit's user exists while it runs and has no permissions but the groups in `needs`. It runs in /var/lib/NAME and
    writes its files there.

    `name`: the service's.
    `command`: the whole command line, the program's absolute path first.
    `needs`: what it must reach.
    `reads`: absolute paths; those in folders that the unit hides (home folders, /tmp) are mounted read-only.
    `credentials`: files that hold secrets, by the names under which it finds them in /run/credentials.
    """

    name: str
    command: tuple[str, ...]
    needs: Needs
    reads: tuple[Path, ...] = ()
    credentials: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A dynamic user takes the unit's name, and a user's name has at most 31 characters.
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", self.name):
            allowed = "1 to 31 lower-case letters, digits, - and _, the first a letter"
            raise UsageError(field="name", value=self.name, allowed=allowed)
        if not self.command or not Path(self.command[0]).is_absolute():
            raise UsageError(f"the service's command is {self.command}: it must begin with a program's absolute path")

    @property
    def file_name(self) -> str:
        """What systemd calls the unit."""
        return f"{self.name}.service"

    @property
    def state(self) -> Path:
        """The folder that the service writes to."""
        return Path("/var/lib") / self.name

    def unit(self) -> str:
        """The unit file's text."""
        sections = {"Unit": self._unit(), "Service": self._service(), "Install": iter(["WantedBy=multi-user.target"])}
        body = "\n\n".join("\n".join([f"[{title}]", *lines]) for title, lines in sections.items())
        return f"{MARK}\n{body}\n"

    def _unit(self) -> Iterator[str]:
        yield "Description=edgeloc, localizing what a camera sees"
        online = ["network-online.target"] if self.needs.network == "all" else []
        if online:
            yield f"Wants={online[0]}"
        if after := [*self.needs.after, *online]:
            yield f"After={' '.join(after)}"
        yield f"StartLimitIntervalSec={_STARTS_WITHIN_S}"
        yield f"StartLimitBurst={_MOST_STARTS}"

    def _service(self) -> Iterator[str]:
        yield "Type=notify"
        yield f"ExecStart={' '.join(quoted(word) for word in self.command)}"
        yield f"WatchdogSec={_WATCHDOG_S}"
        yield f"TimeoutStartSec={_BUILD_S if self.needs.builds else _START_S}"
        yield f"TimeoutStopSec={_STOP_S}"
        yield "Restart=on-failure"
        yield f"RestartSec={_RESTART_S}"
        yield f"RestartPreventExitStatus={_HOPELESS}"
        yield f"SuccessExitStatus={_ENDED}"
        yield "DynamicUser=yes"
        if self.needs.groups:
            yield f"SupplementaryGroups={' '.join(self.needs.groups)}"
        # Its user has no home folder to keep in what was learnt of a model: that it loads without harm, and a plan.
        yield f"CacheDirectory={self.name}"
        yield f"Environment=XDG_CACHE_HOME=/var/cache/{self.name}"
        # glibc gives each thread an arena of its own, in which what was freed stays: memory creeps up for a while.
        yield "Environment=MALLOC_ARENA_MAX=2"
        yield f"StateDirectory={self.name}"
        yield f"WorkingDirectory={self.state}"
        if self.needs.runtime:
            yield f"RuntimeDirectory={self.name}"
        for name, path in self.credentials.items():
            yield f"LoadCredential={name}:{_plain(str(path))}"
        yield "DevicePolicy=closed"
        yield from (f"DeviceAllow={device} rw" for device in self.needs.devices)
        yield from self._network()
        yield from self._files()
        yield from _HARDENING
        if not self.needs.makes_code:
            yield "MemoryDenyWriteExecute=yes"

    def _network(self) -> Iterator[str]:
        network = self.needs.network
        families = ["AF_UNIX", "AF_NETLINK", *(["AF_INET", "AF_INET6"] if network != "none" else [])]
        yield f"RestrictAddressFamilies={' '.join(families)}"
        if network == "none":
            yield "PrivateNetwork=yes"
        elif network == "loopback":
            yield "IPAddressDeny=any"
            yield "IPAddressAllow=localhost"

    def _files(self) -> Iterator[str]:
        """Home folders are empty for the service; what it reads in them appears there, whatever their rights."""
        shown = sorted({path for path in self.reads if any(path.is_relative_to(folder) for folder in HIDDEN)})
        inner = {path for path in shown if any(other in path.parents for other in shown)}
        yield "ProtectHome=tmpfs" if shown else "ProtectHome=yes"
        yield from (f"BindReadOnlyPaths={quoted(str(path), variables=False)}" for path in shown if path not in inner)
        yield from (f"BindPaths=-{path}" for path in self.needs.sockets)


def quoted(word: str, *, variables: bool = True) -> str:
    """One word of a unit's line, quoted as in systemd.syntax(7): nothing in it is a specifier or a variable.

    `word`: the text.
    `variables`: whether $ means a variable in this line, as it does in command lines only.
    """
    escaped = _plain(word.replace("\\", "\\\\").replace('"', '\\"'))
    escaped = escaped.replace("$", "$$") if variables else escaped
    return f'"{escaped}"' if not word or re.search(r"[\s\"'\\;:]", word) else escaped


def _plain(text: str) -> str:
    """The rest of a unit's line, where no quotes are read."""
    if any(not character.isprintable() for character in text):
        raise UsageError(f"{text!r} holds a character that a systemd unit cannot hold", hint="rename it")
    return text.replace("%", "%%")


def systemctl(words: Sequence[str]) -> None:
    """Run systemctl; DeviceError with its first line where it fails or this machine has none."""
    found = shutil.which("systemctl")
    if found is None:
        hint = "use {print}, and what starts services here"
        raise DeviceError("systemctl is not installed: services need systemd", hint=hint)
    done = subprocess.run([found, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        reason = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}").rstrip(".")
        raise DeviceError(f"systemctl {' '.join(words)} failed: {reason}")


def install(service: Service, control: Systemctl = systemctl, root: Path = Path("/")) -> Path:
    """Write the unit, enable it and start it again; returns the unit's path once its first result is there.

    Raises UsageError when the name is another service's or a user's, DeviceError when systemd does
    not run here or the service does not come up: it stays installed then, and systemd tries again.
    """
    _require_systemd(root)
    _require_free(service, root)
    path = root / _OURS / service.file_name
    with atomic_path(path) as temporary:
        temporary.write_text(service.unit(), encoding="utf-8")
    # A unit that reached its limit of starts is refused until it is reset.
    control(["daemon-reload"])
    control(["enable", service.file_name])
    control(["reset-failed", service.file_name])
    try:
        control(["restart", service.file_name])
    except DeviceError as error:
        raise DeviceError(
            f"{service.name} is installed but gave no result: {error}",
            hint=f"`journalctl -u {service.name} -n 20` shows why",
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
        hint = "use {print}, and what starts services here"
        raise DeviceError("this system does not run on systemd", hint=hint)


def _require_free(service: Service, root: Path) -> None:
    own = root / _OURS / service.file_name
    taken = [folder / service.file_name for folder in _OTHERS if (root / folder / service.file_name).exists()]
    if taken or (own.exists() and not _is_ours(own)):
        raise UsageError(f"the name {service.name} is another service's", hint="give {name}")
    # A dynamic user whose name is taken would be that user, with all that is theirs.
    users = [line.partition(":")[0] for line in (read_text(root / "etc/passwd") or "").splitlines()]
    if service.name in users:
        raise UsageError(f"the name {service.name} is a user's of this system", hint="give {name}")


def _is_ours(path: Path) -> bool:
    return (read_text(path) or "").startswith(MARK)
