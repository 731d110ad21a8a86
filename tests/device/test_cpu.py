"""Which cores `--cores` means, on sample trees of big.LITTLE boards, and that a program then stays on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeloc.device.cpu import choose_cores
from edgeloc.errors import DeviceError, UsageError

EIGHT = tuple(range(8))
ROCK_5_CAPACITIES = (530, 530, 530, 530, 1024, 1024, 1024, 1024)
# The same board's clocks in kHz: its two fast pairs are binned apart.
ROCK_5_CLOCKS = (1800000, 1800000, 1800000, 1800000, 2352000, 2352000, 2400000, 2400000)


def tree(root: Path, name: str, values: tuple[int, ...]) -> Path:
    for core, value in enumerate(values):
        path = root / f"sys/devices/system/cpu/cpu{core}" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    return root


@pytest.mark.parametrize(
    ("name", "values", "big"),
    [
        ("cpu_capacity", ROCK_5_CAPACITIES, (4, 5, 6, 7)),
        ("cpufreq/cpuinfo_max_freq", ROCK_5_CLOCKS, (4, 5, 6, 7)),
        ("cpufreq/cpuinfo_max_freq", (2400000,) * 8, EIGHT),
        ("cpu_capacity", (250, 250, 250, 250, 871, 871, 871, 1024), (4, 5, 6, 7)),
    ],
)
def test_big_is_the_fast_cores(name: str, values: tuple[int, ...], big: tuple[int, ...], tmp_path: Path) -> None:
    assert choose_cores("big", EIGHT, tree(tmp_path, name, values)) == big


def test_big_is_all_cores_where_the_processor_does_not_tell(tmp_path: Path) -> None:
    assert choose_cores("big", (0, 1), tmp_path) == (0, 1)


def test_big_is_the_fast_ones_of_those_that_are_allowed(tmp_path: Path) -> None:
    assert choose_cores("big", (0, 1, 6), tree(tmp_path, "cpu_capacity", ROCK_5_CAPACITIES)) == (6,)


@pytest.mark.parametrize(("text", "cores"), [("all", EIGHT), ("0", (0,)), ("4-7", (4, 5, 6, 7)), ("0,2-3", (0, 2, 3))])
def test_cores_by_name_number_and_range(text: str, cores: tuple[int, ...]) -> None:
    assert choose_cores(text, EIGHT) == cores


@pytest.mark.parametrize("text", ["fast", "", "1,", "-1", "3-1", "0-99", "8"])
def test_cores_that_are_not_there_are_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"0,4-7|0,1,2,3,4,5,6,7"):
        choose_cores(text, EIGHT)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_threads_started_afterwards_stay_on_the_cores() -> None:
    core = max(os.sched_getaffinity(0))
    program = (
        "import os, threading\n"
        "from edgeloc.device.cpu import use_cores\n"
        f"use_cores('{core}')\n"
        "thread = threading.Thread(target=lambda: print(os.sched_getaffinity(0)))\n"
        "thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == f"{{{core}}}", done.stderr


def test_a_system_that_forbids_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloc.device.cpu import use_cores

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pytest.raises(DeviceError, match="does not allow the cores"):
        use_cores("all")
