"""Boards are named from what their device trees and firmware say, on folders that look like them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.device.board import read_board

MakeTree = Callable[[dict[str, str]], Path]


def test_a_raspberry_pi(pi5: Path) -> None:
    board = read_board(pi5)
    assert (board.name, board.family, board.revision) == ("Raspberry Pi 5 Model B", "raspberry-pi", "1.0")
    assert board.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert board.compatible == ("raspberrypi,5-model-b", "brcm,bcm2712")
    assert board.cpu == "Cortex-A76"
    assert [(cluster.numbers, cluster.core, cluster.max_mhz) for cluster in board.clusters] == [
        ("0-3", "Cortex-A76", 2400)
    ]
    assert board.memory_mib == 8053
    assert (board.os, board.kernel, board.machine) == (
        "Debian GNU/Linux 12 (bookworm)",
        "6.6.51+rpt-rpi-2712",
        "aarch64",
    )


def test_a_jetson_by_its_module_and_its_support_package(orin_nano: Path) -> None:
    board = read_board(orin_nano)
    assert (board.name, board.family, board.l4t) == ("Jetson Orin Nano Super", "jetson", "36.4.3")
    assert [(part.kind, part.bus) for part in board.accelerators] == [("nvidia-gpu", "soc")]


@pytest.mark.parametrize(
    ("model", "compatible", "name"),
    [
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberrypi,3-model-b-plus", "Raspberry Pi 3 Model B Plus"),
        ("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b", "Raspberry Pi 4 Model B"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberrypi,model-zero-2-w", "Raspberry Pi Zero 2 W"),
        ("Raspberry Pi Compute Module 5 Rev 1.0", "raspberrypi,5-compute-module", "Raspberry Pi Compute Module 5"),
        ("NVIDIA Jetson Nano Developer Kit", "nvidia,p3450-0000\0nvidia,tegra210", "Jetson Nano"),
        ("jetson-nano", "nvidia,p3449-0000-b00+p3448-0000-b00\0nvidia,jetson-nano\0nvidia,tegra210", "Jetson Nano"),
        ("quill", "nvidia,p2771-0000\0nvidia,tegra186", "Jetson TX2"),
        ("NVIDIA Jetson Xavier NX", "nvidia,p3449-0000+p3668-0000\0nvidia,tegra194", "Jetson Xavier NX"),
        ("Jetson-AGX", "nvidia,p2972-0000\0nvidia,tegra194", "Jetson AGX Xavier"),
        ("NVIDIA Orin NX Developer Kit", "nvidia,p3768-0000+p3767-0000\0nvidia,tegra234", "Jetson Orin NX"),
        ("NVIDIA Orin Nano", "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234", "Jetson Orin Nano"),
        ("AGX Orin as NX", "nvidia,p3737-0000+p3701-0000-as-p3767-0000\0nvidia,tegra234", "Jetson AGX Orin"),
        ("A carrier of ours", "us,carrier\0nvidia,tegra234", "A carrier of ours"),
        ("Freescale i.MX8MQ Phanbell", "google,imx8mq-phanbell\0fsl,imx8mq", "Coral Dev Board"),
        ("Google Coral MT8167", "google,coral\0mediatek,mt8167", "Coral Dev Board Mini"),
        ("Pumpkin MT8167", "mediatek,mt8167-pumpkin\0mediatek,mt8167", "Pumpkin MT8167"),
        ("Radxa ROCK 5B", "radxa,rock-5b\0rockchip,rk3588", "Radxa ROCK 5B"),
    ],
)
def test_names(make_tree: MakeTree, model: str, compatible: str, name: str) -> None:
    tree = {"proc/device-tree/model": f"{model}\0", "proc/device-tree/compatible": f"{compatible}\0"}
    assert read_board(make_tree(tree)).name == name


def test_a_pc_by_its_firmware(pc: Path) -> None:
    board = read_board(pc)
    assert (board.name, board.family, board.model) == ("LENOVO 21CB0000GE", "pc", None)
    assert board.cpu == "Intel(R) Core(TM) i5-1240P"
    assert [(cluster.cpus, cluster.max_mhz) for cluster in board.clusters] == [((0, 1, 2, 3), 4400)]


def test_a_pc_whose_maker_told_nothing_goes_by_its_processor(pc: Path, make_tree: MakeTree) -> None:
    make_tree({"sys/class/dmi/id/product_name": "To Be Filled By O.E.M.\n"})
    assert read_board(pc).name == "PC (Intel(R) Core(TM) i5-1240P)"


def test_big_cores_come_first(big_little: Path) -> None:
    big, little = read_board(big_little).clusters
    assert (big.numbers, big.core, big.max_mhz) == ("4-5", "Cortex-A72", 1800)
    assert (little.numbers, little.core) == ("0-3", "Cortex-A53")


def test_an_empty_folder_is_an_unknown_board(tmp_path: Path) -> None:
    board = read_board(tmp_path)
    assert board.clusters == board.accelerators == ()
    assert board.memory_mib is None
    assert board.python


@pytest.mark.parametrize(
    ("vendor", "product", "waits"), [("1a6e", "089a", True), ("18d1", "9302", False)], ids=["before", "after"]
)
def test_a_coral_stick_before_and_after_its_firmware(
    pi5: Path, make_tree: MakeTree, usb_device: Callable[..., dict[str, str]], vendor: str, product: str, waits: bool
) -> None:
    make_tree(usb_device("2-1", vendor, product) | usb_device("1-1", "046d", "0825"))
    (stick,) = read_board(pi5).accelerators
    assert (stick.kind, stick.bus, stick.place, stick.node) == ("edge-tpu", "usb", "2-1", "/dev/bus/usb/002/003")
    assert bool(stick.note and "firmware" in stick.note) == waits


def test_cards_on_pcie(pc: Path, make_tree: MakeTree, pci_device: Callable[..., dict[str, str]]) -> None:
    make_tree(
        pci_device("0000:01:00.0", "1ac1", "089a")
        | pci_device("0000:02:00.0", "1ac1", "089a")
        | pci_device("0000:03:00.0", "1e60", "2864")
        | pci_device("0000:04:00.0", "10de", "2206", "0x030000")
        | pci_device("0000:04:00.1", "10de", "1aef", "0x040300")
        | {"proc/driver/nvidia/gpus/0000:04:00.0/information": "Model: \t\t NVIDIA GeForce RTX 3080\nIRQ:   \t\t 158\n"}
    )
    found = [(part.name, part.node, part.note) for part in read_board(pc).accelerators]
    assert found == [
        ("Coral PCIe or M.2 Accelerator", "/dev/apex_0", None),
        ("Coral PCIe or M.2 Accelerator", "/dev/apex_1", None),
        ("Hailo-8", "/dev/hailo0", None),
        ("NVIDIA GeForce RTX 3080", None, None),
    ]


def test_a_gpu_without_its_driver_says_so(
    pc: Path, make_tree: MakeTree, pci_device: Callable[..., dict[str, str]]
) -> None:
    make_tree(pci_device("0000:04:00.0", "10de", "2206", "0x030200"))
    (gpu,) = read_board(pc).accelerators
    assert gpu.note == "the NVIDIA driver is not loaded"


def test_it_becomes_json(pi5: Path) -> None:
    data = json.loads(json.dumps(read_board(pi5).to_dict()))
    assert data["clusters"][0]["cpus"] == [0, 1, 2, 3]
    assert "numpy" in data["packages"]


def test_this_machine() -> None:
    board = read_board()
    assert board.name and board.cores >= 1 and board.kernel
    assert set(board.packages) & {"ai-edge-litert", "tflite-runtime", "tensorflow"}
