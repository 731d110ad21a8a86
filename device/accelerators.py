"""Accelerators that are plugged in or built in, found by their USB and PCIe ids; none of them is opened or used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeloc.device.sysfs import natural, read_int, read_text

__all__ = ["Accelerator", "find_accelerators"]

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
class Accelerator:
    """One accelerator: `kind` is edge-tpu, hailo or nvidia-gpu; `bus` usb, pci or soc.

    `device_id` is vendor:product, `place` the name under the bus in sysfs, `node` the file in /dev
    by which a program reaches it, where one is known; `note` what is particular about its state.
    """

    kind: str
    name: str
    bus: str
    device_id: str | None = None
    place: str | None = None
    node: str | None = None
    note: str | None = None


def find_accelerators(root: Path = Path("/"), family: str = "other") -> tuple[Accelerator, ...]:
    """All of them; `family` is the board's, since a Jetson's GPU hangs on no bus."""
    found = [*_on_usb(root), *_on_pci(root)]
    if family == "jetson":
        found.append(Accelerator("nvidia-gpu", "Jetson's GPU", "soc"))
    return tuple(found)


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
    """The driver knows the card's name; without a driver it has none."""
    text = read_text(root / "proc/driver/nvidia/gpus" / device.name / "information") or ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model:")]
    note = None if names else "the NVIDIA driver is not loaded"
    return Accelerator("nvidia-gpu", names[0] if names else "NVIDIA GPU", "pci", number, device.name, note=note)


def _listing(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
