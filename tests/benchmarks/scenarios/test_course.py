"""A measurement over time: a cold start is told apart from a drift, and noise is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeloc.benchmarks.environment import OthersLoad, peak_memory
from edgeloc.benchmarks.scenarios.course import Course, Drift, drift

FRAMES = 2000


def measured(typical_ms: np.ndarray) -> Drift:
    """Frames that take about so long, with noise as of a real machine."""
    spent = typical_ms * np.random.default_rng(0).lognormal(0, 0.1, len(typical_ms))
    found = drift((np.cumsum(spent) - spent) / 1000, spent.tolist())
    assert found is not None
    return found


def test_a_cold_start_is_no_drift() -> None:
    spent = np.full(FRAMES, 5.0)
    spent[:50] = 20.0
    found = measured(spent)
    assert found.cold_ms > 1.5 * found.steady_ms
    assert abs(found.trend) < 0.02 and found.trend_ci95[0] < 0 < found.trend_ci95[1]
    assert Course(drift=found).findings() == ()


def test_a_board_that_gets_slower_drifts() -> None:
    found = measured(np.linspace(5, 6, FRAMES))
    assert 0.1 < found.trend < 0.25
    assert found.trend_ci95[0] > 0.05
    (finding,) = Course(drift=found).findings()
    assert finding.code == "latency-drifts" and "% slower" in finding.message


def test_noise_alone_is_seldom_a_drift() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(100):
        spent = 5 * rng.lognormal(0, 0.2, 600)
        alarms += bool(Course(drift=drift(np.cumsum(spent) / 1000, spent.tolist())).findings())
    assert alarms == 0


def test_faster_and_slower_are_measured_alike() -> None:
    """The interval of a trend is the mirror image of that of the opposite trend."""
    spent = 5 * np.random.default_rng(3).lognormal(0, 0.2, 200)
    slower, faster = (drift(np.arange(200) * 0.1, one.tolist()) for one in (spent, 10 - spent))
    assert slower is not None and faster is not None
    low, high = (limit * slower.steady_ms for limit in slower.trend_ci95)
    assert [limit * faster.steady_ms for limit in faster.trend_ci95] == pytest.approx([-high, -low], abs=1e-3)
    assert low < slower.trend * slower.steady_ms < high


def test_too_few_frames_have_no_windows() -> None:
    assert drift([0.0] * 99, [1.0] * 99) is None


def test_other_programs_make_a_measurement_busy() -> None:
    (finding,) = Course(others_busy=0.3).findings()
    assert finding.code == "machine-busy" and "30 %" in finding.message
    assert Course(others_busy=0.02).findings() == ()


def test_what_others_take_is_without_what_this_process_takes(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc" / "stat"
    stat.write_text("cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 2 3\n")
    load = OthersLoad(tmp_path)
    stat.write_text("cpu  100000 0 100 1000 0 0 0 0 0 0\n")
    assert load.share == 1.0
    stat.write_text("cpu  100 0 100 900000 0 0 0 0 0 0\n")
    assert load.share == 0.0
    stat.unlink()
    assert OthersLoad(tmp_path).share is None


def test_the_memory_of_this_process() -> None:
    memory = peak_memory()
    assert memory is None or memory.peak_mib > 10


def test_the_memory_of_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert peak_memory(tmp_path) is None
