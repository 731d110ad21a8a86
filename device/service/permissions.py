"""What a run has to reach, by its camera, engine and sinks: devices, groups, the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from edgeloc.cameras.base import parse_uri
from edgeloc.device.board import find_accelerators
from edgeloc.device.sysfs import read_text
from edgeloc.engines import is_for_edge_tpu

__all__ = ["HIDDEN", "Needs", "Network", "needs_of"]

Network = Literal["none", "loopback", "all"]
_REACH: tuple[Network, ...] = ("none", "loopback", "all")
HIDDEN = tuple(Path(path) for path in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))
_ARGUS_SOCKET = str(Path("/tmp") / "argus_socket")
_NODE = re.compile(r"/dev/[\w./:+-]+")
_NETWORK = ("http", "https", "mavlink", "mqtt", "mqtts", "ros2", "rtsp", "rtsps", "tcp", "udp")
# A Jetson's drivers of its camera and its GPU; which of them there are differs between JetPacks.
_JETSON_NODES = ("nvhost*", "nvmap", "nvgpu/*/*", "nvidia*", "nvsciipc", "dri/render*")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run has to reach.

    `devices`: device nodes, or classes of them such as `char-video4linux`.
    `groups`: the system's groups that may use them.
    `sockets`: of other programs.
    `after`: systemd's units to start after.
    `network`: whether it talks to programs on this machine by network addresses, or to other machines.
    `runtime`: whether it has a socket in /run, in a folder of its own.
    `makes_code`: whether a library writes machine code at run time, or may do so.
    `builds`: whether the first start builds an engine for minutes, which is to be kept.
    """

    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    network: Network = "none"
    runtime: bool = False
    makes_code: bool = False
    builds: bool = False

    def __or__(self, other: Needs) -> Needs:
        """The needs of both, each once."""
        return Needs(
            devices=_once(self.devices + other.devices),
            groups=_once(self.groups + other.groups),
            sockets=_once(self.sockets + other.sockets),
            after=_once(self.after + other.after),
            network=max(self.network, other.network, key=_REACH.index),
            runtime=self.runtime or other.runtime,
            makes_code=self.makes_code or other.makes_code,
            builds=self.builds or other.builds,
        )


# A class of nodes and not one node: a camera that is plugged in again may come back under another number.
_V4L2 = Needs(("char-video4linux",), ("video",))
_LIBCAMERA = Needs(("char-video4linux", "char-media", "char-dma_heap"), ("video",), makes_code=True)
_USB_TPU = Needs(("char-usb_device",), ("plugdev",), makes_code=True)
_GSTREAMER = Needs(network="all", makes_code=True)
_VIDEO_FILE = Needs(makes_code=True)


def needs_of(camera: str, engine: str, model: Path, sinks: Sequence[str], root: Path = Path("/")) -> Needs:
    """What `edgeloc run` with these arguments has to reach; groups only where the machine has them.

    `camera`, `engine`, `model`, `sinks`: as on the command line of a run.
    `root`: where the machine's dev, etc and sys are found.

    Raises UsageError for a camera that is no URI.
    """
    total = _camera(camera, root) | _engine(engine, model, root)
    for sink in sinks:
        total |= _sink(sink, root)
    # systemd refuses to start a unit of a group that is not there.
    known = _groups(root).values()
    return replace(total, groups=tuple(group for group in total.groups if group in known))


def _once(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _camera(text: str, root: Path) -> Needs:
    uri = parse_uri(text)
    if uri.scheme == "v4l2" or (not uri.scheme and uri.path.startswith("/dev/video")):
        return _V4L2
    if uri.scheme == "picamera":
        return _LIBCAMERA
    if uri.scheme == "csi":
        return _argus(root)
    if uri.scheme in _NETWORK:
        return Needs(network=_reach(text), makes_code=True)
    if uri.scheme in ("synthetic", "fake"):
        return Needs()
    # Of a pipeline, and of another package's camera, only the nodes that the text names are known.
    nodes = tuple(_NODE.findall(text))
    needs = (_GSTREAMER if uri.scheme == "gst" else _VIDEO_FILE) | Needs(nodes, _owners(nodes, root))
    return needs | _argus(root) if uri.scheme == "gst" and "nvargus" in text else needs


def _sink(text: str, root: Path) -> Needs:
    nodes, scheme = tuple(_NODE.findall(text)), _scheme(text)
    if nodes:
        # A serial port's group, also while nothing is plugged in.
        return Needs(nodes, (*_owners(nodes, root), *(["dialout"] if scheme == "mavlink" else [])))
    return Needs(network=_reach(text) if scheme in _NETWORK else "none", runtime=scheme == "unix")


def _reach(uri: str) -> Network:
    """How far the address in a URI is; without one it listens to everybody."""
    host = urlsplit(uri).hostname or ""
    try:
        near = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        near = False
    return "loopback" if near else "all"


def _engine(name: str, model: Path, root: Path) -> Needs:
    if name == "tensorrt" or (name == "auto" and model.suffix.lower() == ".onnx"):
        return replace(_jetson(root), builds=True)
    if not name.startswith("edgetpu") and not (model.is_file() and is_for_edge_tpu(model.read_bytes())):
        return Needs()
    # Before its firmware is loaded a stick has another number on the bus than after: all of USB, not one node.
    plugged = [found for found in find_accelerators(root) if found.kind == "edge-tpu"]
    nodes = tuple(found.node for found in plugged if found.bus == "pci" and found.node)
    on_pci = Needs(nodes, ("apex",), makes_code=True)
    return on_pci if nodes and all(found.bus == "pci" for found in plugged) else _USB_TPU | on_pci


def _argus(root: Path) -> Needs:
    """NVIDIA's camera daemon has its socket in /tmp, and the unit has a /tmp of its own."""
    return _jetson(root) | Needs(sockets=(_ARGUS_SOCKET,), after=("nvargus-daemon.service",))


def _jetson(root: Path) -> Needs:
    found = sorted(path for pattern in _JETSON_NODES for path in (root / "dev").glob(pattern) if not path.is_dir())
    nodes = tuple(f"/{path.relative_to(root)}" for path in found)
    return Needs(nodes, ("video", "render"), makes_code=True)


def _scheme(text: str) -> str:
    scheme, colon, _ = text.partition("://")
    return scheme.lower() if colon else ""


def _groups(root: Path) -> dict[int, str]:
    rows = (line.split(":") for line in (read_text(root / "etc/group") or "").splitlines())
    return {int(row[2]): row[0] for row in rows if len(row) > 2 and row[2].isdecimal()}


def _owners(nodes: Iterable[str], root: Path) -> tuple[str, ...]:
    """The groups that may use these nodes, but for root's own."""
    paths = (root / node.lstrip("/") for node in nodes)
    numbers = {path.stat().st_gid for path in paths if path.exists()} - {0}
    names = _groups(root)
    return tuple(names[number] for number in sorted(numbers) if number in names)
