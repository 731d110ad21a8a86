"""The fake engine: its answers, its failures and its delay, by itself and under a Localizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeloc import Box, Contract, EngineError, InputSpec, Localizer, ModelFile, OutputSpec, UsageError, open_engine
from edgeloc.testing import FakeEngine

CONTRACT = Contract(
    InputSpec("image", 16, 16, resize="stretch"),
    (OutputSpec("presence", "presence"), OutputSpec("box", "box")),
)
IMAGE = np.zeros((1, 16, 16, 3), np.uint8)


def test_it_gives_the_answers_and_repeats_the_last() -> None:
    engine = FakeEngine(CONTRACT, [{"presence": [[0.25]]}, {"presence": [[0.5]]}])
    answers = [float(engine.invoke(IMAGE)["presence"][0, 0]) for _ in range(3)]
    assert answers == [0.25, 0.5, 0.5]
    assert engine.invocations == 3


def test_it_fails_when_asked_to() -> None:
    engine = FakeEngine(CONTRACT)
    engine.fail(after=1, times=2)
    engine.invoke(IMAGE)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"as it was asked to"):
            engine.invoke(IMAGE)
    engine.invoke(IMAGE)


def test_it_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    FakeEngine(CONTRACT, delay_s=0.06).invoke(IMAGE)
    assert slept == [0.06]


def test_a_localizer_runs_on_it_without_a_model() -> None:
    engine = FakeEngine(CONTRACT, [{"presence": [[0.9]], "box": [[0.5, 0.5, 0.5, 0.25]]}])
    localizer = Localizer(ModelFile(Path("robot"), b"", "tflite", contract=CONTRACT), engine=engine)
    result = localizer(np.zeros((80, 160, 3), np.uint8))
    assert (result.presence, result.box) == (pytest.approx(0.9), Box(40, 30, 120, 50))


def test_it_is_chosen_by_name_for_a_model_with_a_contract(grid_model: Path) -> None:
    assert Localizer(grid_model, engine="fake")(np.zeros((8, 8, 3), np.uint8)).presence == 0.5


def test_without_a_contract_it_cannot_know_the_outputs() -> None:
    with pytest.raises(EngineError, match="has no contract"):
        open_engine("fake", b"model")


def test_an_answer_for_an_output_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="'boxes'; the contract's outputs are presence, box"):
        FakeEngine(CONTRACT, [{"boxes": 1}])


def test_faults_come_at_their_invokes() -> None:
    engine = open_engine("fake://?fail=1:2,5&nan=4&delay_ms=1", ModelFile(Path("robot"), b"", "tflite", {}, CONTRACT))
    seen = []
    for _ in range(7):
        try:
            seen.append(str(engine.invoke(IMAGE)["presence"][0, 0]))
        except EngineError:
            seen.append("failed")
    assert seen == ["0.0", "failed", "failed", "0.0", "nan", "failed", "0.0"]


def test_it_hangs_for_as_long_as_it_was_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    engine = FakeEngine(CONTRACT, delay_s=0.5, hang={1: 60})
    for _ in range(3):
        engine.invoke(IMAGE)
    assert slept == [0.5, 60.5, 0.5]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("?hang=3", r"hang=3 must be FRAME:VALUE"),
        ("?fail=1:0", "the value is a whole number from 1"),
        ("?crash=soon", "crash=soon must be a whole number from 0"),
        ("?burn=1", "there is no option 'burn'; known are: hang, fail, nan, crash, delay_ms"),
        ("usb:0", "'usb:0' means nothing here"),
    ],
)
def test_a_fault_that_cannot_be_read_is_refused(place: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_engine(f"fake://{place}", ModelFile(Path("robot"), b"", "tflite", {}, CONTRACT))
