"""`edgeloc run` from the command line: what it prints, leaves behind and exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from edgeloc.cli import main
from edgeloc.commands.run import _last_words
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorSpec
from edgeloc.model.file import write_model
from edgeloc.models import SHIPPED_INT8
from edgeloc.sinks import Sink
from edgeloc.sinks.jsonl import JsonLinesSink

SYNTHETIC = "synthetic://?seed=1&size=64x48&live=0"


@pytest.fixture(scope="session")
def bare_model(tiny_models: Path) -> Path:
    """An int8 model without a contract."""
    return tiny_models / "int8.tflite"


@pytest.fixture(scope="session")
def contract() -> Contract:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    return Contract(InputSpec("image", 32, 32), outputs, BoxEncoding("cxcywh"))


@pytest.fixture(scope="session")
def model(bare_model: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("run") / "model.tflite"
    write_model(path, bare_model.read_bytes(), contract, calibration=None, golden=None)
    return str(path)


def test_a_pipeline_writes_the_same_lines(model: str, tmp_path: Path) -> None:
    written: list[list[tuple[int, float]]] = []
    for flags in ([], ["--pipeline"], ["--pipeline", "--follow"]):
        path = tmp_path / f"{len(written)}.jsonl"
        assert main(["run", model, "--camera", f"{SYNTHETIC}&frames=6", "--sink", str(path), *flags]) == 0
        records = [json.loads(line) for line in path.read_text().splitlines()]
        written.append([(record["sequence"], record["presence"]) for record in records])
    assert len(written[0]) == 6 and written[0] == written[1] == written[2]


def test_the_number_of_threads_and_the_engine_are_chosen_by_measuring(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("edgeloc.engines.choice.usable_cores", lambda: (0, 1))
    camera = ["--camera", f"{SYNTHETIC}&frames=2"]
    assert main(["run", str(SHIPPED_INT8), *camera, "--threads", "auto", "--engine", "fake://?delay_ms=9,3"]) == 0
    assert "localizer-int8.tflite runs on fake 1 with 2 threads, the fastest: " in capsys.readouterr().err
    assert main(["run", model, *camera, "--engine", "fastest"]) == 2
    assert "has no self-test for the engine fastest to pass: name an --engine" in capsys.readouterr().err
    assert main(["run", model, *camera, "--threads", "many"]) == 2
    assert "must be a whole number from 1 to 1,000,000,000, or auto" in capsys.readouterr().err


def test_a_run_writes_its_sinks_and_prints_its_summary(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    uri = f"{SYNTHETIC}&frames=6"
    assert main(["run", model, "--camera", uri, "--sink", str(lines), "--sink", str(video)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("6 results in ")
    assert "the source ended" in printed.out and f"Wrote {lines}, {video}." in printed.out
    assert printed.err == ""
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["sequence"] for record in records] == list(range(6))
    assert int(cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT)) == 6


def test_the_summary_as_json_is_one_object(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "out.jsonl"
    camera = "fake://?size=64x48&fps=100&frames=120&disconnect=20:0.2"
    assert main(["run", model, "--camera", camera, "--sink", str(lines), "--json"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["frames"] == len(lines.read_text().splitlines())
    assert (summary["ended_by"], summary["live"], summary["written"]) == ("camera", True, [str(lines)])
    (finding,) = summary["findings"]
    assert (finding["code"], finding["severity"]) == ("camera-gaps", "warning")
    assert f"warning: {finding['message']}" in printed.err
    assert all(json.loads(line)["engine"] for line in lines.read_text().splitlines())


def test_frames_budget_mode_and_threads_are_obeyed(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "out.jsonl"
    flags = ["--frames", "3", "--budget-ms", "0.0001", "--mode", "fresh", "--threads", "1"]
    camera = "synthetic://?size=64x48&fps=100"
    assert main(["run", model, "--camera", camera, "--sink", str(lines), *flags]) == 0
    assert "its number of results was reached" in capsys.readouterr().out
    assert [json.loads(line)["stale"] for line in lines.read_text().splitlines()] == [True] * 3


def test_tracking_is_in_every_line_and_holds_for_the_time_asked_for(model: str, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    flags = ["--sink", str(lines), "--track", "--predict-ms", "150"]
    assert main(["run", model, "--camera", f"{SYNTHETIC}&frames=3", *flags]) == 0
    for line in map(json.loads, lines.read_text().splitlines()):
        assert line["track"]["state"] in ("measured", "predicted", "lost")
        assert line["track"]["at"] == pytest.approx(line["captured_at"] + 0.15)


def test_following_tracks_too(model: str, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    flags = ["--sink", str(lines), "--follow", "--predict-ms", "150"]
    assert main(["run", model, "--camera", f"{SYNTHETIC}&frames=3", *flags]) == 0
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [answer["track"]["at"] - answer["captured_at"] for answer in answers] == pytest.approx([0.15] * 3)
    assert all(answer["engine"] for answer in answers)


def test_a_contract_can_be_given_for_a_bare_model(
    bare_model: Path, contract: Contract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = tmp_path / "contract.json"
    beside.write_text(contract.to_json())
    flags = ["--camera", f"{SYNTHETIC}&frames=2"]
    assert main(["run", str(bare_model), *flags]) == 2
    assert "give --contract" in capsys.readouterr().err
    assert main(["run", str(bare_model), *flags, "--contract", str(beside)]) == 0


def test_an_onnx_of_others_runs_with_its_contract_beside_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[32, 32]),
        helper.make_node("Concat", ["mean", "mean"], ["rows"], axis=1),  # 6 numbers: a box, its score and its class
    ]
    ports = [[helper.make_tensor_value_info(*port)] for port in (("image", kind, [1, 3, 32, 32]), ("rows", kind, None))]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", *ports), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, tmp_path / "detector.onnx")
    contract = Contract(
        InputSpec("image", 32, 32, mean=(-100.0,), std=(255.0,), layout="channels-first"),
        (OutputSpec("rows", "detections", parts=("box", "score", "unused:1"), layout="channels-first"),),
        thresholds=Thresholds(presence=0.1),
        detector=DetectorSpec(),
    )
    (tmp_path / "detector.json").write_text(contract.to_json())
    out, flags = tmp_path / "out.jsonl", ["--camera", f"{SYNTHETIC}&frames=2", "--engine", "onnxruntime"]
    assert main(["run", str(tmp_path / "detector.onnx"), *flags, "--sink", str(out)]) == 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["engine"], len(one["objects"])) for one in answers] == [("onnxruntime", 1)] * 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--camera", "/dev/video987"], 3, "/dev/video987 is not there"),
        (["--camera", "nothing.mp4"], 2, "nothing.mp4 is not there"),
        (["--camera", "webcam://0"], 2, "known are"),
        (["--camera", SYNTHETIC, "--sink", "out.gif"], 2, "known are"),
        (["--camera", SYNTHETIC, "--sink", "a.jsonl", "--sink", "./a.jsonl"], 2, "given twice"),
        (["--camera", SYNTHETIC, "--sink", "a.jsonl", "--sink", "file://a.jsonl", "--overwrite"], 2, "given twice"),
        (["--camera", SYNTHETIC, "--sink", "/dev/null/out.mp4"], 2, "/dev/null/out.mp4"),
        (["--camera", SYNTHETIC, "--engine", "abacus"], 2, "abacus"),
        (["--camera", SYNTHETIC, "--frames", "0"], 2, "--frames"),
        (["--camera", SYNTHETIC, "--budget-ms", "-1"], 2, "--budget-ms"),
        (["--camera", SYNTHETIC, "--mode", "latest"], 2, "--mode"),
        (["--camera", SYNTHETIC, "--predict-ms", "100"], 2, "give --track"),
        (["--camera", SYNTHETIC, "--track", "--predict-ms", "-1"], 2, "--predict-ms"),
        ([], 2, "--camera"),
    ],
)
def test_a_wrong_line_is_one_sentence(
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", model, *arguments]) == status
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nothing.tflite", "--camera", SYNTHETIC]) == 2
    assert "nothing.tflite" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["{}/./flight.mp4", "file://{}/flight.mp4"])
def test_the_video_that_is_read_is_not_overwritten(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    path = tmp_path / "flight.mp4"
    path.write_bytes(b"precious")
    assert main(["run", model, "--camera", str(path), "--sink", form.format(tmp_path), "--overwrite"]) == 2
    assert "give another name" in capsys.readouterr().err
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("live", "number", "status"),
    [
        (1, signal.SIGINT, 0),
        (1, signal.SIGTERM, 0),
        (1, signal.SIGHUP, 0),
        (0, signal.SIGINT, 130),
        (0, signal.SIGTERM, 143),
        (0, signal.SIGHUP, 143),
    ],
)
def test_a_signal_ends_a_run_well(model: str, tmp_path: Path, live: int, number: signal.Signals, status: int) -> None:
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    sinks = ["--sink", str(lines), "--sink", str(video)]
    process = start(["run", model, "--camera", f"synthetic://?size=64x48&live={live}", *sinks], lines)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status and "error" not in err and "Traceback" not in err
    assert ("interrupted" if number == signal.SIGINT else "terminated") in out
    assert all(json.loads(line) for line in lines.read_text().splitlines())
    assert cv2.VideoCapture(str(video)).read()[0]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


PROGRAM = """
import sys
from edgeloc.cli import program
sys.exit(program())
"""


def start(line: list[str], lines: Path, program: str = PROGRAM) -> subprocess.Popen[str]:
    """A command in a process of its own, once the file `lines` has its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while process.poll() is None and not (lines.exists() and lines.stat().st_size):
        if time.monotonic() > until:
            process.kill()
            pytest.fail(f"no result in 60 s: {process.communicate()}")
        time.sleep(0.02)
    return process


HANGING = """
import ctypes, sys
from edgeloc import localizer
original = localizer.Localizer.__call__
def hang(self, frame):
    if frame.sequence > 5:
        open(sys.argv[-1].replace("out.mp4", "hangs"), "w")
        ctypes.CDLL(None).pause()  # in native code, as a driver does
        while True:
            ctypes.CDLL(None).pause()
    return original(self, frame)
localizer.Localizer.__call__ = hang
from edgeloc.cli import program
sys.exit(program())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_localizer_that_hangs_in_native_code_does_not_keep_a_run_alive(
    model: str, tmp_path: Path, number: signal.Signals
) -> None:
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    sinks = ["--sink", str(lines), "--sink", str(video)]
    process = start(["run", model, "--camera", "synthetic://?size=64x48&live=0", *sinks], lines, HANGING)
    while not (tmp_path / "hangs").exists():
        time.sleep(0.02)
    asked_at = time.monotonic()
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - asked_at < 5
    assert process.returncode == 143
    assert "the localizer did not end after SIG" in err and str(lines) in err
    assert len(lines.read_text().splitlines()) == 6
    capture = cv2.VideoCapture(str(video))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 6


SLOW_TO_CLOSE = """
import sys, time
from edgeloc.sinks.jsonl import JsonLinesSink
from edgeloc.testing import SyntheticCamera
close, closed = JsonLinesSink.close, SyntheticCamera._close
JsonLinesSink.close = lambda self: (time.sleep(3.2), close(self))  # longer than a hanging model would be given
SyntheticCamera._close = lambda self: (time.sleep(0.3), closed(self))
from edgeloc.cli import program
sys.exit(program())
"""


def test_a_slow_card_is_given_the_time_to_take_the_end(model: str, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    line = ["run", model, "--camera", "synthetic://?size=64x48", "--sink", str(lines)]
    process = start(line, lines, SLOW_TO_CLOSE)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "Ended: interrupted" in out


def test_the_last_words_close_every_sink_but_the_one_that_hangs(tmp_path: Path) -> None:
    class Closing(JsonLinesSink):
        def close(self) -> None:
            super().close()
            closed.append(self.path.name)
            raise OSError("its disk is gone")

    closed: list[str] = []
    sinks: list[Sink] = [Closing(tmp_path / name) for name in ("a.jsonl", "hangs-a.jsonl", "b.jsonl")]
    assert _last_words(sinks, f"closing {tmp_path / 'hangs-a.jsonl'}") == "nothing was written"
    assert closed == ["a.jsonl", "b.jsonl"]


def test_a_file_that_is_there_already_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("yesterday\n")
    line = ["run", model, "--camera", SYNTHETIC, "--sink", str(path), "--frames", "3"]
    assert main(line) == 2
    assert (
        f"{path} is there already: give another name, one with {{time}} in it, or --overwrite"
        in capsys.readouterr().err
    )
    assert path.read_text() == "yesterday\n"
    assert main([*line, "--overwrite"]) == 0
    assert "yesterday" not in path.read_text()


def test_a_uri_may_stand_in_a_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera, sink = tmp_path / "camera.uri", tmp_path / "sink.uri"
    camera.write_text(f"{SYNTHETIC}\n# the camera at the gate\n")
    sink.write_text(f"{tmp_path / 'out.jsonl'}")
    assert main(["run", model, "--camera", f"@{camera}", "--sink", f"@{sink}", "--frames", "2"]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    camera.write_text("\n")
    for file, why in ((camera, "the first line of"), (tmp_path / "nothing", "cannot be read: No such file")):
        assert main(["run", model, "--camera", f"@{file}"]) == 2
        assert why in capsys.readouterr().err
