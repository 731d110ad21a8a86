"""What the machine says about itself, on folders that look like proc and sys."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgeloc.benchmarks.environment import read_environment


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_raspberry_pi(tmp_path: Path) -> None:
    write(tmp_path / "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 108.00\n")
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n")
    environment = read_environment(tmp_path)
    assert environment.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert environment.governor == "ondemand"
    assert [finding.code for finding in environment.findings() if "ondemand" in finding.message] == ["cpu-governor"]


def test_a_workstation(tmp_path: Path) -> None:
    write(tmp_path / "proc/cpuinfo", "vendor_id\t: X\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: Some CPU @ 3 GHz\n")
    environment = read_environment(tmp_path)
    assert environment.board is None
    assert environment.cpu == "Some CPU @ 3 GHz"
    assert environment.governor is None
    assert environment.cores >= 1


def test_a_quiet_machine_at_full_clock_warns_of_nothing_and_a_busy_one_does(tmp_path: Path) -> None:
    environment = dataclasses.replace(read_environment(tmp_path), governor="performance", load_1min=0.1, cores=4)
    assert environment.findings() == ()
    assert [finding.code for finding in dataclasses.replace(environment, load_1min=3.0).findings()] == ["machine-busy"]
