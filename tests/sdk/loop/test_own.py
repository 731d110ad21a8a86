"""A localizer of the user's own on the command line: what it may be, what it answers, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeloc import Frame, Localizer, UsageError
from edgeloc.cli import main
from edgeloc.errors import EngineError
from edgeloc.loop.own import OwnLocalizer, is_own_code
from edgeloc.models import SHIPPED_INT8
from edgeloc.testing.suites import example_frame

CODE = """
import os
import edgeloc
from edgeloc.models import SHIPPED_INT8

def find(frame):
    box = edgeloc.Box(1, 2, 3, 4 + frame.sequence)
    return edgeloc.Result((edgeloc.Detection(box, 0.75, "nut"),))

class Finder:
    made = 0

    def __init__(self):
        Finder.made += 1

    def __call__(self, frame):
        if frame.sequence == 2:
            raise ZeroDivisionError("division by zero")
        return find(frame)

class Needy:
    def __init__(self, path):
        pass

class Group:
    find = staticmethod(find)

localizer = edgeloc.Localizer(SHIPPED_INT8)
number = 3
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The search path and the modules as they were."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith("edgeloc") and "pytest" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def code(tmp_path: Path) -> str:
    path = tmp_path / "my_detector.py"
    path.write_text(CODE)
    return str(path)


def run(model: str, out: Path, *words: str) -> int:
    camera = "synthetic://?seed=1&size=64x48&frames=5&live=0"
    return main(["run", model, "--camera", camera, "--sink", str(out), *words])


def records(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_function_of_a_file_localizes(code: str, tmp_path: Path) -> None:
    assert run(f"{code}:find", tmp_path / "out.jsonl", "--track") == 0
    answers = records(tmp_path / "out.jsonl")
    assert [answer["box"] for answer in answers] == [[1, 2, 3, 4 + n] for n in range(5)]
    assert {(answer["label"], answer["engine"]) for answer in answers} == {("nut", "")}


@pytest.mark.parametrize(("box", "label"), [("(1, 2, 3, 4)", "'nut'"), ("None", "3")])
def test_an_answer_of_other_types_is_named(
    box: str, label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(
        f"import edgeloc\n\ndef find(frame):\n    return edgeloc.Result((edgeloc.Detection({box}, 0.75, {label}),))\n"
    )
    assert run(f"{tmp_path}/own.py:find", tmp_path / "out.jsonl", "--track") == 2
    said = capsys.readouterr().err
    assert f"the localizer gave box {box}, label {label}: give an edgeloc.Box or None, and a text or None" in said


def test_a_function_without_a_contract_cannot_follow(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{code}:find", tmp_path / "out.jsonl", "--follow") == 2
    assert "has no contract: give it a `contract`" in capsys.readouterr().err


def test_of_a_class_one_object_is_made_and_what_it_raises_costs_a_frame(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{code}:Finder", tmp_path / "out.jsonl") == 0
    assert [answer["sequence"] for answer in records(tmp_path / "out.jsonl")] == [0, 1, 3, 4]
    assert f"{code}:Finder raised ZeroDivisionError: division by zero; the frame is skipped" in capsys.readouterr().err


def test_a_name_may_have_dots(code: str) -> None:
    assert OwnLocalizer(f"{code}:Group.find")(example_frame()).present


def test_a_localizer_that_the_code_has_made_keeps_its_engine_and_its_input(code: str) -> None:
    own = OwnLocalizer(f"{code}:localizer")
    assert own.engine is not None and own.contract is not None
    assert own.engine.name == Localizer(SHIPPED_INT8).engine.name


def test_a_module_is_looked_for_in_the_current_folder_first(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/detect.py").write_text(CODE)
    words = ["run", "pack.detect:find", "--camera", "synthetic://?size=64x48&frames=2&live=0", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeloc", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["frames"] == 2


def test_a_file_finds_what_lies_beside_it_and_may_be_called_like_a_module(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text(CODE)
    (tmp_path / "json.py").write_text("from beside_it import find")
    (tmp_path / "wave.py").write_text("raise RuntimeError('a module of Python was replaced')")
    assert OwnLocalizer(f"{tmp_path}/json.py:find")(example_frame()).present
    assert sys.modules["json"].loads("1") == 1
    import wave

    assert wave.Error


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("no_such_module_here:find", "there is no module no_such_module_here; run from the folder that holds"),
        ("os.nowhere:find", r"there is no module os\.nowhere"),
        ("nowhere/file.py:find", r"there is no file nowhere/file\.py"),
        ("{code}:nothing", "has no attribute 'nothing'"),
        ("{code}:number", "is a int: it must be a function from a frame to a result"),
        ("{code}:Needy", r"cannot be made without arguments \(TypeError: .*path"),
        (
            "{bad}:find",
            r"bad\.py cannot be imported \(ValueError: no data\): it must import without doing anything else",
        ),
        ("{exits}:find", r"exits\.py cannot be imported \(SystemExit: 3\)"),
        ("{broken}:find", r"broken\.py cannot be imported \(SyntaxError"),
        ("{lacks}:find", "there is no module no_such_library"),
    ],
)
def test_what_cannot_be_a_localizer_is_refused_in_one_sentence(
    reference: str, says: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "bad": "raise ValueError('no data')",
        "exits": "raise SystemExit(3)",
        "broken": "def find(:",
        "lacks": "import no_such_library",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    files = {name: tmp_path / f"{name}.py" for name in texts}
    assert run(reference.format(code=code, **files), tmp_path / "out.jsonl") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(says, line)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--engine", "litert"],
        ["--threads", "2"],
        ["--contract", "c.json"],
        ["--cpu-model", "m.tflite"],
        ["--deadline-ms", "200"],
    ],
)
def test_options_of_a_model_file_are_refused(
    words: list[str], code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{code}:find", tmp_path / "out.jsonl", *words) == 2
    assert f"leave out {words[0]}" in capsys.readouterr().err


def test_an_answer_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tuples.py").write_text("def find(frame): return (1, 2, 3, 4)")
    assert run(f"{tmp_path}/tuples.py:find", tmp_path / "out.jsonl") == 2
    assert "the localizer gave tuple: return an edgeloc.Result" in capsys.readouterr().err


def test_errors_of_this_package_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "own_errors.py").write_text(
        "import edgeloc\ndef engine(frame): raise edgeloc.EngineError('hung')\n"
        "def usage(frame): raise edgeloc.UsageError('bad')\ndef bug(frame): return frame.nothing\n"
    )
    raised = {"engine": (EngineError, "^hung$"), "usage": (UsageError, "^bad$"), "bug": (EngineError, "AttributeError")}
    for name, (kind, text) in raised.items():
        with pytest.raises(kind, match=text):
            OwnLocalizer(f"{tmp_path}/own_errors.py:{name}")(example_frame())


def test_model_files_are_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_own_code("a.b:c") and is_own_code("my folder/a-b.py:c.d")
    assert not any(
        map(is_own_code, ("model.tflite", "a:b/model.tflite", "C:\\model.onnx", "a.py", "a.py:", ":a", "a:1"))
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").touch()
    assert not is_own_code("odd:name")


def test_the_function_of_the_guide_finds_the_reference_boxes(
    shared_data: Path, repository: Path, tmp_path: Path
) -> None:
    """The detector and its boxes, by another's decoder, are in the folder `detectors` of the real data."""
    detectors = shared_data / "detectors"
    if not detectors.is_dir():
        pytest.skip("the real data has no folder detectors")
    pytest.importorskip("onnxruntime")
    page = (repository / "docs/guide/own.md").read_text()
    block = re.search(r'```python title="faces.py"\n(.*?)```', page, re.DOTALL)
    assert block is not None
    (tmp_path / "faces.py").write_text(block[1])
    shutil.copy(detectors / "rfb320_decoded.onnx", tmp_path / "faces.onnx")
    find = OwnLocalizer(f"{tmp_path}/faces.py:find")
    expected = json.loads((detectors / "reference_detections.json").read_text())["rfb320_decoded.onnx"]
    seen = 0
    for name in ("face.jpg", "grace_hopper.bmp", "squat.bmp", "person_det.jpg", "pets.jpg"):
        result = find(_frame(detectors / "images" / name))
        assert result.present == bool(expected[name])
        if result.box is not None:
            nearest = min(
                max(abs(a - b) for a, b in zip(result.box, found["box"], strict=True)) for found in expected[name]
            )
            assert nearest <= 0.1
            seen += 1
    assert seen == 4


def _frame(path: Path) -> Frame:
    from edgeloc import open_camera

    with open_camera(str(path)) as camera:
        frame = camera.read()
    assert frame is not None
    return frame
