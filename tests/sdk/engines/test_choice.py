"""`threads="auto"` and the engine "fastest": what is chosen, why, and what is remembered."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgeloc.engines
from edgeloc import EngineError, Localizer, ModelError, ModelFile, UsageError, open_engine, read_model
from edgeloc.engines import ENGINES, choice
from edgeloc.engines.choice import thread_counts
from edgeloc.engines.tflite import LiteRtEngine
from edgeloc.models import SHIPPED_INT8
from edgeloc.testing import FakeEngine

# Two fast cores and two slow ones.
ASYMMETRIC = "fake://?delay_ms=6,3,5,7"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "usable_cores", lambda: (0, 1, 2, 3))
    return tmp_path / "cache" / "edgeloc" / "engines"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the fake engine's delays move: what else the machine does changes no choice."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def read() -> float:
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr("edgeloc.testing.engines.time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(choice, "time", SimpleNamespace(monotonic=read, perf_counter=read))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The numbers of threads that the fake engine is loaded with."""
    seen: list[int | None] = []
    load_at = FakeEngine.load_at.__func__  # type: ignore[attr-defined]

    def counting(kind: type[FakeEngine], place: str, model: ModelFile, threads: int | None) -> FakeEngine:
        seen.append(threads)
        loaded: FakeEngine = load_at(kind, place, model, threads)
        return loaded

    monkeypatch.setattr(FakeEngine, "load_at", classmethod(counting))
    return seen


def chosen(**options: Any) -> int | None:
    return Localizer(SHIPPED_INT8, ASYMMETRIC, "auto", **options).engine.threads


def test_the_fastest_number_of_threads_is_measured_once_and_remembered(
    loads: list[int | None], caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    caplog.set_level(logging.INFO)
    assert chosen() == 2 and loads == [1, 2, 3, 4]
    assert "runs on fake 1 with 2 threads, the fastest" in caplog.text and "fake 1 with 4 threads" in caplog.text
    loads.clear()
    caplog.clear()
    assert chosen() == 2 and loads == [2] and not caplog.text
    (file,) = cache.iterdir()
    assert json.loads(file.read_text()) == {"engine": ASYMMETRIC, "threads": 2}
    assert cache.stat().st_mode & 0o077 == 0


def test_other_cores_and_another_model_are_measured_for_themselves(
    loads: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen() == 2
    monkeypatch.setattr(choice, "usable_cores", lambda: (2, 3, 4, 5))
    loads.clear()
    assert chosen() == 2 and len(loads) == 4
    model = read_model(SHIPPED_INT8)
    other = ModelFile(Path("other"), model.payload + b"\0", "tflite", contract=model.contract, trusted=True)
    loads.clear()
    assert open_engine(ASYMMETRIC, other, "auto").threads == 2 and len(loads) == 4
    monkeypatch.setattr(FakeEngine, "installed_version", classmethod(lambda kind: "2"))
    loads.clear()
    assert chosen() == 2 and len(loads) == 4


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"engine": "litert", "threads": 99}', b'{"threads": "2"}', b"[" * 3000]
)
def test_a_damaged_or_foreign_memory_is_ignored_and_replaced(
    content: bytes, loads: list[int | None], cache: Path
) -> None:
    chosen()
    (file,) = cache.iterdir()
    file.write_bytes(content)
    loads.clear()
    assert chosen() == 2 and len(loads) == 4
    assert json.loads(file.read_text())["threads"] == 2


def test_a_folder_that_cannot_be_written_is_measured_in_each_time(
    loads: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert chosen() == chosen() == 2 and len(loads) == 8
    monkeypatch.setattr(choice, "atomic_path", lambda path: read_only())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "read-only"))
    assert chosen() == chosen() == 2 and len(loads) == 16


def read_only() -> Any:
    raise OSError(30, "Read-only file system")


def test_a_remembered_engine_that_no_longer_loads_is_measured_again(
    loads: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen() == 2
    load_at = FakeEngine.load_at

    def refusing(place: str, model: ModelFile, threads: int | None) -> FakeEngine:
        if threads == 2:
            raise EngineError("two threads cannot be started")
        return load_at(place, model, threads)

    monkeypatch.setattr(FakeEngine, "load_at", refusing)
    with pytest.raises(EngineError, match="two threads"):
        Localizer(SHIPPED_INT8, ASYMMETRIC, 2)
    assert chosen() == 1


def test_what_is_too_close_to_be_sure_is_not_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloc.engines.race import Outcome

    monkeypatch.setattr(choice, "race", lambda ways, budget_s: Outcome(1, (0.003, 0.003, 0.005, 0.005), False))
    assert chosen() == 2
    assert list(cache.iterdir()) == []


def test_an_engine_that_takes_no_threads_is_left_its_own_choice(
    loads: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "parallel", False)
    assert chosen() is None and loads == [None]


def test_one_core_needs_no_measuring(loads: list[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cores", lambda: (3,))
    assert chosen() == 1 and loads == [1]


def test_numbers_of_threads_up_to_eight_are_all_tried() -> None:
    assert thread_counts(1) == [1]
    assert thread_counts(6) == [1, 2, 3, 4, 5, 6]
    assert thread_counts(20) == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20]
    with pytest.raises(UsageError, match="1 to 1024, or auto"):
        open_engine("fake", SHIPPED_INT8, "many")  # type: ignore[arg-type]


def test_with_a_deadline_each_way_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cores", lambda: (0, 1))
    monkeypatch.setattr(choice, "time", time)  # those processes wait by a real clock
    localizer = Localizer(SHIPPED_INT8, "fake://?delay_ms=40,5", "auto", deadline_ms=2000)
    assert localizer.engine.threads == 2
    localizer.engine.close()  # type: ignore[attr-defined]


def test_the_real_engine_answers_the_same_with_its_chosen_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(choice, "usable_cores", lambda: tuple(sorted(os.sched_getaffinity(0))))
    localizer = Localizer(SHIPPED_INT8, "litert", "auto")
    assert localizer.engine.threads in thread_counts(len(choice.usable_cores()))
    localizer.self_test()


class Slow(LiteRtEngine):
    """LiteRT under another name, that takes 30 ms more."""

    name = "tflite-runtime"

    def run(self) -> Any:
        time.sleep(0.03)
        return super().run()


class Wrong(LiteRtEngine):
    """LiteRT under another name, that answers nothing but zeros, at once."""

    name = "tensorflow"

    def run(self) -> Any:
        answers = super().run()
        return {name: answers[name] * 0 for name in self.outputs}


@pytest.fixture
def three_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setitem(ENGINES.own, "tflite-runtime", f"{__name__}:Slow")  # type: ignore[index]
    monkeypatch.setitem(ENGINES.own, "tensorflow", f"{__name__}:Wrong")  # type: ignore[index]
    monkeypatch.setattr(
        edgeloc.engines, "engine_class",
        lambda name: {"litert": LiteRtEngine, "tflite-runtime": Slow, "tensorflow": Wrong}[name],
    )  # fmt: skip


@pytest.mark.usefixtures("three_engines")
def test_the_fastest_that_passes_is_taken_and_the_others_are_named(
    caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    caplog.set_level(logging.INFO)
    assert Localizer(SHIPPED_INT8, "fastest").engine.name == "litert"
    (record,) = caplog.records
    assert record.finding.code == "engine-chosen"  # type: ignore[attr-defined]
    assert "runs on litert" in record.message and "tflite-runtime" in record.message
    assert "tensorflow is left out" in record.message and "fails its self-test" in record.message
    caplog.clear()
    localizer = Localizer(SHIPPED_INT8, "fastest")
    assert (localizer.engine.name, localizer.engine.threads) == ("litert", None) and not caplog.records


@pytest.mark.usefixtures("three_engines")
def test_an_engine_that_is_not_installed_is_named_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    for kind in (Slow, Wrong):
        monkeypatch.setattr(kind, "available", lambda: False)
    assert Localizer(SHIPPED_INT8, "fastest").engine.name == "litert"
    assert "the only way there is; tflite-runtime is left out: it is not installed" in caplog.text
    monkeypatch.setattr(LiteRtEngine, "available", lambda: False)
    with pytest.raises(EngineError, match="none of the engines .* is installed: pip install"):
        Localizer(SHIPPED_INT8, "fastest")


@pytest.mark.usefixtures("three_engines")
def test_where_none_passes_the_first_failure_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "available", lambda: False)
    monkeypatch.setattr(Wrong, "available", lambda: False)
    monkeypatch.setattr(LiteRtEngine, "run", lambda self: failing())
    with pytest.raises(EngineError, match="the kernel is broken"):
        Localizer(SHIPPED_INT8, "fastest")


def failing() -> Any:
    raise EngineError("the kernel is broken")


def test_a_model_without_a_self_test_has_no_fastest_engine() -> None:
    payload = read_model(SHIPPED_INT8).payload
    model = ModelFile(Path("bare.tflite"), payload, "tflite", contract=read_model(SHIPPED_INT8).contract)
    with pytest.raises(ModelError, match=r"bare\.tflite has no self-test for the engine fastest to pass: name an"):
        Localizer(model, "fastest")
    with pytest.raises(UsageError, match="the engine fastest is chosen by a Localizer"):
        open_engine("fastest", SHIPPED_INT8)
