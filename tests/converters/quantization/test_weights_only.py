"""Recipes that only store weights smaller, on what else a model may hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.quantization.quantize import float16_weights
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.engines import open_engine
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import constant, operator_name, pack, schema, set_constant, unpack


def test_a_constant_beyond_float16_becomes_its_largest(make_network: Callable[..., Any], tmp_path: Path) -> None:
    make_network().save(tmp_path / "m.keras")
    model = unpack(KerasSource(tmp_path / "m.keras").to_tflite(InputSpec("image", 32, 32)))
    kernel = next(int(op.inputs[1]) for op in model.subgraphs[0].operators if operator_name(model, op) == "CONV_2D")
    values = constant(model, kernel)
    assert values is not None
    values.flat[0] = -1e5
    set_constant(model, kernel, values)
    made = unpack(float16_weights(pack(model)))
    stored = [constant(made, index) for index, one in enumerate(made.subgraphs[0].tensors) if b"float16" in one.name]
    assert min(float(one.min()) for one in stored if one is not None) == -65504


@pytest.mark.parametrize("kind", ["BOOL", "FLOAT64", "UINT32", "INT4"])
def test_a_constant_of_any_type_passes_by(kind: str, make_network: Callable[..., Any], tmp_path: Path) -> None:
    make_network().save(tmp_path / "m.keras")
    model = unpack(KerasSource(tmp_path / "m.keras").to_tflite(InputSpec("image", 32, 32)))
    graph = model.subgraphs[0]
    buffer, tensor = schema().BufferT(), copy.copy(graph.tensors[0])
    buffer.data = np.zeros(16, np.uint8)
    model.buffers.append(buffer)
    tensor.name, tensor.shape, tensor.shapeSignature = b"another", np.array([2], np.int32), None
    tensor.type, tensor.buffer = getattr(schema().TensorType, kind), len(model.buffers) - 1
    graph.tensors.append(tensor)
    made = float16_weights(pack(model))
    image = np.full((1, 32, 32, 3), 0.5, np.float32)
    before, after = (open_engine("auto", one).invoke(image)["box"] for one in (pack(model), made))
    np.testing.assert_allclose(after, before, rtol=0.01, atol=0.01)
