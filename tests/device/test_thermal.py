"""Temperatures and clocks are read in the kernels' and tools' formats, and sampled beside a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgeloc.device.thermal import ThermalReader, ThermalSampler, decode_throttled

MakeTree = Callable[[dict[str, str]], Path]


def tool(**answers: str) -> Callable[[Sequence[str]], str | None]:
    """A board's tools by name, and what they print."""
    return lambda command: answers.get(command[0])


def test_a_raspberry_pi(pi5: Path) -> None:
    thermal = ThermalReader(pi5, tool(vcgencmd="throttled=0x50005\n")).read()
    assert thermal.temperatures_c == {"cpu-thermal": 51.8, "rp1_adc": 57.218}
    assert thermal.hottest == ("rp1_adc", 57.218)
    assert thermal.throttled_now == thermal.throttled_since_boot == ("under-voltage", "throttled")
    assert thermal.governor == "ondemand"
    (clock,) = thermal.clocks
    assert (clock.cpus, clock.current_mhz, clock.max_mhz) == ("0-3", 1500, 2400)


@pytest.mark.parametrize(
    ("bits", "now", "since"),
    [
        (0x0, (), ()),
        (0x1, ("under-voltage",), ()),
        (0x2, ("Arm frequency capped",), ()),
        (0x80000, (), ("soft temperature limit",)),
        (0xE0008, ("soft temperature limit",), ("Arm frequency capped", "throttled", "soft temperature limit")),
    ],
)
def test_throttle_bits(bits: int, now: tuple[str, ...], since: tuple[str, ...]) -> None:
    assert decode_throttled(bits) == (now, since)


def test_under_voltage_means_nothing_on_a_zero(make_tree: MakeTree) -> None:
    root = make_tree({"proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\0"})
    thermal = ThermalReader(root, tool(vcgencmd="throttled=0x50005\n")).read()
    assert thermal.throttled_now == thermal.throttled_since_boot == ("throttled",)


@pytest.mark.parametrize("answer", ["VCHI initialization failed\n", "", 'error=1 error_msg="Command not registered"'])
def test_a_tool_that_answers_something_else_tells_nothing(pi5: Path, answer: str) -> None:
    thermal = ThermalReader(pi5, tool(vcgencmd=answer)).read()
    assert thermal.throttled_now is None
    assert thermal.throttled_since_boot is None


def test_a_folder_has_no_tools_of_this_machine(pi5: Path) -> None:
    assert ThermalReader(pi5).read().throttled_now is None


def test_a_jetson(orin_nano: Path) -> None:
    asked = []

    def run(command: Sequence[str]) -> str:
        asked.append(tuple(command))
        return "NV Power Mode: MAXN_SUPER\n2\n"

    reader = ThermalReader(orin_nano, run)
    thermal = [reader.read(), reader.read()][1]
    assert thermal.power_mode == "MAXN_SUPER"
    assert asked == [("nvpmodel", "-q")]
    # Without the constant of the PMIC, and the sensor of an engine that is off.
    assert thermal.temperatures_c == {"cpu-thermal": 48.5, "gpu-thermal": 49.062}
    assert thermal.throttled_now == ()


def test_a_jetson_that_its_heat_slows_down(orin_nano: Path, make_tree: MakeTree) -> None:
    make_tree({"sys/class/thermal/cooling_device0/cur_state": "1\n"})
    assert ThermalReader(orin_nano, tool()).read().throttled_now == ("thermal throttling (cpu-throttle-alert)",)


def test_a_pc(pc: Path) -> None:
    thermal = ThermalReader(pc).read()
    assert thermal.temperatures_c == {"coretemp Package id 0": 47.0, "coretemp Core 0": 45.0}
    assert thermal.events == 7
    assert thermal.power_mode is None


def test_clusters_have_clocks_of_their_own(big_little: Path) -> None:
    clocks = ThermalReader(big_little).read().clocks
    assert [(clock.cpus, clock.current_mhz, clock.max_mhz) for clock in clocks] == [
        ("0-3", 1416, 1416),
        ("4-5", 408, 1800),
    ]


def test_sensors_of_one_name_are_told_apart(make_tree: MakeTree) -> None:
    root = make_tree(
        {f"sys/class/thermal/thermal_zone{i}/{name}": text for i in range(2) for name, text in
         (("type", "acpitz\n"), ("temp", f"{30 + i}000\n"))}
    )  # fmt: skip
    assert ThermalReader(root).read().temperatures_c == {"acpitz": 30.0, "acpitz #2": 31.0}


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    thermal = ThermalReader(tmp_path).read()
    assert (thermal.temperatures_c, thermal.clocks, thermal.throttled_now, thermal.events) == ({}, (), None, None)
    assert thermal.hottest is thermal.governor is None


def test_this_machine_is_read_without_an_error() -> None:
    assert all(-40 <= celsius <= 150 for celsius in ThermalReader().read().temperatures_c.values())


class Script:
    """Stands for vcgencmd, and for the board's thermal: tells one value after the other, and when it told the last."""

    def __init__(self, root: Path, *rows: tuple[int, int]) -> None:
        self.root, self.rows, self.done = root, list(rows), threading.Event()

    def __call__(self, command: Sequence[str]) -> str:
        bits, celsius = self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]
        if len(self.rows) == 1:
            self.done.set()
        (self.root / "sys/class/thermal/thermal_zone0/temp").write_text(f"{celsius}000\n")
        return f"throttled={bits:#x}\n"


def test_extremes_and_throttling_between_before_and_after(pi5: Path) -> None:
    script = Script(pi5, (0x0, 50), (0x0, 81), (0x80008, 85), (0x80000, 60))
    with ThermalSampler(ThermalReader(pi5, script), every_s=0.001) as sampler:
        assert script.done.wait(10)
    record = sampler.record()
    assert (record.lowest_c["cpu-thermal"], record.highest_c["cpu-thermal"]) == (50.0, 85.0)
    assert record.before.throttled_since_boot == ()
    assert record.after.throttled_now == ()
    assert record.throttled == ("soft temperature limit",)
    assert record.highest_mhz == {"0-3": 1500}
    assert record.samples >= 4
    (finding,) = record.findings()
    assert finding.code == "throttled-while-measuring" and "soft temperature limit" in finding.message


def test_what_came_and_went_between_two_samples_is_known_from_the_board(pi5: Path) -> None:
    script = Script(pi5, (0x10000, 50), (0x50000, 50))
    with ThermalSampler(ThermalReader(pi5, script), every_s=60) as sampler:
        pass
    record = sampler.record()
    assert record.samples == 2
    assert record.throttled == ("throttled",)


def test_throttling_of_before_the_run_is_not_its_own(pi5: Path) -> None:
    with ThermalSampler(ThermalReader(pi5, Script(pi5, (0xF0000, 50)))) as sampler:
        pass
    record = sampler.record()
    assert record.throttled == record.findings() == ()
    assert record.reports_throttling


def test_a_pc_that_counts_its_throttlings(pc: Path, make_tree: MakeTree) -> None:
    with ThermalSampler(ThermalReader(pc), every_s=60) as sampler:
        make_tree({"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "5\n"})
    assert sampler.record().throttled == ("thermal throttling",)


def test_a_board_that_tells_nothing_is_not_said_to_be_cool(tmp_path: Path) -> None:
    with ThermalSampler(ThermalReader(tmp_path)) as sampler:
        pass
    assert not sampler.record().reports_throttling


def test_the_thread_ends_with_the_run_and_with_its_error(pi5: Path) -> None:
    before = threading.active_count()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ThermalSampler(ThermalReader(pi5), every_s=60) as sampler:
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert time.monotonic() - began < 30
    assert sampler.record().samples == 2
