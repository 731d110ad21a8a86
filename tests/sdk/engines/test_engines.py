"""The contract of every engine that is installed; how engines are found, and what they refuse."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc import engines
from edgeloc.engines import AUTO, ENGINES, Engine, engine_class, open_engine
from edgeloc.engines.tflite import LiteRtEngine, TensorFlowEngine, TfliteEngine, TfliteRuntimeEngine
from edgeloc.errors import EngineError, ModelError, UsageError
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, read_model
from edgeloc.models import SHIPPED_INT8
from edgeloc.testing import EngineSuite, FakeEngine

REAL = [pytest.param(name, id=name) for name in AUTO]


def like_in_onnx(engine: Engine) -> bytes:
    """An ONNX model with another's inputs and outputs: each output is the image's mean, times a constant."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    ((given, info),) = engine.inputs.items()
    nodes = [helper.make_node("ReduceMean", [given], ["mean"], keepdims=0)]
    stored = []
    for number, (name, output) in enumerate(engine.outputs.items()):
        stored.append(onnx.numpy_helper.from_array(np.full(output.shape, 2, np.float32), f"c{number}"))
        nodes.append(helper.make_node("Mul", [f"c{number}", "mean"], [name]))
    outputs = [helper.make_tensor_value_info(name, float32, port.shape) for name, port in engine.outputs.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(given, float32, info.shape)], outputs, stored)
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return model


class TestEveryEngine(EngineSuite):
    @pytest.fixture(params=sorted(ENGINES))
    def engine(self, request: pytest.FixtureRequest, grid_model: Path) -> Engine:
        """Every engine with the grid model loaded; the Edge TPU's over a fake of its library."""
        if request.param == "edgetpu":
            compiled, delegate = request.getfixturevalue("compiled_for_edge_tpu")
            return open_engine(f"edgetpu://?library={delegate}", compiled)
        if request.param == "onnxruntime":
            return open_engine("onnxruntime", like_in_onnx(open_installed("litert", grid_model)))
        return open_installed(request.param, grid_model)

    def test_it_has_a_name_in_the_table(self, engine: Engine) -> None:
        assert engine.name in ENGINES

    def test_tensors_are_known_by_the_signatures_names(self, engine: Engine, grid_contract: Contract) -> None:
        assert list(engine.inputs) == ["image"]
        assert set(engine.outputs) == {output.tensor for output in grid_contract.outputs}


def open_installed(name: str, model: Path) -> Engine:
    if not engine_class(name).available():
        pytest.skip(f"{name} is not installed")
    if name == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
        pytest.skip("tflite-runtime does not work with this NumPy")
    return open_engine(name, model)


@pytest.mark.parametrize("name", REAL)
def test_each_name_means_its_own_tensor(name: str, shuffled_model: Path) -> None:
    engine = open_installed(name, shuffled_model)
    image = np.full((1, 32, 32, 3), 0.5, np.float32)
    raw = engine.invoke(image)
    assert {key: float(values[0, 0]) for key, values in raw.items()} == pytest.approx(
        {"a": 1.5, "b": 2.5, "c": 3.5, "d": 4.5}
    )


@pytest.mark.parametrize("name", REAL)
def test_threads_are_accepted(name: str, grid_model: Path) -> None:
    open_installed(name, grid_model)
    assert open_engine(name, grid_model, threads=2).invoke(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("name", REAL)
def test_a_tensor_of_the_wrong_kind_is_an_engine_error(name: str, grid_model: Path) -> None:
    engine = open_installed(name, grid_model)
    with pytest.raises(EngineError, match="failed to run the model"):
        engine.invoke(np.zeros((1, 32, 32, 3), np.float32))


@pytest.mark.parametrize("name", REAL)
def test_a_damaged_model_is_a_model_error(name: str, tiny_models: Path, shuffled_model: Path) -> None:
    open_installed(name, shuffled_model)
    whole = (tiny_models / "float32.tflite").read_bytes()
    for keep in (64, len(whole) // 2):
        with pytest.raises(ModelError, match="does not load it"):
            open_engine(name, whole[:keep])


def test_a_model_for_the_edge_tpu_names_what_it_needs(conformance: Path) -> None:
    model = conformance / "coral" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    with pytest.raises(ModelError, match="compiled for the Edge TPU"):
        open_engine(next(name for name in AUTO if engine_class(name).available()), model)


def test_models_without_a_signature_go_by_their_tensors_names(conformance: Path) -> None:
    engine = open_engine("auto", conformance / "coral" / "tf2_mobilenet_v2_1.0_224_ptq.tflite")
    assert (list(engine.inputs), list(engine.outputs)) == (["input"], ["Identity"])


def test_auto_takes_the_first_that_is_installed(grid_model: Path) -> None:
    installed = [name for name in AUTO if engine_class(name).available()]
    assert open_engine("auto", grid_model).name == installed[0]


@pytest.fixture
def onnx_model(grid_model: Path) -> ModelFile:
    payload = like_in_onnx(open_installed("litert", grid_model))
    return ModelFile(Path("robot.onnx"), payload, "onnx", trusted=True)


def test_a_view_that_a_profiler_keeps_for_a_moment_does_not_end_a_run(grid_model: Path) -> None:
    engine = open_installed("litert", grid_model)
    assert engine.memory is not None
    held = [engine.memory.array()]
    threading.Timer(0.02, held.clear).start()
    assert set(engine.run()) == set(engine.outputs)
    kept = engine.memory.array()
    with pytest.raises(EngineError, match="reference to internal data"):
        engine.run()
    assert kept.size


def test_numbers_that_numpy_lacks_are_named() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    ports = [helper.make_tensor_value_info(name, of, [1]) for name, of in (("x", types.FLOAT), ("y", types.STRING))]
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=types.STRING)], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    with pytest.raises(ModelError, match=r"its 'y' is tensor\(string\), which NumPy has no type for"):
        open_engine("onnxruntime", ModelFile(Path("brain.onnx"), model, "onnx", trusted=True))


def test_auto_runs_onnx_in_onnx_runtime_where_tensorrt_is_missing(
    onnx_model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_class("tensorrt"), "available", lambda: False)
    assert open_engine("auto", onnx_model).name == "onnxruntime"


def test_auto_names_both_engines_for_onnx_where_neither_is_installed(
    onnx_model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "onnxruntime"):
        monkeypatch.setattr(engine_class(name), "available", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"apt install python3-libnvinfer.*pip install 'edgeloc\[onnxruntime\]'"):
        open_engine("auto", onnx_model)


def failing(error: Exception) -> Callable[..., Any]:
    def load(*_: Any, **__: Any) -> Any:
        raise error

    return load


def test_auto_takes_the_next_when_a_runtime_is_broken_and_reports_the_first_reason(
    grid_model: Path, grid_contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiteRtEngine, "load", failing(EngineError("litert is broken")))
    monkeypatch.setattr(TfliteRuntimeEngine, "available", lambda: False)
    tensorflow = engine_class("tensorflow")
    loaded = FakeEngine(grid_contract)
    monkeypatch.setattr(tensorflow, "load", classmethod(lambda cls, model, threads: loaded))
    assert open_engine("auto", grid_model) is loaded
    monkeypatch.setattr(tensorflow, "load", failing(EngineError("tensorflow is broken")))
    with pytest.raises(EngineError, match="litert is broken"):
        open_engine("auto", grid_model)


def test_without_any_runtime_the_error_names_what_to_install(grid_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TfliteEngine, "available", lambda: False)
    with pytest.raises(EngineError, match="pip install ai-edge-litert"):
        open_engine("auto", grid_model)


class _Absent(TfliteEngine):
    name, package, module = "absent", "absent-runtime", "no_such_runtime.interpreter"


def test_a_runtime_that_is_not_installed_names_what_to_install() -> None:
    assert not _Absent.available()
    with pytest.raises(EngineError, match="pip install absent-runtime"):
        _Absent(ModelFile(Path("m"), b"", "tflite"))


def test_a_runtime_built_for_another_numpy_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tflite_runtime.interpreter")
    module.Interpreter = failing(SystemError("_ARRAY_API not found"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", module)
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(EngineError, match="numpy<2"):
        TfliteRuntimeEngine(ModelFile(Path("m"), b"", "tflite"))


def test_a_runtime_too_old_for_the_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("Didn't find op for builtin opcode 'CONV_2D' version '9'.\nRegistration failed.\n")
    monkeypatch.setattr(TfliteRuntimeEngine, "_interpreter_class", lambda self: failing(error))
    with pytest.raises(EngineError, match=r"needs a newer runtime .*version '9'"):
        TfliteRuntimeEngine(ModelFile(Path("m"), b"", "tflite"))


def test_a_model_too_new_for_the_newest_runtime_is_not_tried_in_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    error = ValueError("Didn't find op for builtin opcode 'CONV_2D' version '900'.\nRegistration failed.\n")
    monkeypatch.setattr(LiteRtEngine, "_interpreter_class", lambda self: failing(error))
    monkeypatch.setattr(TensorFlowEngine, "_interpreter_class", lambda self: pytest.fail("TensorFlow was tried"))
    with pytest.raises(ModelError, match=r"needs a newer runtime .*version '900'.* or is damaged"):
        open_engine("auto", b"")


def test_nonsense_in_a_signature_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT raises what its wrapper happens to: TypeError for a name that is missing, ValueError for an index."""
    pytest.importorskip("ai_edge_litert")
    for error in (TypeError("TensorName(): incompatible function arguments"), ValueError("Invalid tensor index 9")):
        monkeypatch.setattr(LiteRtEngine, "_details", failing(error))
        with pytest.raises(ModelError, match=r"does not load it"):
            LiteRtEngine(read_model(SHIPPED_INT8))


@pytest.mark.parametrize(("name", "threads"), [("gpu", None), ("auto", 0), ("auto", 10**11)])
def test_an_unknown_name_and_an_absurd_number_of_threads_are_refused(name: str, threads: int | None) -> None:
    with pytest.raises(UsageError, match=r"engine gpu is of no known kind; known are: auto, fastest, litert|1 to 1024"):
        open_engine(name, b"", threads)


def test_only_untrusted_models_are_vetted(grid_model: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of its own makes a file no safer: a stranger can write one."""
    vetted: list[Path] = []
    monkeypatch.setattr(LiteRtEngine, "vet", lambda model: vetted.append(model.path))
    engines.open_engine("litert", SHIPPED_INT8)
    engines.open_engine("litert", grid_model)
    engines.open_engine("litert", read_model(tiny_models / "int8.tflite"))
    assert vetted == [grid_model, tiny_models / "int8.tflite"]
