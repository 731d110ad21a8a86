"""Engines with a deadline: what hangs or crashes costs one inference, and the process behind it never stays behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeloc import Contract, Finding, InputSpec, Localizer, ModelFile, OutputSpec
from edgeloc.cli import main
from edgeloc.engines import Engine, open_engine, process, worker
from edgeloc.engines.process import ProcessEngine
from edgeloc.errors import EngineError, UsageError
from edgeloc.testing import EngineSuite, FakeEngine

CONTRACT = Contract(
    InputSpec("image", 16, 16, resize="stretch"),
    (OutputSpec("presence", "presence"), OutputSpec("box", "box")),
)
MODEL = ModelFile(Path("robot"), b"", "tflite", contract=CONTRACT, trusted=True)
IMAGE = np.zeros((1, 16, 16, 3), np.uint8)
# What a plug-in may do in the process, beside answering.
ODD = """
import logging, os, time
import numpy as np
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError
from edgeloc.findings import Finding

class OddEngine(Engine):
    name, version = "odd", "1"
    inputs = {"image": TensorInfo("image", (1, 4), np.dtype(np.uint8))}
    outputs = {"ones": TensorInfo("ones", (-1,), np.dtype(np.float32))}
    load = None

    def invoke(self, tensor):
        what = int(tensor[0, 0])
        if what == 1:
            raise FileNotFoundError("weights.bin")
        if what == 2:
            return {"words": np.array(["a", None], object)}
        if what == 3:
            os.write(1, b"x" * 100_000)
        if what == 4:
            logging.getLogger("edgeloc.odd").warning("%s is odd", "it")
            self._notice(Finding("odd", "note", "it is odd"))
        return {"ones": np.ones(1 << what, np.float32), "none": np.zeros((0, 3), np.int8)}

class Loader:
    def __init__(self, marker=""):
        self.marker = marker

    def load(self):
        if self.marker and os.path.exists(self.marker):
            raise EngineError("no driver", hint="load it")
        return OddEngine()
"""


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What engines report, without pauses between their restarts."""
    monkeypatch.setattr(process, "_FIRST_PAUSE_S", 0.0)
    return []


def fake(options: str, faults: list[Finding] | None = None, deadline_ms: float = 5000) -> ProcessEngine:
    engine = open_engine(f"fake://?{options}", MODEL, deadline_ms=deadline_ms)
    assert isinstance(engine, ProcessEngine)
    engine.notify = None if faults is None else faults.append
    return engine


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a plug-in, which the engine's process finds as this one does."""
    (tmp_path / "edgeloc_odd.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))
    import edgeloc_odd  # type: ignore[import-not-found]

    yield edgeloc_odd
    del sys.modules["edgeloc_odd"]


def number(what: int) -> np.ndarray[Any, Any]:
    return np.full((1, 4), what, np.uint8)


class TestEngineWithDeadline(EngineSuite):
    @pytest.fixture
    def engine(self, grid_model: Path) -> Engine:
        return open_engine("litert", grid_model, threads=1, deadline_ms=5000)

    def test_it_answers_what_the_same_engine_answers_here(self, engine: Engine, grid_model: Path) -> None:
        here = open_engine("litert", grid_model)
        assert (engine.name, engine.version) == (here.name, here.version)
        assert (engine.inputs, engine.outputs) == (here.inputs, here.outputs)
        image = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8)
        there = engine.invoke(image)
        assert all(np.array_equal(values, there[name]) for name, values in here.invoke(image).items())


def test_an_inference_that_hangs_is_given_up_and_the_next_one_answers(faults: list[Finding]) -> None:
    engine = fake("hang=2:60", faults, deadline_ms=300)
    for _ in range(2):
        engine.invoke(IMAGE)
    began_at = time.monotonic()
    with pytest.raises(EngineError, match="fake hangs: an inference did not end within 300 ms; allow more time by"):
        engine.invoke(IMAGE)
    assert time.monotonic() - began_at < 30
    assert set(engine.invoke(IMAGE)) == {"presence", "box"}
    (finding,) = faults
    assert (finding.code, finding.severity) == ("engine-restarted", "warning")
    assert "did not end within 300 ms; it was started again in" in finding.message


def test_a_crash_costs_one_inference_and_the_count_goes_on(faults: list[Finding]) -> None:
    engine = fake("crash=1,2,4", faults)
    outcomes = []
    for _ in range(6):
        try:
            engine.invoke(IMAGE)
            outcomes.append("")
        except EngineError as error:
            outcomes.append(str(error))
    assert [bool(outcome) for outcome in outcomes] == [False, True, True, False, True, False]
    assert outcomes[1] == "fake failed in an inference: its process ended by SIGSEGV"
    assert [fault.code for fault in faults] == ["engine-restarted"] * 3


def test_what_the_engine_itself_reports_needs_no_restart(faults: list[Finding]) -> None:
    engine = fake("fail=0:2&nan=3", faults)
    first = engine._process
    for _ in range(2):
        with pytest.raises(EngineError, match="the fake engine fails"):
            engine.invoke(IMAGE)
    assert engine._process is first and not faults
    engine.invoke(IMAGE)
    assert np.isnan(engine.invoke(IMAGE)["presence"]).all()


def test_without_a_run_a_restart_is_logged(faults: list[Finding], caplog: pytest.LogCaptureFixture) -> None:
    engine = fake("crash=0")
    with pytest.raises(EngineError):
        engine.invoke(IMAGE)
    engine.invoke(IMAGE)
    assert "SIGSEGV; it was started again" in caplog.text


def test_pauses_grow_while_it_fails_again_and_start_over_once_it_has_worked(
    monkeypatch: pytest.MonkeyPatch, odd: Any, tmp_path: Path
) -> None:
    engine = ProcessEngine("odd", odd.Loader(str(tmp_path / "gone")), 5)
    pauses: list[float] = []
    clock = [time.monotonic()]
    monkeypatch.setattr(process, "time", SimpleNamespace(sleep=pauses.append, monotonic=lambda: clock[0]))
    (tmp_path / "gone").touch()
    engine.close()
    for _ in range(8):
        with pytest.raises(EngineError, match="odd cannot be started again: no driver; load it"):
            engine.invoke(number(0))
    assert pauses[:2] == [0, 0]
    assert all(0.05 < pause <= 2 for pause in pauses[2:])
    assert pauses[2] < 0.25 < 1 <= pauses[-1]
    (tmp_path / "gone").unlink()
    engine.notify = lambda finding: None
    engine.invoke(number(0))
    clock[0] += 100
    engine.close()
    engine.invoke(number(0))
    assert pauses[-1] == 0


def test_outputs_of_any_size_come_through(odd: Any) -> None:
    engine = ProcessEngine("odd", odd.Loader(), 5)
    for what in (0, 12, 22, 5):
        outputs = engine.invoke(number(what))
        assert outputs["ones"].shape == (1 << what,) and outputs["ones"].all()
        assert outputs["none"].shape == (0, 3)
    assert engine.invoke(np.full((3, 1 << 20), 7, np.uint8))["ones"].shape == (128,)


def test_what_else_an_engine_does_there_is_an_engine_error_or_is_passed_on(
    odd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ProcessEngine("odd", odd.Loader(), 5)
    with pytest.raises(EngineError, match=r"the engine odd raised FileNotFoundError: weights\.bin"):
        engine.invoke(number(1))
    with pytest.raises(EngineError, match="the output words is text"):
        engine.invoke(number(2))
    faults: list[Finding] = []
    engine.notify = faults.append
    engine.invoke(number(4))
    assert [fault.code for fault in faults] == ["odd"]
    assert "it is odd" in caplog.text


def test_what_a_library_prints_does_not_pile_up(odd: Any) -> None:
    engine = ProcessEngine("odd", odd.Loader(), 5)
    for _ in range(20):
        engine.invoke(number(3))
    engine.invoke(number(0))
    assert os.fstat(engine._process._words).st_size < 200_000


def test_a_model_that_is_refused_is_refused_as_without_a_deadline(tiny_models: Path) -> None:
    from edgeloc.errors import ModelError

    damaged = (tiny_models / "float32.tflite").read_bytes()[:64]
    with pytest.raises(ModelError, match="does not load it"):
        open_engine("litert", damaged, deadline_ms=1000)
    with pytest.raises(EngineError, match="has no contract"):
        open_engine("fake", b"model", deadline_ms=1000)


def test_where_no_process_can_be_started_that_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineError, match="a process for the engine cannot be started: .*No such file"):
        fake("")


@pytest.mark.parametrize("deadline_ms", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(deadline_ms: float) -> None:
    with pytest.raises(UsageError, match="deadline_ms is .*: it must be above 0"):
        open_engine("fake", MODEL, deadline_ms=deadline_ms)


def test_a_loaded_engine_cannot_be_given_a_deadline() -> None:
    with pytest.raises(UsageError, match="only an engine given by its name"):
        Localizer(MODEL, FakeEngine(CONTRACT), deadline_ms=100)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_restarts_leave_nothing_behind(faults: list[Finding]) -> None:
    others = children()  # of engines that other tests still hold
    engine = fake("crash=" + ",".join(str(one) for one in range(1, 40, 2)), faults)
    engine.invoke(IMAGE)
    before = descriptors(), threading.active_count()
    for _ in range(11):
        with pytest.raises(EngineError):
            engine.invoke(IMAGE)
        engine.invoke(IMAGE)
    # Other tests' engines may end meanwhile, and take theirs with them.
    assert descriptors() <= before[0] and threading.active_count() <= before[1]
    assert set(children()) - set(others) == {engine._process._process.pid}
    engine.close()
    assert set(children()) <= set(others)


def children() -> list[int]:
    """This process's own."""
    listed = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
    return [int(one) for one in listed if "edgeloc.engines.worker" in command_of(one)]


def command_of(process: str) -> str:
    """Its command line; "" of one that has ended meanwhile."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_the_process_ends_with_the_engine() -> None:
    engine = fake("")
    there = engine._process._process
    assert there.poll() is None
    del engine
    assert there.poll() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_go_to_the_whole_group_leave_it_to_the_parent(number: int) -> None:
    engine = fake("")
    os.kill(engine._process._process.pid, number)
    for _ in range(3):
        engine.invoke(IMAGE)


def test_an_interrupt_in_the_middle_spoils_no_later_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake("delay_ms=1")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(worker._Channel, "receive", interrupted)
        engine.invoke(IMAGE)
    assert set(engine.invoke(IMAGE)) == {"presence", "box"}


PARENT = """
import sys, threading
import numpy as np
from test_process import MODEL, IMAGE, fake
def load():
    global engine
    engine = fake(sys.argv[1], deadline_ms=60_000)
thread = threading.Thread(target=load)
thread.start()
thread.join()  # which must not end the process
print(engine._process._process.pid, flush=True)
engine.invoke(IMAGE)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("options", ["", "hang=0:60"])
def test_it_ends_with_a_parent_that_is_killed(options: str, require_end: Callable[[int], None]) -> None:
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PARENT, options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=here) as parent:
        assert parent.stdout is not None
        there = int(parent.stdout.readline())
        time.sleep(0.3)  # until it is within the inference
        parent.kill()
    require_end(there)


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """The command line's log handlers taken away again."""
    handlers = list(logging.getLogger("edgeloc").handlers)
    yield
    logging.getLogger("edgeloc").handlers[:] = handlers


def test_a_run_goes_on_after_hangs_and_crashes(grid_model: Path, tmp_path: Path, quiet_log: None) -> None:
    out = tmp_path / "out.jsonl"
    words = ["--engine", "fake://?hang=3:60&crash=6&nan=8", "--deadline-ms", "400", "--sink", str(out)]
    assert main(["run", str(grid_model), "--camera", "synthetic://?seed=1&frames=12&live=0", *words]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["sequence"] for record in records] == [0, 1, 2, 4, 5, 7, 9, 10, 11]
    assert {record["engine"] for record in records} == {"fake"}


def test_auto_takes_the_first_that_is_installed_with_a_deadline_too(grid_model: Path) -> None:
    engine = open_engine("auto", grid_model, deadline_ms=20_000)
    assert isinstance(engine, ProcessEngine)
    assert engine.name == open_engine("auto", grid_model).name
    assert engine.invoke(np.zeros((1, 32, 32, 3), np.uint8))
