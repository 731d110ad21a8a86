"""The TensorRT engine against fakes of its two libraries; what a real GPU does is not shown here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.device.engines.tensorrt import Cuda, TensorRtEngine
from edgeloc.engines import Engine, open_engine
from edgeloc.errors import EngineError, ModelError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import ModelFile
from edgeloc.testing import EngineSuite, fake_onnx, fake_tensorrt

PORTS = {"in": {"image": [1, 4, 4, 3]}, "out": {"presence": [1, 1], "box": [1, 4]}}


def onnx_bytes(ports: Mapping[str, Any] = PORTS, opset: int = 13) -> bytes:
    return fake_onnx(ports["in"], ports["out"], opset)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeloc" / "tensorrt"


@pytest.fixture
def model() -> ModelFile:
    contract = Contract(
        InputSpec("image", 4, 4), (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    )
    return ModelFile(Path("robot.onnx"), onnx_bytes(), "onnx", contract=contract, trusted=True)


def image(value: float) -> NDArray[np.float32]:
    return np.full((1, 4, 4, 3), value, np.float32)


def test_answers_what_the_network_computes(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    engine = TensorRtEngine.load(model, None)
    first = engine.invoke(image(0.25))
    second = engine.invoke(image(0.5))
    assert first["presence"].tolist() == [[0.25]]
    assert first["box"].tolist() == [[0.25, 0.5, 0.75, 1.0]]
    assert second["box"].tolist() == [[0.5, 1.0, 1.5, 2.0]]


def test_tells_its_version_and_its_ports(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    engine = TensorRtEngine.load(model, 4)
    assert (engine.name, engine.version) == ("tensorrt", tensorrt.__version__)
    assert engine.inputs["image"].shape == (1, 4, 4, 3)
    assert {name: port.shape for name, port in engine.outputs.items()} == {"presence": (1, 1), "box": (1, 4)}
    assert engine.outputs["box"].dtype == np.float32


def test_a_localizer_runs_on_it(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    result = Localizer(model, engine=TensorRtEngine.load(model, None))(np.full((8, 8, 3), 255, np.uint8))
    assert result.present
    assert result.presence == pytest.approx(1 / (1 + np.exp(-1)))


def test_auto_prefers_it_to_onnx_runtime(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    assert open_engine("auto", model).name == "tensorrt"


def test_the_plan_is_built_once(
    driver: Any, tensorrt: Any, model: ModelFile, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TensorRtEngine.load(model, None)
    assert "building robot.onnx for Orin (fake)" in caplog.text
    assert "built in" in caplog.text
    caplog.clear()
    TensorRtEngine.load(model, None)
    assert caplog.text == ""
    assert tensorrt.builds == 1
    assert len(list(cache.glob("*.plan"))) == 1


def test_each_gpu_version_and_model_has_its_own_plan(driver: Any, tensorrt: Any, model: ModelFile, cache: Path) -> None:
    TensorRtEngine.load(model, None)
    driver.name = b"Xavier (fake)"
    TensorRtEngine.load(model, None)
    driver.capability = {75: 7, 76: 2}
    TensorRtEngine.load(model, None)
    tensorrt.__version__ += ".1"
    TensorRtEngine.load(model, None)
    TensorRtEngine.load(ModelFile(Path("other.onnx"), onnx_bytes(opset=14), "onnx"), None)
    assert tensorrt.builds == 5
    assert len(list(cache.glob("*.plan"))) == 5


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "stale"])
def test_a_bad_plan_is_built_anew(driver: Any, tensorrt: Any, model: ModelFile, cache: Path, damage: str) -> None:
    TensorRtEngine.load(model, None)
    plan = next(cache.glob("*.plan"))
    data = plan.read_bytes()
    if damage == "stale":  # whole, but no longer to TensorRT's liking
        from edgeloc.device.engines.tensorrt import write_plan

        write_plan(plan, b"8.5.0|" + model.payload)
    else:
        plan.write_bytes({"cut": data[:-1], "changed": data[:-1] + b"\xff", "emptied": b""}[damage])
    engine = TensorRtEngine.load(model, None)
    assert tensorrt.builds == 2
    assert engine.invoke(image(0.5))["presence"].tolist() == [[0.5]]
    assert plan.read_bytes() == data


def test_a_folder_that_cannot_be_written_only_costs_time(
    driver: Any, tensorrt: Any, model: ModelFile, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in the way")
    engine = TensorRtEngine.load(model, None)
    assert engine.invoke(image(1))["presence"].tolist() == [[1.0]]
    assert "the next start will build the plan again" in caplog.text


def test_a_relative_cache_folder_is_ignored(
    driver: Any, tensorrt: Any, model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    TensorRtEngine.load(model, None)
    assert len(list((tmp_path / ".cache" / "edgeloc" / "tensorrt").glob("*.plan"))) == 1


def test_a_model_it_cannot_read_is_named_with_the_node(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    tensorrt.refuse = True
    with pytest.raises(
        ModelError, match=r"robot\.onnx: TensorRT .* cannot read the model: .*Unsupported operator"
    ) as seen:
        TensorRtEngine.load(model, None)
    assert ("NonZero 'head/where'" if tensorrt.new else "node 17") in str(seen.value)


def test_a_failed_build_gives_tensorrts_reason(driver: Any, tensorrt: Any, model: ModelFile, cache: Path) -> None:
    tensorrt.fail = "10: Could not find any implementation for node conv1.\nmore lines"
    with pytest.raises(EngineError, match="cannot build it: 10: Could not find any implementation for node conv1$"):
        TensorRtEngine.load(model, None)
    assert not cache.exists()


def test_a_reason_is_not_kept_for_the_next_error(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    tensorrt.fail = "the first reason"
    with pytest.raises(EngineError, match="the first reason"):
        TensorRtEngine.load(model, None)
    tensorrt.fail = "the second reason"
    with pytest.raises(EngineError, match="the second reason"):
        TensorRtEngine.load(model, None)


def test_a_driver_too_old_for_tensorrt_is_told(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    tensorrt.dead = True
    with pytest.raises(EngineError, match="does not start: CUDA initialization failure with error: 35"):
        TensorRtEngine.load(model, None)


def test_a_full_gpu_is_named(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    tensorrt.fail = "1: [virtualMemoryBuffer.cpp] Error Code 1: Cuda Driver (out of memory)"
    with pytest.raises(EngineError, match="memory is full, end other programs"):
        TensorRtEngine.load(model, None)
    tensorrt.fail, tensorrt.full = "", True
    with pytest.raises(EngineError, match="no memory left"):
        TensorRtEngine.load(model, None)
    tensorrt.full, driver.room = False, 16
    with pytest.raises(EngineError, match="memory is full"):
        TensorRtEngine.load(model, None)


def test_memory_is_given_back(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    engine = TensorRtEngine.load(model, None)
    assert len(driver.blocks) == 3
    del engine
    assert driver.blocks == {}


def test_an_input_of_another_size_is_refused(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    engine = TensorRtEngine.load(model, None)
    with pytest.raises(EngineError, match=r"must be float32 \(1, 4, 4, 3\), not float32 \(1, 8, 8, 3\)"):
        engine.invoke(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(EngineError, match="not uint8"):
        engine.invoke(np.zeros((1, 4, 4, 3), np.uint8))


def test_an_input_with_gaps_in_memory_is_taken(driver: Any, tensorrt: Any, model: ModelFile) -> None:
    wide = np.zeros((1, 4, 8, 3), np.float32)
    wide[:, :, ::2] = 0.5
    assert TensorRtEngine.load(model, None).invoke(wide[:, :, ::2])["presence"].tolist() == [[0.5]]


def test_two_inputs_are_refused(driver: Any, tensorrt: Any) -> None:
    ports = {"in": {"image": [1, 4, 4, 3], "x": [1]}, "out": {"box": [1, 4]}}
    with pytest.raises(ModelError, match="2 inputs: it must have one"):
        TensorRtEngine.load(ModelFile(Path("two.onnx"), onnx_bytes(ports), "onnx"), None)


def test_a_tflite_model_is_sent_to_the_converter(driver: Any, tensorrt: Any) -> None:
    with pytest.raises(ModelError, match=r"robot\.tflite is no ONNX model: .*target tensorrt"):
        TensorRtEngine.load(ModelFile(Path("robot.tflite"), b"\x1c\0\0\0TFL3 and so on", "tflite"), None)


@pytest.mark.parametrize("version", ["8.5.2", "7.1.3", "11.0.0"])
def test_versions_that_are_not_known_are_refused(
    driver: Any, model: ModelFile, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(EngineError, match=rf"TensorRT {version} cannot be used: install 8\.6 to 10\.x"):
        TensorRtEngine.load(model, None)


def test_without_tensorrt_the_apt_package_and_the_engine_for_a_cpu_are_named(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="apt install python3-libnvinfer.*the engine onnxruntime runs the model"):
        TensorRtEngine.load(model, None)


def test_a_broken_installation_is_named(model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *rest: Any, **more: Any) -> Any:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr("edgeloc.device.engines.tensorrt.importlib.import_module", load)
    with pytest.raises(EngineError, match=r"does not work here \(libnvinfer\.so\.10"):
        TensorRtEngine.load(model, None)


def test_without_a_gpu_the_driver_is_named(tensorrt: Any, model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("edgeloc.device.engines.tensorrt.ctypes.CDLL", absent)
    with pytest.raises(EngineError, match=r"no NVIDIA driver here \(libcuda\.so\.1\)"):
        TensorRtEngine.load(model, None)


def test_an_error_of_the_driver_has_its_name(driver: Any) -> None:
    with pytest.raises(EngineError, match="cuMemFree_v2 returned CUDA_ERROR_INVALID_VALUE"):
        Cuda().free(1234)
    with pytest.raises(EngineError, match="memory is full"):
        Cuda().allocate(2 << 30)


def test_the_gpu_says_what_it_is(driver: Any) -> None:
    cuda = Cuda()
    assert (cuda.name, cuda.capability) == ("Orin (fake)", "8.7")
    assert driver.current


def test_a_converted_model_runs_on_it_as_it_does_in_onnx_runtime(
    driver: Any, tensorrt: Any, tiny_models: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    from edgeloc.converters.targets.tensorrt import to_qdq_onnx
    from edgeloc.engines.onnxruntime import OnnxRuntimeEngine
    from edgeloc.model.file import read_model, write_model

    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    contract = Contract(InputSpec("image", 32, 32), outputs)
    images = np.random.default_rng(1).uniform(-1, 1, (8, 32, 32, 3)).astype(np.float32)
    qdq = to_qdq_onnx((tiny_models / "float32.tflite").read_bytes(), contract, images)
    write_model(tmp_path / "robot.onnx", qdq, contract)
    model = read_model(tmp_path / "robot.onnx")

    def ports(data: bytes) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        loaded = OnnxRuntimeEngine(data)
        return ({n: p.shape for n, p in loaded.inputs.items()}, {n: p.shape for n, p in loaded.outputs.items()})

    tensorrt.graph = ports
    tensorrt.compute = lambda data, inputs: OnnxRuntimeEngine(data).invoke(inputs["image"])
    frame = np.random.default_rng(2).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    found = Localizer(model, engine=TensorRtEngine.load(model, None))(frame)
    wanted = Localizer(model, engine=OnnxRuntimeEngine(model.payload))(frame)
    assert found.presence == pytest.approx(wanted.presence)
    assert found.box == wanted.box


class TestTensorRt(EngineSuite):
    @pytest.fixture
    def engine(self, driver: Any, tensorrt: Any, model: ModelFile) -> Engine:
        return TensorRtEngine.load(model, None)


def test_the_fakes_are_in_place_for_a_block(model: ModelFile) -> None:
    with fake_tensorrt(compute=lambda model, inputs: {"presence": inputs["image"].mean(keepdims=True)[0, 0]}) as trt:
        engine = open_engine("auto", model)
        assert (engine.name, engine.version) == ("tensorrt", "10.3.0")
        assert engine.invoke(image(0.5))["presence"].tolist() == [[0.5]]
        assert trt.builds == 1
    with pytest.raises(EngineError):
        open_engine("tensorrt", model)
