"""Boards by name: how a device tree or a PC's firmware says what it is; what is on the board is read elsewhere."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from edgeloc.device.cores import cpu_model
from edgeloc.device.sysfs import read_text, read_words

__all__ = ["Identity", "identify"]

# NVIDIA's part numbers of modules, as they stand in `compatible`; the more special first. Model strings
# differ between JetPack and the mainline kernel, part numbers don't.
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
# What firmware says where nobody filled it in.
_NO_NAMES = ("default string", "not applicable", "o.e.m", "system manufacturer", "system product", "undefined")


@dataclass(frozen=True, slots=True)
class Identity:
    """Name and family of a board, and the strings they come from."""

    name: str
    family: str
    model: str | None = None
    compatible: tuple[str, ...] = ()
    revision: str | None = None


def identify(root: Path) -> Identity:
    """Find the board's name; one that is not known goes by its own model string."""
    model = read_text(root / "proc/device-tree/model")
    compatible = read_words(root / "proc/device-tree/compatible")
    if model is None and not compatible:
        return _pc(root)
    name, family = _known(model or "", compatible)
    return Identity(name, family, model, compatible, _revision(root, model))


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
    """Of the circuit board: what a Pi's model string ends in, else the code in its cpuinfo."""
    match = re.search(r" Rev ([\d.]+)$", model or "")
    if match:
        return match[1]
    match = re.search(r"^Revision\s*:\s*(\w+)", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return match[1] if match else None


def _pc(root: Path) -> Identity:
    """A machine without a device tree: its maker's name for it, else its processor's."""
    dmi = root / "sys/class/dmi/id"
    vendor, product = _told(dmi / "sys_vendor"), _told(dmi / "product_name")
    if product:
        named = product if not vendor or product.startswith(vendor.split()[0]) else f"{vendor} {product}"
        return Identity(named, "pc")
    machine = read_text(root / "proc/sys/kernel/arch") or platform.machine()
    name = " ".join(["PC" if machine in ("x86_64", "i686") else "unknown board", f"({cpu_model(root) or machine})"])
    return Identity(name, "pc" if machine in ("x86_64", "i686") else "other")


def _told(path: Path) -> str | None:
    text = read_text(path)
    return None if text is None or any(word in text.lower() for word in _NO_NAMES) else text
