"""What is told about libedgetpu without it: places, devices in sysfs, builds, crashes foretold, reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloc.device.engines.edgetpu.library import (
    LIBRARY,
    EdgeTpuPlace,
    find_edge_tpus,
    installed_build,
    predict_crash,
    why_not_opened,
)
from edgeloc.errors import UsageError

STATUS = """Package: libdrm2
Status: install ok installed
Version: 2.4.114-1+b1

Package: libedgetpu1-max
Status: deinstall ok config-files
Version: 15.0

Package: libedgetpu1-std
Status: install ok installed
Architecture: arm64
Version: {version}
Depends: libc6 (>= 2.17), libusb-1.0-0
"""


def test_a_place_is_a_device_a_library_and_options() -> None:
    assert EdgeTpuPlace.parse("") == EdgeTpuPlace("", LIBRARY, ())
    place = EdgeTpuPlace.parse("usb:1?library=/opt/libedgetpu.so.1&Performance=Low")
    assert place == EdgeTpuPlace("usb:1", "/opt/libedgetpu.so.1", (("Performance", "Low"),))
    assert place.delegate_options() == {"device": "usb:1", "Performance": "Low"}
    assert EdgeTpuPlace.parse("?library=x.so").delegate_options() == {}


@pytest.mark.parametrize("device", ["usb", "pci", ":1", "usb:0", "pci:12"])
def test_devices_are_named_as_libedgetpu_names_them(device: str) -> None:
    assert EdgeTpuPlace.parse(device).device == device


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tpu", "usb:0, pci:0 or :0"),
        ("usb:one", "usb:0, pci:0 or :0"),
        ("usb?library", "cannot be read"),
        ("usb?library=", "library is empty"),
        ("usb?library=a.so&library=b.so", "given twice"),
        ("usb?Performance=Max", "edgetpu://usb:0?Performance"),
        ("?Usb.AlwaysDfu=True", "edgetpu://usb:0?Usb.AlwaysDfu"),
    ],
)
def test_a_place_that_cannot_be_is_refused_with_what_can(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        EdgeTpuPlace.parse(text)


@pytest.mark.parametrize("ids", [("1a6e", "089a"), ("18d1", "9302")])
def test_a_stick_is_seen_before_and_after_its_firmware(ids: tuple[str, str], tmp_path: Path) -> None:
    for number, (vendor, product) in enumerate([("046d", "c52b"), ids]):
        folder = tmp_path / f"sys/bus/usb/devices/1-{number}"
        folder.mkdir(parents=True)
        (folder / "idVendor").write_text(vendor + "\n")
        (folder / "idProduct").write_text(product + "\n")
    assert find_edge_tpus(tmp_path) == ["usb"]


def test_a_card_is_seen_by_its_drivers_node(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/apex_0").touch()
    assert find_edge_tpus(tmp_path) == ["pci"]


def test_the_installed_build_is_dpkgs(tmp_path: Path) -> None:
    assert installed_build(tmp_path) is None
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(STATUS.format(version="16.0tf2.17.1-1"))
    assert installed_build(tmp_path) == "16.0tf2.17.1-1"


@pytest.mark.parametrize(
    ("build", "package", "version"),
    [
        ("16.0", "tflite-runtime", "2.14.0"),
        ("16.0", "ai-edge-litert", "2.3.0"),
        ("15.0", "tensorflow", "2.21.0"),
        ("16.0tf2.11.1", "tflite-runtime", "2.13.0"),
    ],
)
def test_a_build_that_will_crash_is_predicted_with_its_fix(build: str, package: str, version: str) -> None:
    finding = predict_crash(build, package, version)
    assert finding is not None and finding.code == "edgetpu-library-crashes"
    assert f"libedgetpu {build} is built for" in finding.message
    assert f"crashes in {package} {version}" in finding.message
    assert "github.com/feranick/libedgetpu/releases" in (finding.fix or "")


@pytest.mark.parametrize(
    ("build", "package", "version"),
    [
        (None, "ai-edge-litert", "2.3.0"),
        ("16.0", "tflite-runtime", "2.11.0"),
        ("16.0tf2.12.1", "tflite-runtime", "2.14.0"),
        ("16.0tf2.19.1-1", "ai-edge-litert", "2.3.0"),
        ("16.0tf2.17.1-1.bookworm", "tensorflow", "2.17.0"),
    ],
)
def test_no_crash_is_predicted_for_builds_that_fit(build: str | None, package: str, version: str) -> None:
    assert predict_crash(build, package, version) is None


def test_the_empty_error_is_no_stick_where_the_kernel_sees_none(tmp_path: Path) -> None:
    reason = why_not_opened(EdgeTpuPlace(), tmp_path)
    assert "no Edge TPU is connected" in reason
    assert "1a6e:089a" in reason and "gasket-dkms" in reason


@pytest.mark.parametrize("device", ["pci", "usb:1", ":1", "pci:0"])
def test_the_empty_error_is_the_wrong_device_where_there_is_another(device: str, sysfs: Path) -> None:
    assert "found are usb:0; name one of them as in edgetpu://usb:0" in why_not_opened(EdgeTpuPlace(device), sysfs)


@pytest.mark.parametrize("device", ["", "usb", "usb:0", ":0"])
def test_the_empty_error_is_use_or_permission_where_the_device_is_there(device: str, sysfs: Path) -> None:
    reason = why_not_opened(EdgeTpuPlace(device, options=(("Speed", "9"),)), sysfs)
    assert "usermod -aG plugdev" in reason and "other program" in reason and "Speed=9" in reason
