"""A float flatbuffer becomes an ONNX graph that computes the same under the contract's names."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.converters import float_onnx
from edgeloc.converters.targets.tensorrt import onnx as translation
from edgeloc.converters.targets.tensorrt.onnx import require_extra, to_onnx
from edgeloc.engines import open_engine
from edgeloc.engines.onnxruntime import OnnxRuntimeEngine
from edgeloc.errors import ContractError, MissingExtra, ModelError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import read_model, write_model
from edgeloc.model.flatbuffer import constant, operator_name, pack, set_constant, unpack

for package in ("tf2onnx", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"the extra tensorrt is not installed: {package} is missing")

Images = NDArray[np.float32]


def test_it_computes_the_same(flatbuffer: bytes, contract: Contract, images: Images) -> None:
    onnx = OnnxRuntimeEngine(to_onnx(flatbuffer, contract, images[:1]).SerializeToString())
    original = open_engine("auto", flatbuffer)
    for image in images[:4]:
        wanted, found = original.invoke(image[np.newaxis]), onnx.invoke(image[np.newaxis])
        for name in ("presence", "class", "box"):
            assert found[name] == pytest.approx(wanted[name], abs=1e-4)


def test_ports_have_the_contracts_names_and_the_originals_shapes(
    flatbuffer: bytes, contract: Contract, images: Images
) -> None:
    engine = OnnxRuntimeEngine(to_onnx(flatbuffer, contract, images[:1]).SerializeToString())
    assert {name: port.shape for name, port in engine.inputs.items()} == {"image": (1, 32, 32, 3)}
    assert {name: port.shape for name, port in engine.outputs.items()} == {
        "presence": (1, 1), "class": (1, 3), "box": (1, 4),
    }  # fmt: skip


def test_an_old_tensorrt_can_read_it(flatbuffer: bytes, contract: Contract, images: Images) -> None:
    model = to_onnx(flatbuffer, contract, images[:1])
    assert model.ir_version <= 8
    assert next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) == 13


def test_the_bias_of_a_dense_layer_on_a_map_is_kept(flatbuffer: bytes, contract: Contract, images: Images) -> None:
    model = unpack(flatbuffer)
    graph = model.subgraphs[0]
    dense = [op for op in graph.operators if operator_name(model, op) == "FULLY_CONNECTED"]
    on_map = [op for op in dense if len(graph.tensors[op.inputs[0]].shape) == 4]
    assert on_map, "the network no longer has what this test is about"
    engine = OnnxRuntimeEngine(to_onnx(flatbuffer, contract, images[:1]).SerializeToString())
    before = engine.invoke(images[:1])["presence"]
    bias = next(op.inputs[2] for op in on_map if constant(model, op.inputs[2]).shape == (1,))  # type: ignore[union-attr]
    set_constant(model, bias, np.array([3.5], np.float32))
    engine = OnnxRuntimeEngine(to_onnx(pack(model), contract, images[:1]).SerializeToString())
    assert engine.invoke(images[:1])["presence"] - before == pytest.approx(2.5, abs=1e-4)


def test_an_inner_tensor_with_an_outputs_name_makes_way(flatbuffer: bytes, contract: Contract, images: Images) -> None:
    model = unpack(flatbuffer)
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[2].outputs[0]].name = b"box"
    engine = OnnxRuntimeEngine(to_onnx(pack(model), contract, images[:1]).SerializeToString())
    assert engine.outputs["box"].shape == (1, 4)


def test_a_translation_that_computes_otherwise_is_refused(
    flatbuffer: bytes, contract: Contract, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What tf2onnx makes of the flatbuffer as it is: it loses a bias.
    monkeypatch.setattr(translation, "_flat_inputs", lambda data: data)
    try:
        to_onnx(flatbuffer, contract, images[:1])
    except ModelError as error:
        assert "tf2onnx translates the model wrongly: the output" in str(error)
    else:
        pytest.skip("this tf2onnx no longer loses the bias")


def test_a_tensor_that_is_not_there_is_named(flatbuffer: bytes, contract: Contract, images: Images) -> None:
    wrong = dataclasses.replace(contract, outputs=(OutputSpec("boxes", "box"),))
    with pytest.raises(ContractError, match=r"names 'boxes', which the model does not have: image, "):
        to_onnx(flatbuffer, wrong, images[:1])
    wrong = dataclasses.replace(contract, input=InputSpec("picture", 32, 32))
    with pytest.raises(ContractError, match="names 'picture'"):
        to_onnx(flatbuffer, wrong, images[:1])


def test_what_tf2onnx_says_is_one_sentence(
    flatbuffer: bytes, contract: Contract, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tf2onnx

    def fail(*rest: Any, **more: Any) -> Any:
        raise ValueError("Only default weights format supported\nand much more")

    monkeypatch.setattr(tf2onnx.convert, "from_tflite", fail)
    with pytest.raises(ModelError, match="^tf2onnx cannot translate the model: Only default weights format supported$"):
        to_onnx(flatbuffer, contract, images[:1])


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(translation.importlib.metadata, "version", absent)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeloc\[tensorrt\]'"):
        require_extra()


def test_nothing_is_said_on_the_terminal(
    flatbuffer: bytes, contract: Contract, images: Images, capfd: pytest.CaptureFixture[str]
) -> None:
    to_onnx(flatbuffer, contract, images[:1])
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "")


def test_the_command_line_writes_float_onnx_with_its_contract(
    flatbuffer: bytes, contract: Contract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "float.tflite", flatbuffer, contract)
    assert float_onnx.main([str(tmp_path / "float.tflite"), str(tmp_path / "out.onnx")]) == 0
    written = read_model(tmp_path / "out.onnx").contract
    assert written is not None and written.outputs == contract.outputs
    assert float_onnx.main([str(tmp_path / "absent.tflite"), str(tmp_path / "out.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
