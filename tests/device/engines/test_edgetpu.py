"""The Edge TPU engine over the fake delegate: a genuine compiled model runs, and each way to fail is a sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.device.engines.edgetpu import engine as edgetpu
from edgeloc.device.engines.edgetpu.engine import EdgeTpuEngine
from edgeloc.device.engines.edgetpu.library import EdgeTpuPlace
from edgeloc.engines import AUTO, Engine, engine_class, open_engine
from edgeloc.errors import EngineError, ModelError, OutputError, UsageError
from edgeloc.model.file import ModelFile, read_model
from edgeloc.models import SHIPPED_INT8
from edgeloc.testing import build_fake_compiler, build_fake_delegate


def blank(engine: Engine) -> np.ndarray[Any, Any]:
    info = next(iter(engine.inputs.values()))
    return np.zeros(info.shape, info.dtype)


def open_genuine(genuine: Path, delegate: Path, options: str = "", device: str = "") -> Engine:
    return open_engine(f"edgetpu://{device}?library={delegate}{options}", genuine)


def test_a_genuine_compiled_model_runs(genuine: Path, delegate: Path) -> None:
    engine = open_genuine(genuine, delegate, "&fill=9")
    assert engine.name == "edgetpu"
    assert any(engine_class(name).package in engine.version for name in AUTO)  # type: ignore[attr-defined]
    assert "libedgetpu" in engine.version
    outputs = engine.invoke(blank(engine))
    assert {name: values.shape for name, values in outputs.items()} == {"MobilenetV1/Predictions/Reshape_1": (1, 1001)}
    assert all((values == 9).all() for values in outputs.values())


def test_it_speaks_of_the_same_tensors_as_the_cpu_with_the_model_from_before(genuine: Path, delegate: Path) -> None:
    compiled = open_genuine(genuine, delegate)
    before = open_engine("auto", genuine.with_name(genuine.name.replace("_edgetpu", "")))
    assert (compiled.inputs, compiled.outputs) == (before.inputs, before.outputs)


def test_the_delegate_of_the_lab_runs_it_too(genuine: Path, repository: Path, tmp_path: Path) -> None:
    source = repository.parent / "shared" / "lab" / "standin_delegate.c"
    if not source.is_file() or shutil.which("cc") is None:
        pytest.skip("the lab's delegate, or a C compiler for it, is not here")
    library = tmp_path / "lab.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", str(library), str(source)], check=True)
    engine = open_genuine(genuine, library, "&fail_after=1")
    engine.invoke(blank(engine))
    with pytest.raises(EngineError, match=r"USB transfer error 5 .* plug the device in again"):
        engine.invoke(blank(engine))
    with pytest.raises(EngineError, match="no PCIe Edge TPU; "):
        open_genuine(genuine, library, device="pci")


@pytest.mark.parametrize("option", ["fail_after", "abort_after"])
def test_a_failed_transfer_is_an_engine_error_and_this_process_lives(
    option: str, genuine: Path, delegate: Path
) -> None:
    engine = open_genuine(genuine, delegate, f"&{option}=2", "usb:0")
    for _ in range(2):
        engine.invoke(blank(engine))
    with pytest.raises(EngineError, match=r"the Edge TPU usb:0 failed.*USB transfer error 5.*plug the device in again"):
        engine.invoke(blank(engine))
    assert engine.invoke(blank(engine))  # opened again


def test_a_device_that_hangs_is_given_up_at_its_deadline(genuine: Path, delegate: Path) -> None:
    engine = open_engine(f"edgetpu://?library={delegate}&delay_us=60000000", genuine, deadline_ms=300)
    with pytest.raises(EngineError, match=r"hangs: an inference did not end within 300 ms; plug"):
        engine.invoke(blank(engine))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_hung_worker_ends_with_its_parent(genuine: Path, delegate: Path, require_end: Callable[[int], None]) -> None:
    program = f"""
import threading
import numpy as np
from edgeloc.engines import open_engine
def load():
    global engine
    engine = open_engine("edgetpu://?library={delegate}&delay_us=60000000", {str(genuine)!r})
thread = threading.Thread(target=load)
thread.start()
thread.join()  # which must not end the worker
print(engine._process._process.pid, flush=True)
info = next(iter(engine.inputs.values()))
engine.invoke(np.zeros(info.shape, info.dtype))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.5)  # until the worker is inside the driver
    parent.kill()
    parent.communicate()
    require_end(worker)


def test_a_library_for_another_runtime_crashes_in_its_own_process(genuine: Path, delegate: Path) -> None:
    with pytest.raises(EngineError, match=r"SIGSEGV.*do not fit each other.*feranick/libedgetpu/releases"):
        open_genuine(genuine, delegate, "&crash=1")


def test_a_crash_foretold_by_version_is_refused_before_anything_is_loaded(
    genuine: Path, delegate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text("Package: libedgetpu1-std\nStatus: install ok installed\nVersion: 16.0\n")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(EngineError, match=r"16\.0 is built for a TensorFlow of 2021 and crashes in .*library="):
        EdgeTpuEngine(read_model(genuine), root=tmp_path)


def test_a_missing_library_says_what_to_install(genuine: Path) -> None:
    with pytest.raises(EngineError, match=r"nowhere\.so\.1 is not installed: install libedgetpu1-std"):
        open_engine("edgetpu://?library=nowhere.so.1", genuine)


def test_a_file_that_is_no_library_says_why(genuine: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"\x7fELF")
    with pytest.raises(EngineError, match=r"broken\.so does not load \(.*(short|invalid)"):
        open_engine(f"edgetpu://?library={tmp_path}/broken.so", genuine)


def test_a_library_that_is_no_delegate_says_so(genuine: Path) -> None:
    with pytest.raises(EngineError, match=r"libc\.so\.6 is no delegate for the Edge TPU: install"):
        open_engine("edgetpu://?library=libc.so.6", genuine)


def test_a_device_that_does_not_open_says_why(genuine: Path, delegate: Path, tmp_path: Path, sysfs: Path) -> None:
    place = EdgeTpuPlace("pci", str(delegate))
    with pytest.raises(EngineError, match="did not open: no Edge TPU is connected: plug the stick in"):
        EdgeTpuEngine(read_model(genuine), None, place, tmp_path)
    with pytest.raises(EngineError, match="did not open: the Edge TPU pci is not there: found are usb:0"):
        EdgeTpuEngine(read_model(genuine), None, place, sysfs)


def test_a_model_that_is_not_compiled_says_how_to_compile_it() -> None:
    if not SHIPPED_INT8.is_file():
        pytest.skip("the package holds no trained model yet")
    with pytest.raises(ModelError, match="`edgeloc convert` writes for the target edgetpu"):
        open_engine("edgetpu", SHIPPED_INT8)


def test_a_compiled_model_on_a_cpu_engine_names_the_engine_it_needs(genuine: Path) -> None:
    installed = next(name for name in AUTO if engine_class(name).available())
    with pytest.raises(ModelError, match=r"compiled for the Edge TPU.*the engine edgetpu"):
        open_engine(installed, genuine)


@pytest.mark.parametrize(
    "reported",
    [
        "Failed precondition: Package requires runtime version (14), which is newer than "
        "this runtime version (13).Node number 2 (EdgeTpuDelegateForCustomOp) failed to prepare",
        "Encountered unresolved custom op: edgetpu-custom-op.",
    ],
)
def test_what_the_runtime_reports_of_a_loaded_delegate_gets_its_fix(reported: str) -> None:
    from edgeloc.device.engines.edgetpu.engine import _refusal

    refused = ModelError("m cannot be used")
    refused.__cause__ = RuntimeError(reported)
    assert "feranick/libedgetpu/releases" in str(_refusal(refused, EdgeTpuPlace()))


def test_a_runtime_without_predicted_trouble_is_taken_before_one_with(monkeypatch: pytest.MonkeyPatch) -> None:
    litert, older = engine_class("litert"), engine_class("tflite-runtime")
    monkeypatch.setattr(litert, "available", lambda: True)
    monkeypatch.setattr(older, "available", lambda: True)
    monkeypatch.setattr(older, "installed_version", lambda: "2.11.0")
    assert edgetpu._runtime("16.0") is older
    assert edgetpu._runtime("16.0tf2.19.1-1") is litert


def test_without_a_runtime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("litert", "tflite-runtime", "tensorflow"):
        monkeypatch.setattr(engine_class(name), "available", lambda: False)
    with pytest.raises(EngineError, match="pip install ai-edge-litert"):
        EdgeTpuEngine(ModelFile(Path("m"), b"edgetpu-custom-op", "tflite"))


def test_the_process_ends_with_the_engine(genuine: Path, delegate: Path) -> None:
    engine = open_genuine(genuine, delegate)
    assert isinstance(engine, EdgeTpuEngine)
    process = engine._process._process
    assert process.poll() is None
    engine.close()
    assert process.poll() == 0


def test_other_engines_have_no_devices(genuine: Path) -> None:
    with pytest.raises(UsageError, match="has no devices to choose from; write litert"):
        open_engine("litert://usb:0", genuine)


def test_the_fake_delegate_without_a_compiler_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="apt install gcc"):
        build_fake_delegate(tmp_path, compiler="no-such-cc")


def test_the_fakes_in_a_folder_that_is_not_there_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    for build in (build_fake_delegate, build_fake_compiler):
        with pytest.raises(OutputError, match=r"nowhere: there is no such folder; create it"):
            build(folder)
