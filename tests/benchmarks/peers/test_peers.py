"""Peers answer as edgeloc does, are timed beside it, and those that cannot be say why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeloc import Localizer
from edgeloc._support.lookup import import_named
from edgeloc.benchmarks.peers import PEERS, runtimes
from edgeloc.benchmarks.peers import __main__ as peers
from edgeloc.benchmarks.peers.base import Case, Edgeloc, Found, Peer, Timed
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model
from edgeloc.models import SHIPPED_INT8
from edgeloc.scenes import SceneGenerator
from edgeloc.types import Box, Pixels

SIDE, GRID = 32, 4


@pytest.fixture(scope="module")
def frames() -> list[Pixels]:
    return [SceneGenerator(1, (640, 480)).scene(number).pixels for number in range(3)]


@pytest.fixture
def shipped() -> Case:
    return Case("shipped", Localizer(SHIPPED_INT8, "litert", 1))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random grid head: one convolution gives weights and distances, their mean presence and class."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, kinds, rng = onnx.helper, onnx.TensorProto, np.random.default_rng(3)
    kernel = rng.normal(0, 0.3, (5, 3, SIDE // GRID, SIDE // GRID)).astype(np.float32)
    constants = {
        "kernel": kernel,
        "bias": np.array([0, -1, -1, -1, -1], np.float32),
        "parts": np.array([1, 4]),
        "to_presence": np.full((5, 1), -0.5, np.float32),
        "to_class": rng.normal(0, 1, (5, 2)).astype(np.float32),
    }
    nodes = [
        make.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        make.make_node("Conv", ["planes", "kernel", "bias"], ["cells"], strides=[SIDE // GRID] * 2),
        make.make_node("Transpose", ["cells"], ["last"], perm=[0, 2, 3, 1]),
        make.make_node("Split", ["last", "parts"], ["weights", "distances"], axis=3),
        make.make_node("ReduceMean", ["last"], ["mean"], axes=[1, 2], keepdims=0),
        make.make_node("MatMul", ["mean", "to_presence"], ["presence"]),
        make.make_node("MatMul", ["mean", "to_class"], ["class"]),
    ]
    shapes = {"presence": (1, 1), "class": (1, 2), "weights": (1, GRID, GRID, 1), "distances": (1, GRID, GRID, 4)}
    graph = make.make_graph(
        nodes,
        "grid",
        [make.make_tensor_value_info("image", kinds.FLOAT, (1, SIDE, SIDE, 3))],
        [make.make_tensor_value_info(name, kinds.FLOAT, shape) for name, shape in shapes.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    contract = Contract(
        InputSpec("image", SIDE, SIDE, mean=(127.5,), std=(127.5,)),
        (
            OutputSpec("presence", "presence", "sigmoid"),
            OutputSpec("class", "class", "softmax"),
            OutputSpec("weights", "grid-weights"),
            OutputSpec("distances", "grid-distances"),
        ),
        box=BoxEncoding("grid"),
        labels=("bolt", "nut"),
    )
    path = tmp_path_factory.mktemp("peers") / "grid.onnx"
    write_model(path, model.SerializeToString(), contract)
    return path


def agree(ours: Peer, peer: Peer, frames: list[Pixels]) -> None:
    for frame in frames:
        (expected,), (found,) = ours(frame), peer(frame)
        assert found.label == expected.label
        assert max(abs(a - b) for a, b in zip(found.box, expected.box, strict=True)) < 0.5


def test_litert_by_hand_finds_the_same_box(shipped: Case, frames: list[Pixels]) -> None:
    agree(Edgeloc(shipped, 1), runtimes.LiteRt(shipped, 1), frames)


@pytest.mark.parametrize("kind", [runtimes.OnnxRuntime, runtimes.OpenCvDnn, runtimes.Ncnn])
def test_runtimes_of_onnx_find_the_same_box(kind: type[Peer], onnx_file: Path, frames: list[Pixels]) -> None:
    if kind.package:
        pytest.importorskip(kind.package)
    case = Case("onnx", Localizer(onnx_file, "onnxruntime", 1))
    agree(Edgeloc(case, 1), kind(case, 1), frames)


def test_a_peer_on_edgelocs_engine_runs_the_same_network(shipped: Case) -> None:
    peer, ours = runtimes.LiteRt(shipped, 1), Edgeloc(shipped, 1)
    later = runtimes.LiteRt(shipped, 1)
    assert peer.network is not None and ours.network is not None and later.network is not None
    assert peer.network._inner is ours.network._inner is later.network._inner
    before = ours.network.seconds
    peer.network.invoke()
    assert ours.network.seconds == before, "what a peer runs counts for edgeloc"


def test_openvino_finds_the_same_box(shipped: Case, frames: list[Pixels]) -> None:
    pytest.importorskip("openvino")
    ours, peer = Edgeloc(shipped, 1), runtimes.OpenVino(shipped, 1)
    for frame in frames:
        (expected,), (found,) = ours(frame), peer(frame)
        assert found.label == expected.label and expected.box.iou(found.box) > 0.9


@pytest.mark.parametrize(("name", "package"), [("Ultralytics", "ultralytics"), ("MediaPipe Tasks", "mediapipe")])
def test_whole_programs_find_the_same_boxes(name: str, package: str) -> None:
    pytest.importorskip(package)
    models = peers.cases(None, None, 1)
    (measured,) = [one for one in peers.measure(models, 1, 1) if any(row.name == name for row in one.rows)]
    assert name not in measured.missing


def test_prepared_detectors_answer_what_was_prepared(frames: list[Pixels]) -> None:
    models = peers.cases(None, None, 1)
    yolo, ssd = Edgeloc(models["yolo"], 1)(frames[0]), Edgeloc(models["ssd"], 1)(frames[0])
    assert {one.label for one in yolo} == {str(5 * number) for number in range(12)}
    assert [one.label for one in ssd] == [str(number) for number in range(6)]
    assert all(0 <= box.x1 < box.x2 <= 640 and 0 <= box.y1 < box.y2 <= 480 for box, _ in (*yolo, *ssd))


class Fake(Peer):
    """Finds what it is given, after a network that takes no time."""

    case = "localizer"
    engine = "litert"
    found: tuple[Found, ...] = ()

    def __init__(self, case: Case, threads: int) -> None:
        self.network = self._net = Timed(SimpleNamespace(run=lambda: None), "run")

    def __call__(self, frame: Pixels) -> list[Found]:
        self._net.run()
        return list(self.found)


class Echo(Fake):
    """Finds what edgeloc finds."""

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        self._localizer = Edgeloc(case, threads)

    def __call__(self, frame: Pixels) -> list[Found]:
        return self._localizer(frame)


class Absent(Fake):
    package, install = "no_such_package_anywhere", "pip install no-such-package"


class Broken(Fake):
    def __init__(self, case: Case, threads: int) -> None:
        raise ValueError("bad model\nand more")


class Dying(Fake):
    def __call__(self, frame: Pixels) -> list[Found]:
        raise RuntimeError("no kernel")


class Elsewhere(Fake):
    found = (Found(Box(0, 0, 5, 5), "Nut"),)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    module = ModuleType("fake_peers")
    kinds = (Echo, Absent, Broken, Dying, Elsewhere)
    for kind in kinds:
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "fake_peers", module)
    table = {kind.__name__: f"fake_peers:{kind.__name__}" for kind in kinds}
    monkeypatch.setattr(peers, "PEERS", table)
    yield table


def test_what_cannot_be_compared_says_why(fakes: dict[str, str], shipped: Case) -> None:
    (measured,) = peers.measure({"localizer": shipped}, 2, 1)
    assert [row.name for row in measured.rows] == ["edgeloc", "Echo"]
    assert measured.missing == {
        "Absent": "not installed: pip install no-such-package",
        "Broken": "does not load: bad model",
        "Dying": "does not run: no kernel",
        "Elsewhere": "finds other boxes (IoU 0.00)",
    }
    text = peers.table(measured)
    assert "Echo" in text and "Absent: not installed: pip install no-such-package" in text


def measured(ours: float, theirs: float, name: str = "LiteRT by hand", **changes: Any) -> peers.Measured:
    values = {"differs": (), "whole": True, **changes}
    rows = tuple(
        peers.Row(who, "litert", whole, 1.0, whole - 1, **values) for who, whole in (("edgeloc", ours), (name, theirs))
    )
    return peers.Measured(Case("model", None), rows, {})  # type: ignore[arg-type]


def test_limits_are_held_against_the_fastest_peer_of_the_engine_and_whole_programs() -> None:
    assert not list(measured(100, 101).failures())
    assert list(measured(102, 100).failures()) == ["model: whole frame 1.020 of LiteRT by hand's, at most 1"]
    assert not list(measured(102, 100, whole=False).failures())
    assert list(measured(41, 101, "Ultralytics").failures()) == [
        "model: beyond invoke 0.400 of Ultralytics's, at most 0.3"
    ]
    assert not list(measured(29, 101, "MediaPipe Tasks").failures())


def test_the_command_line_prints_a_table_and_judges_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "_keep_to", lambda threads: None)  # the tests' own process keeps its cores
    for ours, status in ((100.0, 0), (120.0, 1)):
        monkeypatch.setattr(peers, "measure", lambda cases, frames, threads, ours=ours: [measured(ours, 110.0)])
        assert peers.main(["--frames", "1"]) == status
    printed = capsys.readouterr().out
    assert "LiteRT by hand" in printed and "--onnx" in printed and "over the limit" in printed


def test_bad_input_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "_keep_to", lambda threads: None)
    assert peers.main(["--onnx", "absent.onnx"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_peer_says_what_it_needs() -> None:
    for name, where in PEERS.items():
        kind: type[Peer] = import_named(where)
        assert kind.case in ("localizer", "onnx", "yolo", "ssd"), name
        assert bool(kind.package) == bool(kind.install), name
