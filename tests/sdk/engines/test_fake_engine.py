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
        with pytest.raises(EngineError, match=r"as set by `fail\(\)`"):
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
