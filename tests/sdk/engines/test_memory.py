"""Writing a frame where the runtime reads it: the same answers as with a tensor, whatever came between."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloc import Localizer
from edgeloc.errors import UsageError
from edgeloc.models import SHIPPED_INT8
from edgeloc.types import Pixels


@pytest.fixture
def localizer() -> Localizer:
    made = Localizer(SHIPPED_INT8, threads=1)
    assert made.engine.memory is not None
    return made


def pictures() -> list[Pixels]:
    """Of three sizes, so that the letterbox's border moves."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((120, 160), (160, 120), (224, 224), (120, 160))]


def by_tensor(localizer: Localizer, pixels: Pixels) -> object:
    """The answer in three stages, where a tensor is copied to the runtime."""
    tensor, placement = localizer.preprocess(pixels)
    return localizer.decode(localizer.invoke(tensor), placement, (pixels.shape[1], pixels.shape[0]))


def test_frames_of_several_sizes_answer_as_by_tensor(localizer: Localizer) -> None:
    for pixels in pictures():
        written = str(localizer(pixels))
        assert str(by_tensor(localizer, pixels)) == written
        assert str(localizer(pixels)) == written


def test_a_border_that_another_tensor_overwrote_is_drawn_again(localizer: Localizer) -> None:
    tall, wide = pictures()[1], pictures()[0]
    expected = str(localizer(wide))
    by_tensor(localizer, tall)
    assert str(localizer(wide)) == expected


def test_the_runtime_leaves_its_input_alone(localizer: Localizer) -> None:
    memory = localizer.engine.memory
    assert memory is not None
    localizer(pictures()[0])
    before = memory.array().copy()
    assert (before[0, 0] == localizer.contract.input.pad_value).all()
    for _ in range(3):
        localizer.engine.run()
    assert (memory.array() == before).all()


def test_every_output_is_in_the_answer_before_it_is_read(localizer: Localizer) -> None:
    answers = localizer.engine.run()
    assert list(answers) == list(localizer.engine.outputs)
    assert {name: values.shape for name, values in answers.items()} == {
        name: info.shape for name, info in localizer.engine.outputs.items()
    }


def test_a_refused_frame_does_not_hold_the_memory(localizer: Localizer) -> None:
    expected = str(localizer(pictures()[0]))
    with pytest.raises(UsageError) as refused:
        localizer(np.zeros((2, 2), np.uint8))
    assert str(localizer(pictures()[0])) == expected
    assert "BGR" in str(refused.value)


def test_answers_stay_as_they_were_after_the_next_frame(localizer: Localizer) -> None:
    first = localizer(pictures()[0])
    scores = str(first.class_scores)
    localizer(pictures()[2])
    assert str(first.class_scores) == scores
