"""Compiling by a fake compiler, run as a process of its own: what is kept, what is refused, what is ended."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.targets.edgetpu import compile_edgetpu, to_edgetpu
from edgeloc.converters.targets.edgetpu.prediction import CUSTOM_OPERATOR, predict_mapping
from edgeloc.errors import ContractError, GateFailed, ModelError, OutputError, UsageError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import ModelFile, read_model, write_model
from edgeloc.model.golden import Golden
from edgeloc.model.inspection import inspect_model
from edgeloc.testing import build_fake_compiler
from edgeloc.types import Box

CONTRACT = Contract(
    InputSpec("image", 32, 32),
    (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box")),
    labels=("bolt",),
    tools={"edgeloc": "0"},
    hashes={"float_model": "abc"},
    measured={"val": {"mean_iou": 0.7}},
)
GOLDEN = Golden(np.full((24, 32, 3), 90, np.uint8), 0.9, Box(1.0, 2.0, 20.0, 22.0), "bolt")


def write(tiny_models: Path, folder: Path, name: str = "int8") -> Path:
    path = folder / f"{name}.tflite"
    data = (tiny_models / f"{name}.tflite").read_bytes()
    write_model(path, data, CONTRACT, calibration={"count": 8}, golden=GOLDEN, extra={"notes.txt": b"mine"})
    return path


@pytest.fixture
def model(tiny_models: Path, tmp_path: Path) -> Path:
    """The tiny int8 localizer with everything behind it."""
    return write(tiny_models, tmp_path)


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """A fake compiler that compiles."""
    return str(build_fake_compiler(tmp_path))


def test_the_compiled_file_keeps_what_the_model_carried(model: Path, compiler: str, tmp_path: Path) -> None:
    out = tmp_path / "out" / "robot_edgetpu.tflite"
    compilation = compile_edgetpu(model, out, compiler=compiler)
    before, after = read_model(model), read_model(out)
    assert compilation.mapped_share == 1
    assert after.contract.hashes["payload"] == after.digest
    assert after.labels == ("bolt",)
    assert after.calibration == {"count": 8}
    assert after.members["notes.txt"] == b"mine"
    assert after.golden is not None
    assert after.golden.expected_json() == GOLDEN.expected_json()
    assert np.array_equal(after.golden.image, GOLDEN.image)
    assert inspect_model(out).custom_operators == (CUSTOM_OPERATOR,)
    assert after.contract is not None
    assert dataclasses.replace(after.contract, tools={}, hashes={}, measured={}) == dataclasses.replace(
        CONTRACT, tools={}, hashes={}, measured={}
    )
    assert after.contract.hashes["uncompiled"] == hashlib.sha256(before.payload).hexdigest()
    assert after.contract.hashes["float_model"] == "abc"


def test_the_contract_tells_the_compiler_and_its_figures(model: Path, compiler: str, tmp_path: Path) -> None:
    out = tmp_path / "robot.tflite"
    compilation = compile_edgetpu(model, out, compiler=compiler)
    contract = read_model(out).contract
    assert contract is not None
    assert contract.tools == {"edgeloc": "0", "edgetpu_compiler": "16.0.384591198"}
    assert contract.measured["edgetpu"] == json.loads(json.dumps(compilation.to_dict()))
    assert contract.measured["val"] == {"mean_iou": 0.7}


def test_outputs_keep_the_names_that_the_contract_uses_though_the_compiler_drops_signatures(
    model: Path, compiler: str, tmp_path: Path
) -> None:
    out = tmp_path / "robot.tflite"
    compile_edgetpu(model, out, compiler=compiler)
    before, after = inspect_model(model), inspect_model(out)
    assert not [one for one in after.findings if one.code == "contract-misfit"]
    assert after.inputs == before.inputs
    assert set(after.outputs) == set(before.outputs)
    assert {port.name for port in after.outputs} == {"presence", "box"}


def test_a_model_that_breaks_off_fails_the_floor_and_names_the_operators(
    tiny_models: Path, compiler: str, tmp_path: Path
) -> None:
    out = tmp_path / "robot.tflite"
    model = write(tiny_models, tmp_path, "island")
    with pytest.raises(GateFailed, match=r"fewer than 90%.*SIN \(operation not supported\)") as error:
        compile_edgetpu(model, out, compiler=compiler)
    assert error.value.exit_status == 1
    assert not out.exists()


def test_below_a_lower_floor_it_compiles_in_part(tiny_models: Path, compiler: str, tmp_path: Path) -> None:
    out = tmp_path / "robot.tflite"
    model = write(tiny_models, tmp_path, "island")
    compilation = compile_edgetpu(model, out, compiler=compiler, min_mapped=0.1)
    predicted = predict_mapping(read_model(model).payload, "island")
    assert (compilation.mapped, compilation.total) == (predicted.mapped, len(predicted.operators))
    assert {"SIN", CUSTOM_OPERATOR} <= set(inspect_model(out).operators)
    assert {port.name for port in inspect_model(out).outputs} == {"presence", "box"}


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("aborts", "try again"),
        ("crashes", "SIGSEGV"),
        ("forgets", "wrote no model"),
        ("stubs", "stub of 1024 bytes"),
        ("times-out", "in its time"),
        ("too-large", "smaller input"),
    ],
)
def test_a_failure_or_false_success_leaves_nothing(model: Path, tmp_path: Path, behaviour: str, told: str) -> None:
    out = tmp_path / "out" / "robot.tflite"
    compiler = str(build_fake_compiler(tmp_path, behaviour))
    with pytest.raises(ModelError) as error:
        compile_edgetpu(model, out, compiler=compiler)
    assert told in str(error.value)
    assert str(model) in str(error.value)
    assert list(out.parent.iterdir()) == []


def test_a_compiler_that_hangs_is_ended_with_its_children(model: Path, tmp_path: Path) -> None:
    # The fake's child holds the pipe open: were it left alive, this would wait for ten minutes.
    compiler = str(build_fake_compiler(tmp_path, "hangs"))
    with pytest.raises(ModelError, match=r"within 0\.5 s"):
        compile_edgetpu(model, tmp_path / "robot.tflite", compiler=compiler, timeout_s=0.5)


def test_an_older_result_stays_when_compiling_fails(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "robot.tflite"
    out.write_bytes(b"the one from last week")
    with pytest.raises(ModelError):
        compile_edgetpu(model, out, compiler=str(build_fake_compiler(tmp_path, "forgets")))
    assert out.read_bytes() == b"the one from last week"


def test_a_result_of_an_earlier_model_does_not_pass_for_this_one_s(model: Path, tmp_path: Path) -> None:
    beside = model.with_name(f"{model.stem}_edgetpu.tflite")
    beside.write_bytes(b"of an earlier model")
    with pytest.raises(ModelError):
        to_edgetpu(model, compiler=str(build_fake_compiler(tmp_path, "forgets")))
    assert not beside.exists()


def test_a_float_model_is_told_to_be_quantized(tiny_models: Path, compiler: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="with the recipe int8"):
        compile_edgetpu(write(tiny_models, tmp_path, "float32"), tmp_path / "robot.tflite", compiler=compiler)


def test_a_compiler_that_maps_nothing_makes_no_edge_tpu_model(tiny_models: Path, compiler: str, tmp_path: Path) -> None:
    model = write(tiny_models, tmp_path, "int16")
    with pytest.raises(GateFailed, match="0 of"):
        compile_edgetpu(model, tmp_path / "robot.tflite", compiler=compiler)
    with pytest.raises(ModelError, match="compiled nothing"):
        compile_edgetpu(model, tmp_path / "robot.tflite", compiler=compiler, min_mapped=0)


def test_without_the_compiler_the_install_lines_are_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(UsageError, match="apt-get install edgetpu-compiler"):
        compile_edgetpu(model, model.with_name("out.tflite"), compiler="no-such-compiler")


def test_on_another_machine_the_way_round_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(UsageError, match="x86-64 Linux only"):
        compile_edgetpu(model, model.with_name("out.tflite"), compiler="no-such-compiler")


def test_a_program_that_is_no_compiler_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not print what edgetpu_compiler does"):
        compile_edgetpu(model, tmp_path / "robot.tflite", compiler="true")


def test_a_model_without_a_contract_is_refused(tiny_models: Path, compiler: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="carries no contract"):
        compile_edgetpu(tiny_models / "int8.tflite", tmp_path / "robot.tflite", compiler=compiler)


def test_the_model_is_never_written_over(model: Path, compiler: str) -> None:
    with pytest.raises(OutputError, match="one of the files that are read"):
        compile_edgetpu(model, model, compiler=compiler)


def test_a_compiled_file_is_not_compiled_again(model: Path, compiler: str, tmp_path: Path) -> None:
    compile_edgetpu(model, tmp_path / "once.tflite", compiler=compiler)
    with pytest.raises(ModelError, match="already"):
        compile_edgetpu(tmp_path / "once.tflite", tmp_path / "twice.tflite", compiler=compiler)


@pytest.mark.parametrize("numbers", [{"min_mapped": 1.5}, {"min_mapped": -0.1}, {"timeout_s": 0}])
def test_numbers_out_of_range_are_refused(model: Path, compiler: str, numbers: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="0 to 1|seconds above 0"):
        compile_edgetpu(model, model.with_name("out.tflite"), compiler=compiler, **numbers)


def test_the_target_writes_beside_the_model_and_logs_before_and_after(
    model: Path, compiler: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edgeloc")
    out, compilation = to_edgetpu(model, compiler=compiler)
    assert compilation.mapped == compilation.total
    assert out == model.with_name("int8_edgetpu.tflite")
    assert read_model(out).contract is not None
    assert caplog.messages[0].startswith("prediction: ")
    assert "should run on the Edge TPU" in caplog.messages[0]
    assert "edgetpu_compiler 16.0.384591198" in caplog.messages[1]


def test_without_the_compiler_the_target_still_predicts(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = model.read_bytes()
    caplog.set_level("INFO", "edgeloc")
    with pytest.raises(UsageError) as error:
        to_edgetpu(model, compiler="no-such-compiler")
    assert error.value.exit_status == 2
    assert "should run on the Edge TPU" in caplog.messages[0]
    assert model.read_bytes() == before
    assert not model.with_name("int8_edgetpu.tflite").exists()


def test_an_unknown_behaviour_of_the_fake_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compiles"):
        build_fake_compiler(tmp_path, "sings")


def test_a_runtime_without_the_delegate_says_what_the_file_is(model: Path, compiler: str) -> None:
    from edgeloc.engines import AUTO, engine_class, open_engine

    out, _ = to_edgetpu(model, compiler=compiler)
    runtime = next(name for name in AUTO if engine_class(name).available())
    with pytest.raises(ModelError, match="compiled for the Edge TPU"):
        open_engine(runtime, ModelFile(out, read_model(out).payload, "tflite", trusted=True))
