"""What Google's compiler really wrote, told from stubs, other models and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.targets.edgetpu.prediction import check_compiled, executable_bytes, is_compiled, with_signature
from edgeloc.errors import ModelError
from edgeloc.model.flatbuffer import pack, parse_flatbuffer, schema, unpack


@pytest.fixture(scope="module")
def source(conformance: Path) -> bytes:
    return (conformance / "coral" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()


@pytest.fixture(scope="module")
def genuine(conformance: Path) -> bytes:
    """What Google's own compiler made of `source`."""
    return (conformance / "coral" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite").read_bytes()


def program(flatbuffer: bytes) -> Any:
    return unpack(flatbuffer).subgraphs[0].operators[0].customOptions


def without_program(flatbuffer: bytes) -> bytes:
    model = unpack(flatbuffer)
    model.subgraphs[0].operators[0].customOptions = np.zeros(16, np.uint8)
    return pack(model)


def test_the_genuine_model_passes_for_its_source(source: bytes, genuine: bytes) -> None:
    assert is_compiled(genuine)
    assert not is_compiled(source)
    assert executable_bytes(genuine) > 100_000
    assert executable_bytes(source) == 0
    check_compiled(genuine, source, "mobilenet")


def test_a_model_that_nothing_was_compiled_of_is_no_result(source: bytes) -> None:
    with pytest.raises(ModelError, match="compiled nothing"):
        check_compiled(source, source, "mobilenet")


def test_an_empty_program_is_a_stub(source: bytes, genuine: bytes) -> None:
    padded = without_program(genuine) + bytes(4096)
    with pytest.raises(ModelError, match="its program has 16 bytes"):
        check_compiled(padded, source, "mobilenet")


def test_a_truncated_result_is_damaged(source: bytes, genuine: bytes) -> None:
    with pytest.raises(ModelError, match="damaged"):
        check_compiled(genuine[:4096], source, "mobilenet")


def test_another_model_compiled_is_not_taken_for_this_one(conformance: Path, genuine: bytes) -> None:
    other = (conformance / "coral" / "mobilenet_v1_0.5_160_quant.tflite").read_bytes()
    with pytest.raises(ModelError, match="changed the inputs"):
        check_compiled(genuine, other, "mobilenet")


def test_a_signature_comes_back_and_the_program_stays_byte_for_byte(source: bytes, genuine: bytes) -> None:
    named = with_signature(genuine, _signed(source))
    signature = parse_flatbuffer(named, "named").signature
    assert signature is not None
    tensors = parse_flatbuffer(named, "named").graphs[0].tensors
    assert tensors[signature.inputs["image"]].shape == (1, 128, 128, 3)
    assert tensors[signature.outputs["scores"]].shape == (1, 1001)
    assert np.array_equal(program(named), program(genuine))


def test_a_model_that_never_had_a_signature_is_left_as_it_is(source: bytes, genuine: bytes) -> None:
    assert with_signature(genuine, source) is genuine


def test_a_lost_output_is_told(conformance: Path, genuine: bytes) -> None:
    other = _signed((conformance / "coral" / "tf2_mobilenet_v2_1.0_224_ptq.tflite").read_bytes())
    with pytest.raises(ModelError, match="lost the tensor"):
        with_signature(genuine, other)


def _signed(flatbuffer: bytes) -> bytes:
    """The model with the signature image -> scores."""
    model = unpack(flatbuffer)
    signature = schema().SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [_entry("image", model.subgraphs[0].inputs[0])]
    signature.outputs = [_entry("scores", model.subgraphs[0].outputs[0])]
    model.signatureDefs = [signature]
    return pack(model)


def _entry(name: str, index: int) -> Any:
    entry = schema().TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry
