"""Google's libedgetpu, without loading it: its name, its build, its devices, and what its errors mean."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from edgeloc.device.board import find_accelerators
from edgeloc.device.sysfs import read_text
from edgeloc.errors import UsageError
from edgeloc.findings import Finding

__all__ = [
    "INSTALL",
    "LIBRARY",
    "EdgeTpuPlace",
    "find_edge_tpus",
    "installed_build",
    "predict_crash",
    "why_not_opened",
]

LIBRARY = {"darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}.get(sys.platform, "libedgetpu.so.1")
INSTALL = (
    "install libedgetpu1-std (not beside -max) of a build for a current TensorFlow, such as "
    "libedgetpu1-std_16.0tf2.19.1-1.bookworm_arm64.deb from https://github.com/feranick/libedgetpu/releases, "
    "by sudo apt install ./FILE.deb"
)
_DEVICE = re.compile(r"(usb|pci)?(:\d+)?")
# libedgetpu applies these only to a device that is named by its number.
_NEED_INDEX = ("Performance", "Usb.AlwaysDfu", "Usb.MaxBulkInQueueLength")
_DPKG_STATUS = "var/lib/dpkg/status"
# Since then, delegates that were built before crash: https://github.com/google-coral/edgetpu/issues/812
_BREAK = (2, 12)


@dataclass(frozen=True)
class EdgeTpuPlace:
    """Which Edge TPU, by which library, as in `edgetpu://usb:1?library=/opt/libedgetpu.so.1`.

    `device`: "" for any, `usb` or `pci` for any of the kind, `usb:0`, `pci:1`, `:1` for one by its number (from 0, in
    the order in which the library lists them).
    `library`: libedgetpu's path or name.
    `options`: passed to the library as they are (`Performance=Max`).
    """

    device: str = ""
    library: str = LIBRARY
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            allowed = "usb, pci, usb:0, pci:0 or :0 (with the number of the device, from 0), or empty for any"
            raise UsageError(f"Edge TPU device is {self.device!r}: it must be {allowed}")
        if not self.library:
            raise UsageError("library is empty", hint=f"give a path, or leave it out for {LIBRARY}")
        ignored = [name for name, _ in self.options if name in _NEED_INDEX and ":" not in self.device]
        if ignored:
            example = f"edgetpu://{self.device or 'usb'}:0?{ignored[0]}=..."
            raise UsageError(f"libedgetpu ignores {ignored[0]} unless the device has a number", hint=f"write {example}")

    @classmethod
    def parse(cls, text: str) -> EdgeTpuPlace:
        """Read `DEVICE?library=PATH&OPTION=VALUE`, every part of which may be absent."""
        device, _, query = text.partition("?")
        try:
            given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
            options = dict(given)
            if len(options) < len(given):
                raise ValueError("one of its options is given twice")
        except ValueError as error:
            raise UsageError(f"engine edgetpu://{text} cannot be read: {error}") from None
        library = options.pop("library", cls.library)
        return cls(device.rstrip("/"), library, tuple(options.items()))

    def delegate_options(self) -> dict[str, str]:
        """The options as the delegate takes them."""
        return {**({"device": self.device} if self.device else {}), **dict(self.options)}

    def __str__(self) -> str:
        return f"the Edge TPU {self.device}" if self.device else "the Edge TPU"


def find_edge_tpus(root: Path = Path("/")) -> list[str]:
    """The Edge TPUs that the kernel sees, `usb` or `pci` each; `root` is where sys and dev are found."""
    on_usb = [part for part in find_accelerators(root) if part.kind == "edge-tpu" and part.bus == "usb"]
    # A card counts with its driver: libedgetpu lists the driver's nodes.
    return ["usb" for _ in on_usb] + ["pci" for _ in root.glob("dev/apex_*")]


def installed_build(root: Path = Path("/")) -> str | None:
    """The Debian version of the libedgetpu package, such as `16.0tf2.19.1-1`; None where none is installed."""
    for entry in (read_text(root / _DPKG_STATUS) or "").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.*)$", entry, re.MULTILINE))
        if fields.get("Package", "").startswith("libedgetpu1-") and fields.get("Status", "").endswith(" installed"):
            return fields.get("Version")
    return None


def predict_crash(build: str | None, package: str, version: str) -> Finding | None:
    """`edgetpu-library-crashes` where this libedgetpu will crash in this runtime, else None.

    Builds for a TensorFlow before 2.12 crash in runtimes since.

    `build`: as `installed_build` returns it.
    `package`, `version`: the runtime's, such as tflite-runtime and 2.14.0.
    """
    if build is None:
        return None
    tag = re.search(r"tf(\d+)\.(\d+)", build)
    built_for = (int(tag[1]), int(tag[2])) if tag else None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    # LiteRT's versions started again at 1.0, after TensorFlow 2.17.
    new_runtime = package == "ai-edge-litert" or (numbers is not None and (int(numbers[1]), int(numbers[2])) >= _BREAK)
    if not new_runtime or (built_for is not None and built_for >= _BREAK):
        return None
    origin = f"built for TensorFlow {tag[1]}.{tag[2]}" if tag else "built for a TensorFlow of 2021"
    message = f"libedgetpu {build} is {origin} and crashes in {package} {version}"
    return Finding("edgetpu-library-crashes", "warning", message, INSTALL)


def why_not_opened(place: EdgeTpuPlace, root: Path = Path("/")) -> str:
    """The reason behind the delegate's empty error: no device, the wrong one, no permission, or one in use."""
    found = find_edge_tpus(root)
    if not found:
        return (
            "no Edge TPU is connected: plug the stick in (lsusb shows 1a6e:089a or 18d1:9302; in a container or VM it "
            "must be passed through), or for PCIe install gasket-dkms, which makes /dev/apex_0"
        )
    kind, _, number = place.device.partition(":")
    same = [name for name in found if kind in ("", name)]
    if not same or (number and int(number) >= len(same)):
        there = ", ".join(f"{name}:{found[:i].count(name)}" for i, name in enumerate(found))
        return f"{place} is not there: found are {there}; name one of them as in edgetpu://{there.split(',')[0]}"
    return (
        f"{place} is there but cannot be opened: end the other program that uses it, or get permission by "
        "sudo usermod -aG plugdev $USER (apex for PCIe), a new login, and plugging it in again; "
        f"options that it does not know have the same effect ({_given(place)})"
    )


def _given(place: EdgeTpuPlace) -> str:
    return ", ".join(f"{name}={value}" for name, value in place.options) or "none"
