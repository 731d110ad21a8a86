"""A conversion that answers otherwise than the original never passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.checks import check_parity, run_flatbuffer
from edgeloc.converters.sources.base import Source
from edgeloc.converters.sources.tensorflow import SavedModelSource
from edgeloc.errors import ModelError
from edgeloc.model.contract import InputSpec
from edgeloc.scenes import SceneGenerator

SPEC = InputSpec("image", 32, 32)


class FakeSource(Source):
    """A source that answers as the test wants it to."""

    def __init__(self, answer: Callable[[Any], dict[str, Any]]) -> None:
        self.name, self.contract, self.digest, self.tools = "fake", None, "", {}
        self._answer = answer

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> FakeSource:
        raise NotImplementedError

    def to_tflite(self, spec: InputSpec) -> bytes:
        raise NotImplementedError

    def answer(self, images: Any) -> dict[str, Any]:
        return self._answer(images)


@pytest.fixture(scope="module")
def flatbuffer(tiny_saved_model: str) -> bytes:
    return SavedModelSource(tiny_saved_model).to_tflite(SPEC)


@pytest.fixture(scope="module")
def pictures() -> Any:
    scenes = SceneGenerator(3, (32, 32))
    return np.array([(scenes.scene(i).pixels[..., ::-1] - 127.5) / 127.5 for i in range(6)], np.float32)


def _sides_swapped(images: Any) -> Any:
    return np.ascontiguousarray(images.transpose(0, 2, 1, 3))


def _rows_for_channels(images: Any) -> Any:
    """What a network sees that takes the bytes of channels-first images for channels last."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(images.shape)


def test_the_same_network_passes_by_far(flatbuffer: bytes, pictures: Any) -> None:
    assert check_parity(FakeSource(lambda images: _ask(flatbuffer, images)), flatbuffer, SPEC, pictures) == 0
    noisy = FakeSource(lambda images: {name: values * (1 + 1e-6) for name, values in _ask(flatbuffer, images).items()})
    assert check_parity(noisy, flatbuffer, SPEC, pictures) < 0.1


@pytest.mark.parametrize("mistake", [_sides_swapped, _rows_for_channels, lambda images: images[..., ::-1]])
def test_a_mistaken_layout_is_caught(mistake: Callable[[Any], Any], flatbuffer: bytes, pictures: Any) -> None:
    source = FakeSource(lambda images: _ask(flatbuffer, np.ascontiguousarray(mistake(images))))
    with pytest.raises(ModelError, match=r"fake: after conversion the output \w+ differs by up to 0\.\d+ \(allowed "):
        check_parity(source, flatbuffer, SPEC, pictures)


def test_an_output_that_is_lost_reshaped_or_not_finite_is_told(flatbuffer: bytes, pictures: Any) -> None:
    with pytest.raises(ModelError, match="lost the output classes; it has box, presence"):
        check_parity(FakeSource(lambda images: {"classes": np.zeros((6, 2), np.float32)}), flatbuffer, SPEC, pictures)
    with pytest.raises(ModelError, match=r"box is \(2, 2\) in the original and \(4,\) after conversion"):
        check_parity(FakeSource(lambda images: {"box": np.zeros((6, 2, 2), np.float32)}), flatbuffer, SPEC, pictures)
    with pytest.raises(ModelError, match="the original answers box with numbers that are not finite"):
        check_parity(
            FakeSource(lambda images: {"box": np.full((6, 4), np.nan, np.float32)}), flatbuffer, SPEC, pictures
        )


def test_an_input_of_another_name_is_told(flatbuffer: bytes, pictures: Any) -> None:
    with pytest.raises(ModelError, match="input is image, not picture"):
        check_parity(FakeSource(lambda images: {}), flatbuffer, InputSpec("picture", 32, 32), pictures)


def _ask(flatbuffer: bytes, images: Any) -> dict[str, Any]:
    return run_flatbuffer(flatbuffer, "asked", SPEC, images)
