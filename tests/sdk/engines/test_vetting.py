"""Models from strangers: what they do to a process is seen in another one, and only this machine vouches for them."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc import Contract, InputSpec, Localizer, OutputSpec
from edgeloc.engines import open_engine
from edgeloc.engines.tflite import LiteRtEngine
from edgeloc.errors import EngineError, ModelError
from edgeloc.model import sandbox, trust
from edgeloc.model.demand import MOST_BYTES, demand_of
from edgeloc.model.file import ModelFile, read_model, write_model
from edgeloc.model.flatbuffer import pack, unpack
from edgeloc.model.sandbox import vet_model
from edgeloc.models import SHIPPED_DETECTOR_INT8, SHIPPED_DIGESTS, SHIPPED_INT8

SHIPPED = read_model(SHIPPED_INT8)
# What each does in LiteRT 2.3: the file's own hash fits all of them.
HOSTILE = ["SIGSEGV", "SIGABRT", "fails when it runs"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing remembered in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trust, "_known", set())
    return tmp_path / "cache" / "edgeloc" / "trusted"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were run in a process of their own."""
    run, seen = sandbox.run_child, []

    def counted(program: str, *arguments: str, **options: Any) -> Any:
        seen.append(program)
        return run(program, *arguments, **options)

    monkeypatch.setattr(sandbox, "run_child", counted)
    return seen


def stranger(mark: bytes) -> ModelFile:
    """The shipped model with something behind it, which no runtime looks at."""
    return ModelFile(Path("stranger.tflite"), SHIPPED.payload + mark, "tflite")


def edited(path: Path, edit: Callable[[Any], None]) -> Path:
    """The shipped model after an edit of its object tree, written with a hash that fits."""
    pytest.importorskip("tensorflow")
    model = unpack(SHIPPED.payload)
    edit(model)
    assert SHIPPED.contract is not None
    write_model(path, pack(model), SHIPPED.contract, golden=SHIPPED.golden)
    return path


def hostile(path: Path, how: str) -> Path:
    return edited(path, {"SIGSEGV": _without_weights, "SIGABRT": _without_scale}.get(how, _reshaped_to_one))


def _without_weights(model: Any) -> None:
    model.subgraphs[0].operators[69].inputs[1] = -1


def _without_scale(model: Any) -> None:
    model.subgraphs[0].tensors[221].quantization = None


def _reshaped_to_one(model: Any) -> None:
    model.subgraphs[0].operators[54].opcodeIndex = 8


def _huge(model: Any) -> None:
    model.subgraphs[0].tensors[196].shape = [1, 14, 5439502, 144]


def test_a_model_that_aborts_its_process_is_refused() -> None:
    with pytest.raises(ModelError, match=r"stranger\.tflite makes runtime 1 crash \(SIGABRT\)"):
        vet_model(stranger(b"abort"), "import os; os.abort()", "runtime 1")


def test_an_exception_in_the_trial_is_the_answer() -> None:
    with pytest.raises(ModelError, match=r"stranger\.tflite: runtime 1 does not load it: ValueError: no such shape"):
        vet_model(stranger(b"exception"), "raise ValueError('no such shape')", "runtime 1")
    with pytest.raises(ModelError, match="runtime 1 does not run it: RuntimeError: no such shape"):
        vet_model(stranger(b"run"), "answer(['loaded']); raise RuntimeError('no such shape')", "runtime 1")


def test_a_broken_runtime_is_not_the_models_fault() -> None:
    program = "from edgeloc.errors import EngineError; raise EngineError('runtime 1 does not work here')"
    with pytest.raises(EngineError, match="^runtime 1 does not work here$"):
        vet_model(stranger(b"engine"), program, "runtime 1")


def test_where_no_process_can_be_started_a_stranger_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EngineError, match="cannot be tried in a process of its own: that could not be started"):
        vet_model(stranger(b"embedded"), "answer(['passed'])", "runtime 1")


def test_a_model_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, timeout: float, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match="did not end"):
        vet_model(stranger(b"endless"), "pass", "runtime 1")


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_a_model_that_takes_too_much_memory_or_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "limit_model()\nblock = bytearray(2 << 30)\nanswer(['passed'])"
    with pytest.raises(ModelError, match="far too much memory"):
        vet_model(stranger(b"memory"), program, "runtime 1")
    monkeypatch.setattr(sandbox, "_LEAST_S", 0)
    with pytest.raises(ModelError, match="far too long"):
        vet_model(stranger(b"time"), "limit_model()\nwhile True: pass", "runtime 1")


def test_a_shape_of_ten_gigabytes_is_refused_before_a_runtime_sees_it(trials: list[str], tmp_path: Path) -> None:
    path = edited(tmp_path / "huge.tflite", _huge)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"huge\.tflite: one tensor takes 10,458 MB of memory, and at most 512 MB"):
        Localizer(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert trials == []


def test_tensors_that_are_huge_together_are_refused() -> None:
    pytest.importorskip("tensorflow")
    model = unpack(SHIPPED.payload)
    operators = model.subgraphs[0].operators
    operators[8].inputs = [operator.outputs[0] for operator in operators[:8]]
    for index in operators[8].inputs:
        model.subgraphs[0].tensors[index].shape = [1, MOST_BYTES // 3]
    with pytest.raises(ModelError, match=r"^m: its tensors take .* MB of memory"):
        demand_of(pack(model), "m")


def test_a_shape_beyond_all_numbers_is_refused() -> None:
    pytest.importorskip("tensorflow")
    model = unpack(SHIPPED.payload)
    model.subgraphs[0].tensors[196].shape = [2**31 - 1] * 10_000
    with pytest.raises(ModelError, match=r"^m: one tensor takes .* MB of memory"):
        demand_of(pack(model), "m")


@pytest.mark.parametrize("version", [-2, 0, 2**31 - 1])
def test_an_operator_of_no_version_is_damage_and_not_a_newer_runtimes(version: int) -> None:
    pytest.importorskip("tensorflow")
    model = unpack(SHIPPED.payload)
    model.operatorCodes[0].version = version
    with pytest.raises(ModelError, match=f"no operator has a version {version};"):
        demand_of(pack(model), "m")


def test_what_the_shipped_model_takes_is_known_from_its_bytes() -> None:
    demand = demand_of(SHIPPED.payload, "m")
    assert 100_000 < demand.live < demand.total < 10_000_000
    assert 105_000_000 < demand.macs < 115_000_000


def test_tables_that_lie_upon_each_other_end() -> None:
    """1,000 graphs that are all the same one, with 1,000 tensors that are all the same one, in 8 kB."""
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder()
    tensors = _repeated(builder, _table(builder, 3, {}), 1000)
    graphs = _repeated(builder, _table(builder, 4, {0: tensors}), 1000)
    buffers = _repeated(builder, _table(builder, 1, {}), 1)
    builder.Finish(_table(builder, 5, {2: graphs, 4: buffers}), file_identifier=b"TFL3")
    began = time.process_time()
    with pytest.raises(ModelError, match="damaged"):
        demand_of(bytes(builder.Output()), "m")
    assert time.process_time() - began < 10


def _table(builder: Any, fields: int, vectors: dict[int, int]) -> int:
    builder.StartObject(fields)
    for number, vector in vectors.items():
        builder.PrependUOffsetTRelativeSlot(number, vector, 0)
    return int(builder.EndObject())


def _repeated(builder: Any, table: int, count: int) -> int:
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hash_that_the_file_carries_switches_nothing_off(how: str, tmp_path: Path) -> None:
    """In a process of its own, so that this one outlives the fault."""
    path = hostile(tmp_path / "hostile.tflite", how)
    program = f"""
from edgeloc import Localizer
from edgeloc.errors import ModelError
for _ in range(3):
    try:
        Localizer({str(path)!r})
    except ModelError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(path)) == 3
    assert "hostile.tflite" in done.stdout and "litert" in done.stdout


@pytest.mark.parametrize("how", HOSTILE)
def test_inspect_runs_no_model_in_its_own_process(how: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeloc", "inspect", str(hostile(tmp_path / "hostile.tflite", how))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "self-test     failed" in done.stdout


def test_the_shipped_model_needs_no_trial(trials: list[str]) -> None:
    assert {SHIPPED.digest, read_model(SHIPPED_DETECTOR_INT8).digest} == SHIPPED_DIGESTS
    Localizer(SHIPPED_INT8)
    assert trials == []


def test_a_strangers_model_is_tried_once_a_machine(
    trials: list[str], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = edited(tmp_path / "good.tflite", lambda model: setattr(model, "description", b"a stranger's"))
    for _ in range(2):
        Localizer(path)
        monkeypatch.setattr(trust, "_known", set())  # as a new process begins
    assert len(trials) == 1
    (entry,) = cache.iterdir()
    assert (entry.stat().st_mode & 0o777, cache.stat().st_mode & 0o777) == (0o600, 0o700)
    monkeypatch.setattr(LiteRtEngine, "installed_version", lambda: "99.0")
    Localizer(path)
    assert len(trials) == 2


def test_a_damaged_or_a_foreign_cache_vouches_for_nothing(trials: list[str], cache: Path) -> None:
    model = stranger(b"cache")
    program = "answer(['passed'])"
    vet_model(model, program, "runtime 1")
    entry = next(cache.iterdir())
    for harm in (_made_a_folder, lambda _: cache.chmod(0o777), _replaced_by_a_file):
        trust._known.clear()
        harm(entry)
        vet_model(model, program, "runtime 1")
    assert len(trials) == 4
    vet_model(model, program, "runtime 1")
    assert len(trials) == 4


def _made_a_folder(entry: Path) -> None:
    entry.unlink()
    entry.mkdir()


def _replaced_by_a_file(entry: Path) -> None:
    entry.rmdir()
    entry.parent.rmdir()
    entry.parent.write_text("no folder")


@pytest.mark.parametrize("home", ["/proc/nowhere", ""])
def test_a_home_that_cannot_be_written_costs_a_trial_and_no_error(
    home: str, trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(Path, "home", lambda: Path(home) if home else _homeless())
    vet_model(stranger(b"home"), "answer(['passed'])", "runtime 1")
    vet_model(stranger(b"home"), "answer(['passed'])", "runtime 1")
    assert len(trials) == 1


def _homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_strangers_good_model_loads(tiny_models: Path) -> None:
    assert open_engine("litert", tiny_models / "int8.tflite").inputs


@pytest.mark.parametrize("sizes", [("batch", "h", "w", 3), (1, "h", "w", 3), ("batch", 32, 32, 3), (1, 32, 32, 3)])
def test_a_model_of_open_sizes_is_tried_with_the_contracts(sizes: tuple[int | str, ...], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[30, 30]),
        helper.make_node("ReduceMean", ["pooled"], ["presence"], keepdims=0),
    ]
    ports = [helper.make_tensor_value_info("image", kind, sizes)], [helper.make_tensor_value_info("presence", kind, [])]
    graph = helper.make_graph(nodes, "g", *ports)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "open.onnx"
    contract = Contract(InputSpec("image", 32, 32), (OutputSpec("presence", "presence"),))
    write_model(path, model.SerializeToString(), contract)
    assert Localizer(path, "onnxruntime")(np.zeros((32, 32, 3), np.uint8)).presence == -1.0
