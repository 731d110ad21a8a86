"""Which board this is, and what it has: name, cores, system, runtimes, accelerators."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeloc.device.cpu import Cluster, cpu_model, read_clusters
from edgeloc.device.sysfs import natural, read_int, read_text, read_words

__all__ = ["Accelerator", "Board", "Identity", "find_accelerators", "identify", "memory_mib", "read_board"]

# Part numbers of NVIDIA's modules as in `compatible`, the more specific first. Model strings differ between
# JetPack and the mainline kernel, part numbers don't.
_JETSON_MODULES = (
    ("p3834", "Jetson Thor"),
    ("p3701", "Jetson AGX Orin"),
    ("p3767-0000", "Jetson Orin NX"),
    ("p3767-0001", "Jetson Orin NX"),
    ("p3767", "Jetson Orin Nano"),
    ("p3668", "Jetson Xavier NX"),
    ("p2888", "Jetson AGX Xavier"),
    ("p2972", "Jetson AGX Xavier"),
    ("p3636", "Jetson TX2 NX"),
    ("p3489", "Jetson TX2i"),
    ("p3310", "Jetson TX2"),
    ("p2771", "Jetson TX2"),
    ("p3448-0003", "Jetson Nano 2GB"),
    ("p3542", "Jetson Nano 2GB"),
    ("p3448", "Jetson Nano"),
    ("p3450", "Jetson Nano"),
    ("jetson-nano", "Jetson Nano"),
    ("p2371", "Jetson TX1"),
)
_CORAL = (("Phanbell", "Coral Dev Board"), ("Excelsior", "Coral Dev Board Mini"), ("MT8167", "Coral Dev Board Mini"))
# What firmware holds where nobody filled it in.
_NO_NAMES = ("default string", "not applicable", "o.e.m", "system manufacturer", "system product", "undefined")
# What a localizer may run on or through.
_PACKAGES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "ai-edge-litert",
    "tflite-runtime",
    "tensorflow",
    "tensorrt",
    "picamera2",
    "PyGObject",
    "smbus2",
    "pyserial",
)
_UNLOADED = "its firmware is not loaded yet: the first use does that"
_USB = {
    "1a6e:089a": ("edge-tpu", "Coral USB Accelerator", _UNLOADED),
    "18d1:9302": ("edge-tpu", "Coral USB Accelerator", None),
}
_PCI = {
    "1ac1:089a": ("edge-tpu", "Coral PCIe or M.2 Accelerator"),
    "1e60:2864": ("hailo", "Hailo-8"),
    "1e60:45c4": ("hailo", "Hailo-10H"),
}
_NVIDIA, _DISPLAY_CLASS = "10de", "0x03"


@dataclass(frozen=True, slots=True)
class Identity:
    """Name and family of a board, and the strings they come from."""

    name: str
    family: str
    model: str | None = None
    compatible: tuple[str, ...] = ()
    revision: str | None = None


def identify(root: Path) -> Identity:
    """Find the board's name; an unknown board goes by its own model string."""
    model = read_text(root / "proc/device-tree/model")
    compatible = read_words(root / "proc/device-tree/compatible")
    if model is None and not compatible:
        return _pc(root)
    name, family = _known(model or "", compatible)
    return Identity(name, family, model, compatible, _revision(root, model))


@dataclass(frozen=True, slots=True)
class Board:
    """A board and its software; None or empty is what it does not report.

    Parameters:
        name: the product's, such as "Raspberry Pi 5 Model B" or "Jetson Orin Nano".
        family: raspberry-pi, jetson, coral, pc or other.
        model: the device tree's own name.
        compatible: the device tree's own identifiers.
        revision: the circuit board's.
        cpu: the processor's name, or the designs of its cores.
        machine: the kernel's architecture, such as aarch64.
        clusters: the cores that are switched on, the fastest first.
        memory_mib: all of it, in MiB.
        os: the system's name.
        kernel: its release.
        l4t: the version of NVIDIA's board support package.
        python: the running Python's version.
        python_bits: 32 where a 32-bit Python runs on a 64-bit kernel.
        packages: versions of the installed packages that matter here, by name.
        accelerators: what is plugged in or built in.
    """

    name: str
    family: str
    model: str | None
    compatible: tuple[str, ...]
    revision: str | None
    cpu: str | None
    machine: str
    clusters: tuple[Cluster, ...]
    memory_mib: int | None
    os: str | None
    kernel: str | None
    l4t: str | None
    python: str
    python_bits: int
    packages: dict[str, str] = field(default_factory=dict)
    accelerators: tuple[Accelerator, ...] = ()

    @property
    def cores(self) -> int:
        """How many processors are switched on."""
        return sum(len(cluster.cpus) for cluster in self.clusters)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values for JSON."""
        return asdict(self)


def read_board(root: Path = Path("/")) -> Board:
    """Read the board from the proc, sys and etc under `root`; Python and its packages are the running ones.

    Never fails: what cannot be read is None.
    """
    found = identify(root)
    return Board(
        name=found.name,
        family=found.family,
        model=found.model,
        compatible=found.compatible,
        revision=found.revision,
        cpu=cpu_model(root),
        machine=read_text(root / "proc/sys/kernel/arch") or platform.machine(),
        clusters=read_clusters(root),
        memory_mib=memory_mib(root, "MemTotal"),
        os=_os_name(root),
        kernel=read_text(root / "proc/sys/kernel/osrelease"),
        l4t=_l4t(root),
        python=platform.python_version(),
        python_bits=64 if sys.maxsize > 2**32 else 32,
        packages=_packages(),
        accelerators=find_accelerators(root, found.family),
    )


def memory_mib(root: Path, name: str) -> int | None:
    """A line of /proc/meminfo, such as MemTotal or MemAvailable, in MiB."""
    match = re.search(rf"^{name}:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) // 1024 if match else None


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One accelerator that is plugged in or built in.

    Parameters:
        kind: edge-tpu, hailo or nvidia-gpu.
        name: the product's.
        bus: usb, pci or soc.
        device_id: vendor:product.
        place: its name under the bus in sysfs.
        node: the file in /dev by which programs reach it, where it is known.
        note: what is particular about its state.
    """

    kind: str
    name: str
    bus: str
    device_id: str | None = None
    place: str | None = None
    node: str | None = None
    note: str | None = None


def find_accelerators(root: Path = Path("/"), family: str = "other") -> tuple[Accelerator, ...]:
    """All accelerators, found by their USB and PCIe ids; none is opened. A Jetson's GPU, on no bus, by the `family`."""
    found = [*_on_usb(root), *_on_pci(root)]
    if family == "jetson":
        found.append(Accelerator("nvidia-gpu", "Jetson's GPU", "soc"))
    return tuple(found)


def _known(model: str, compatible: tuple[str, ...]) -> tuple[str, str]:
    if model.startswith("Raspberry Pi"):
        return re.sub(r" Rev [\d.]+$", "", model), "raspberry-pi"
    everything = " ".join(compatible)
    if "nvidia,tegra" in everything or "nvidia,jetson" in everything:
        found = next((name for part, name in _JETSON_MODULES if part in everything), model or "Jetson")
        return f"{found} Super" if "-super" in everything else found, "jetson"
    for mark, name in _CORAL:
        if mark.lower() in f"{model} {everything}".lower() and ("coral" in model.lower() or mark != "MT8167"):
            return name, "coral"
    return model or next(iter(compatible), "unknown board"), "other"


def _revision(root: Path, model: str | None) -> str | None:
    """The circuit board's revision: from a Pi's model string, else the code in its cpuinfo."""
    match = re.search(r" Rev ([\d.]+)$", model or "")
    if match:
        return match[1]
    match = re.search(r"^Revision\s*:\s*(\w+)", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return match[1] if match else None


def _pc(root: Path) -> Identity:
    """A machine without a device tree, named by its maker, else by its processor."""
    dmi = root / "sys/class/dmi/id"
    vendor, product = _filled_in(dmi / "sys_vendor"), _filled_in(dmi / "product_name")
    if product:
        named = product if not vendor or product.startswith(vendor.split()[0]) else f"{vendor} {product}"
        return Identity(named, "pc")
    machine = read_text(root / "proc/sys/kernel/arch") or platform.machine()
    name = " ".join(["PC" if machine in ("x86_64", "i686") else "unknown board", f"({cpu_model(root) or machine})"])
    return Identity(name, "pc" if machine in ("x86_64", "i686") else "other")


def _filled_in(path: Path) -> str | None:
    text = read_text(path)
    return None if text is None or any(word in text.lower() for word in _NO_NAMES) else text


def _os_name(root: Path) -> str | None:
    text = read_text(root / "etc/os-release") or read_text(root / "usr/lib/os-release") or ""
    match = re.search(r"^PRETTY_NAME=(.*)$", text, re.MULTILINE)
    return match[1].strip("\"'") or None if match else None


def _l4t(root: Path) -> str | None:
    """`# R36 (release), REVISION: 4.3, GCID: ...` is L4T 36.4.3."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release") or "")
    return f"{match[1]}.{match[2]}" if match else None


def _packages() -> dict[str, str]:
    """Versions from the packages' metadata; nothing is imported, since a broken package can end the process."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _on_usb(root: Path) -> Iterator[Accelerator]:
    for device in sorted(_listing(root / "sys/bus/usb/devices"), key=natural):
        number = f"{read_text(device / 'idVendor')}:{read_text(device / 'idProduct')}"
        if number in _USB:
            kind, name, note = _USB[number]
            yield Accelerator(kind, name, "usb", number, device.name, _usb_node(device), note)


def _usb_node(device: Path) -> str | None:
    bus, address = read_int(device / "busnum"), read_int(device / "devnum")
    return None if bus is None or address is None else f"/dev/bus/usb/{bus:03}/{address:03}"


def _on_pci(root: Path) -> Iterator[Accelerator]:
    counts: dict[str, int] = {}
    for device in sorted(_listing(root / "sys/bus/pci/devices"), key=natural):
        vendor, product = ((read_text(device / name) or "").removeprefix("0x").lower() for name in ("vendor", "device"))
        number = f"{vendor}:{product}"
        if number in _PCI:
            kind, name = _PCI[number]
            stem = "apex_" if kind == "edge-tpu" else "hailo"
            counts[stem] = counts.get(stem, -1) + 1
            yield Accelerator(kind, name, "pci", number, device.name, f"/dev/{stem}{counts[stem]}")
        elif vendor == _NVIDIA and (read_text(device / "class") or "").startswith(_DISPLAY_CLASS):
            yield _gpu(root, device, number)


def _gpu(root: Path, device: Path, number: str) -> Accelerator:
    """Only the driver knows the card's name."""
    text = read_text(root / "proc/driver/nvidia/gpus" / device.name / "information") or ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model:")]
    note = None if names else "the NVIDIA driver is not loaded"
    return Accelerator("nvidia-gpu", names[0] if names else "NVIDIA GPU", "pci", number, device.name, note=note)


def _listing(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
