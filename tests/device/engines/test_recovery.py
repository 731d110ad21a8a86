"""`--engine auto` with a compiled model: one retry, then the CPU where a model for it was given; never a hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.device.engines.edgetpu import engine as recovery
from edgeloc.device.engines.edgetpu.engine import RecoveringEngine
from edgeloc.engines import Engine, open_engine
from edgeloc.errors import EngineError, ModelError, UsageError
from edgeloc.model.contract import Contract
from edgeloc.model.file import read_model
from edgeloc.models import SHIPPED_INT8
from edgeloc.testing import FakeEngine


@pytest.fixture(scope="module")
def contract() -> Contract:
    if not SHIPPED_INT8.is_file():
        pytest.skip("the package holds no trained model yet")
    found = read_model(SHIPPED_INT8).contract
    assert found is not None
    return found


class _Cpu(FakeEngine):
    name = "cpu"


def flaky(contract: Contract, after: int) -> tuple[Callable[[], Engine], list[FakeEngine]]:
    """An opener of engines that each fail from then on after so many inferences, and those it has opened."""
    opened: list[FakeEngine] = []

    def open_one() -> Engine:
        engine = FakeEngine(contract)
        engine.fail(after, times=1000)
        opened.append(engine)
        return engine

    return open_one, opened


def tensor(engine: Engine) -> np.ndarray[Any, Any]:
    info = next(iter(engine.inputs.values()))
    return np.zeros(info.shape, info.dtype)


def test_after_a_failure_the_device_is_opened_once_and_then_the_cpu_takes_over(
    contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    opener, opened = flaky(contract, after=3)
    engine = RecoveringEngine(opener, _Cpu(contract))
    names = []
    for _ in range(10):
        engine.invoke(tensor(engine))
        names.append(engine.name)
    assert names == ["fake"] * 6 + ["cpu"] * 4
    assert len(opened) == 2
    reopened, fallback = (record.finding for record in caplog.records)  # type: ignore[attr-defined]
    assert (reopened.code, fallback.code) == ("edgetpu-reopened", "edgetpu-cpu-fallback")
    assert "falling back to the CPU (cpu 1)" in fallback.message


def test_without_a_cpu_model_the_second_failure_is_the_error(contract: Contract) -> None:
    opener, opened = flaky(contract, after=1)
    engine = RecoveringEngine(opener, None)
    for _ in range(2):
        engine.invoke(tensor(engine))
    with pytest.raises(EngineError, match=r"the fake engine fails.*as cpu_model"):
        engine.invoke(tensor(engine))
    assert len(opened) == 2


def test_a_device_that_worked_for_long_since_is_opened_again(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(recovery.time, "monotonic", lambda: clock[0])
    opener, opened = flaky(contract, after=1)
    engine = RecoveringEngine(opener, None)
    for _ in range(5):
        clock[0] += 3600
        engine.invoke(tensor(engine))
    assert len(opened) == 5


def test_a_device_that_does_not_open_at_all_leaves_it_to_the_cpu(
    contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    def opener() -> Engine:
        raise EngineError("no Edge TPU is there")

    assert RecoveringEngine(opener, _Cpu(contract)).name == "cpu"
    assert "no Edge TPU is there; falling back to the CPU" in caplog.text
    with pytest.raises(EngineError, match="no Edge TPU is there"):
        RecoveringEngine(opener, None)


def test_a_failure_of_the_cpu_is_an_error_like_any_other(contract: Contract) -> None:
    opener, _ = flaky(contract, after=0)
    cpu = _Cpu(contract)
    cpu.fail()
    engine = RecoveringEngine(opener, cpu)
    with pytest.raises(EngineError, match="the fake engine fails"):
        engine.invoke(tensor(engine))


def test_a_cpu_model_of_another_network_is_refused(genuine: Path, delegate: Path) -> None:
    if not SHIPPED_INT8.is_file():
        pytest.skip("the package holds no trained model yet")
    with pytest.raises(ModelError, match="is not the one that was compiled"):
        open_engine(f"auto://?library={delegate}", genuine, cpu_model=SHIPPED_INT8)
    with pytest.raises(ModelError, match="give the model from before"):
        open_engine("auto", genuine, cpu_model=genuine)


def test_a_cpu_model_where_nothing_could_fall_back_on_it_is_refused(genuine: Path) -> None:
    plain = genuine.with_name(genuine.name.replace("_edgetpu", ""))
    with pytest.raises(UsageError, match="leave it out"):
        open_engine("auto", plain, cpu_model=plain)
    with pytest.raises(UsageError, match="leave it out"):
        open_engine("edgetpu", genuine, cpu_model=plain)
    with pytest.raises(UsageError, match="is not compiled for the Edge TPU; write auto"):
        open_engine("auto://usb:0", plain)


def run_auto(model: Path, delegate: Path, options: str, out: Path, *flags: str) -> tuple[int, list[str]]:
    """`edgeloc run` over twelve generated frames; its exit status and the engine of each result."""
    engine = f"auto://usb:0?library={delegate}&{options}"
    camera = "synthetic://?seed=1&frames=12&live=0"
    status = main(["run", str(model), "--camera", camera, "--sink", str(out), "--engine", engine, *flags])
    return status, [json.loads(line)["engine"] for line in out.read_text().splitlines()] if out.exists() else []


@pytest.mark.parametrize("option", ["fail_after=4", "abort_after=4"])
def test_a_run_goes_on_on_the_cpu_and_its_results_tell(
    option: str, compiled_robot: Path, delegate: Path, tmp_path: Path
) -> None:
    status, names = run_auto(compiled_robot, delegate, option, tmp_path / "out.jsonl", "--cpu-model", str(SHIPPED_INT8))
    assert status == 0
    assert names == ["edgetpu"] * 8 + [open_engine("auto", SHIPPED_INT8).name] * 4


def test_a_run_without_a_cpu_model_goes_on_opening_the_device(
    compiled_robot: Path, delegate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, names = run_auto(compiled_robot, delegate, "fail_after=4", tmp_path / "out.jsonl")
    assert (status, names) == (0, ["edgetpu"] * 11)
    reported = capsys.readouterr().err
    assert [reported.count(f"[{code}]") for code in ("edgetpu-reopened", "inference-failed", "engine-restarted")] == [
        1,
        1,
        1,
    ]


def test_a_run_without_a_cpu_model_on_a_device_that_never_works_ends_with_status_3(
    compiled_robot: Path, delegate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, names = run_auto(compiled_robot, delegate, "fail_after=0", tmp_path / "out.jsonl")
    assert (status, names) == (3, [])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "USB transfer error 5" in last and "--cpu-model" in last


def test_a_run_on_a_device_that_hangs_ends(
    compiled_robot: Path, delegate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, names = run_auto(
        compiled_robot, delegate, "delay_us=60000000", tmp_path / "out.jsonl", "--deadline-ms", "200"
    )
    assert (status, names) == (3, [])
    assert "hangs: an inference did not end within 200 ms" in capsys.readouterr().err
