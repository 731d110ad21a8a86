"""Folders that look like the proc, sys, etc and dev of boards we do not own, in the formats their kernels write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MakeTree = Callable[[dict[str, str]], Path]

_PI5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/meminfo": "MemTotal:        8246784 kB\nMemFree:         6914160 kB\nMemAvailable:    7421184 kB\n",
    "proc/sys/kernel/osrelease": "6.6.51+rpt-rpi-2712\n",
    "proc/sys/kernel/arch": "aarch64\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nID=debian\n',
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51800\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "1\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon0/temp1_input": "51800\n",
    "sys/class/hwmon/hwmon1/name": "rp1_adc\n",
    "sys/class/hwmon/hwmon1/temp1_input": "57218\n",
}
_JETSON_ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/meminfo": "MemTotal:        7802876 kB\nMemAvailable:    5933012 kB\n",
    "proc/sys/kernel/arch": "aarch64\n",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48500\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "49062\n",
    "sys/class/thermal/thermal_zone2/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone2/temp": "100000\n",
    "sys/class/thermal/thermal_zone3/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone3/temp": "-256000\n",
    "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
}
_PC = {
    "proc/cpuinfo": "".join(
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i5-1240P\n\n"
        for cpu in range(4)
    ),
    "proc/meminfo": "MemTotal:       16155240 kB\nMemAvailable:   11204912 kB\n",
    "proc/sys/kernel/arch": "x86_64\n",
    "sys/class/dmi/id/sys_vendor": "LENOVO\n",
    "sys/class/dmi/id/product_name": "21CB0000GE\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "4\n",
    "sys/class/hwmon/hwmon3/name": "coretemp\n",
    "sys/class/hwmon/hwmon3/temp1_label": "Package id 0\n",
    "sys/class/hwmon/hwmon3/temp1_input": "47000\n",
    "sys/class/hwmon/hwmon3/temp2_label": "Core 0\n",
    "sys/class/hwmon/hwmon3/temp2_input": "45000\n",
}


def arm_cores(parts: list[str], implementer: str = "0x41") -> str:
    """The text of /proc/cpuinfo for cores of these parts."""
    return "".join(
        f"processor\t: {cpu}\nBogoMIPS\t: 108.00\nCPU implementer\t: {implementer}\nCPU architecture: 8\n"
        f"CPU variant\t: 0x4\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        for cpu, part in enumerate(parts)
    )


def clock(cpus: range, khz: int, highest: int, governor: str) -> dict[str, str]:
    """cpufreq of some cores."""
    files = {"scaling_cur_freq": khz, "cpuinfo_max_freq": highest, "scaling_governor": governor}
    return {
        f"sys/devices/system/cpu/cpu{cpu}/cpufreq/{name}": f"{value}\n" for cpu in cpus for name, value in files.items()
    }


def usb(place: str, vendor: str, product: str) -> dict[str, str]:
    """A USB device as sysfs lists it, and its node."""
    folder = f"sys/bus/usb/devices/{place}"
    return {
        f"{folder}/idVendor": f"{vendor}\n",
        f"{folder}/idProduct": f"{product}\n",
        f"{folder}/busnum": "2\n",
        f"{folder}/devnum": "3\n",
        "dev/bus/usb/002/003": "",
    }


def pci(place: str, vendor: str, device: str, kind: str = "0x088000") -> dict[str, str]:
    """A PCIe device as sysfs lists it."""
    folder = f"sys/bus/pci/devices/{place}"
    return {f"{folder}/vendor": f"0x{vendor}\n", f"{folder}/device": f"0x{device}\n", f"{folder}/class": f"{kind}\n"}


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """Writes files by their path and text under one folder, and gives the folder; may be called again."""
    root = tmp_path / "root"
    root.mkdir()

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return make


@pytest.fixture
def pi5(make_tree: MakeTree) -> Path:
    """A Raspberry Pi 5 with 8 GB, idle."""
    cores = {
        "proc/cpuinfo": arm_cores(["0xd0b"] * 4) + "Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    }
    return make_tree({**_PI5, **cores, **clock(range(4), 1500000, 2400000, "ondemand")})


@pytest.fixture
def orin_nano(make_tree: MakeTree) -> Path:
    """A Jetson Orin Nano Super."""
    cores = {"proc/cpuinfo": arm_cores(["0xd42"] * 6)}
    return make_tree({**_JETSON_ORIN_NANO, **cores, **clock(range(6), 1728000, 1728000, "schedutil")})


@pytest.fixture
def pc(make_tree: MakeTree) -> Path:
    """A laptop, whose cores differ a little in their highest clock."""
    slow, fast = clock(range(3), 900000, 3300000, "powersave"), clock(range(3, 4), 1200000, 4400000, "powersave")
    return make_tree({**_PC, **slow, **fast})


@pytest.fixture
def usb_device() -> Callable[[str, str, str], dict[str, str]]:
    """Makes the files of a USB device: its place, vendor and product."""
    return usb


@pytest.fixture
def pci_device() -> Callable[..., dict[str, str]]:
    """Makes the files of a PCIe device: its place, vendor, device and class."""
    return pci


@pytest.fixture
def big_little(make_tree: MakeTree) -> Path:
    """A board with four small and two big cores, such as a phone's processor."""
    return make_tree(
        {
            "proc/device-tree/model": "Some Vendor Board 3000\0",
            "proc/device-tree/compatible": "vendor,board\0vendor,soc\0",
            "proc/cpuinfo": arm_cores(["0xd03"] * 4 + ["0xd08"] * 2),
            **clock(range(4), 1416000, 1416000, "schedutil"),
            **clock(range(4, 6), 408000, 1800000, "schedutil"),
        }
    )
