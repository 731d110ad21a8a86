"""Reading a graph: what a good file holds, and that no damaged one gets past with anything but a sentence."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from edgeloc.errors import MissingExtra, ModelError
from edgeloc.model import flatbuffer
from edgeloc.model.flatbuffer import parse_flatbuffer


@pytest.fixture(scope="module")
def int8(tiny_models: Path) -> bytes:
    return (tiny_models / "int8.tflite").read_bytes()


def test_graph_signature_and_quantization(int8: bytes) -> None:
    model = parse_flatbuffer(int8, "int8.tflite")
    graph = model.graphs[0]
    assert model.signature is not None
    image = graph.tensors[model.signature.inputs["image"]]
    assert (image.shape, image.dtype) == ((1, 32, 32, 3), "uint8")
    assert image.scales[0] == pytest.approx(2 / 255, rel=0.01)
    assert set(model.signature.outputs) == {"presence", "box"}
    assert [operator.name for operator in graph.operators].count("CONV_2D") == 2
    kernels = [graph.tensors[operator.inputs[1]] for operator in graph.operators if operator.name == "CONV_2D"]
    assert all(kernel.is_constant and len(kernel.scales) == kernel.shape[0] for kernel in kernels)


def test_every_truncation_is_a_sentence_or_harmless(int8: bytes) -> None:
    """The tail of the file may be padding, so a cut there may pass; nothing else may escape."""
    for length in range(0, len(int8) - 1, 97):
        try:
            parse_flatbuffer(int8[:length], "cut.tflite")
        except ModelError as error:
            assert "cut.tflite" in str(error)
            assert "\n" not in str(error)
    with pytest.raises(ModelError, match="damaged"):
        parse_flatbuffer(int8[: len(int8) // 2], "cut.tflite")


def test_random_damage_never_escapes_as_another_error(int8: bytes) -> None:
    rng = random.Random(5)
    for _ in range(200):
        data = bytearray(int8)
        for _ in range(8):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
        try:
            parse_flatbuffer(bytes(data), "bad.tflite")
        except ModelError as error:
            assert "bad.tflite" in str(error)


@pytest.mark.parametrize("data", [b"", b"TFL3", b"PK\x03\x04 a zip archive", b"\x00" * 64])
def test_another_kind_of_file_is_no_model(data: bytes) -> None:
    with pytest.raises(ModelError, match="no TFLite model"):
        parse_flatbuffer(data, "x.tflite")


def test_garbage_behind_the_right_mark_is_damaged() -> None:
    with pytest.raises(ModelError, match="damaged"):
        parse_flatbuffer(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 200, "x.tflite")


def test_without_the_format_description_the_extra_is_named(int8: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "SCHEMAS", ("no_such_module",))
    with pytest.raises(MissingExtra, match="package tflite"):
        parse_flatbuffer(int8, "x.tflite")


@pytest.mark.parametrize(("graphs", "tensors", "name"), [(1000, 1000, ""), (1, 5000, "a" * 100_000)])
def test_tables_that_lie_upon_each_other_end(graphs: int, tensors: int, name: str) -> None:
    """A small file of graphs that are all the same one, with tensors that are all the same one."""
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder()
    named = builder.CreateString(name)

    def table(fields: int, places: dict[int, int]) -> int:
        builder.StartObject(fields)
        for number, place in places.items():
            builder.PrependUOffsetTRelativeSlot(number, place, 0)
        return int(builder.EndObject())

    def repeated(one: int, count: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(one)
        return int(builder.EndVector())

    graph = table(4, {0: repeated(table(4, {3: named}), tensors)})
    buffers = repeated(table(1, {}), 1)
    builder.Finish(table(5, {2: repeated(graph, graphs), 4: buffers}), file_identifier=b"TFL3")
    began = time.process_time()
    with pytest.raises(ModelError, match="damaged"):
        parse_flatbuffer(bytes(builder.Output()), "m")
    assert time.process_time() - began < 10
