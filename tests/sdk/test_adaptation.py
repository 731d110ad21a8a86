"""A class learned on frozen int8 features: the new one is known, the old ones stay, and the way back is exact."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.adaptation import Adapted, adapt
from edgeloc.adaptation.head import ClassHead
from edgeloc.cli import main
from edgeloc.localizer import Localizer
from edgeloc.model.file import read_model
from edgeloc.model.flatbuffer import constant
from edgeloc.model.inspection import inspect_model
from edgeloc.models import SHIPPED_DETECTOR_INT8, SHIPPED_INT8

pytest.importorskip("ai_edge_litert", reason="writing a model needs the object tree that ai-edge-litert brings")


def draw(folder: Path, count: int, seed: int) -> None:
    """Photos of a striped disc, which is like nothing that the localizer has seen."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = np.full((200, 200, 3), 110, np.uint8) + rng.integers(0, 30, (200, 200, 1), np.uint8)
        x, y, radius = rng.integers(70, 130), rng.integers(70, 130), int(rng.integers(30, 50))
        for ring in range(radius, 0, -8):
            cv2.circle(pixels, (int(x), int(y)), ring, (0, 0, 255) if ring // 8 % 2 else (255, 255, 255), -1)
        cv2.imwrite(str(folder / f"{number:02d}.png"), pixels)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    """The shipped localizer with the class Target."""
    folder = tmp_path_factory.mktemp("adapted")
    draw(folder / "photos", 12, 0)
    return adapt(SHIPPED_INT8, folder / "photos", folder / "new.tflite", label="Target")


def test_the_new_class_is_known_on_photos_that_were_not_learned_from(adapted: Adapted, tmp_path: Path) -> None:
    draw(tmp_path / "others", 8, 99)
    localizer = Localizer(adapted.path)
    answers = [localizer(cv2.imread(str(path))) for path in sorted((tmp_path / "others").iterdir())]
    labels = [answer.label for answer in answers if answer.box is not None]
    assert len(labels) >= 4 and labels.count("Target") >= 0.8 * len(labels)
    assert adapted.learned[0].photos == 12 and adapted.in_file >= 0.8
    assert adapted.taken <= 0.1


def test_the_old_rows_and_the_rest_stay_as_they_were(adapted: Adapted) -> None:
    before = ClassHead(read_model(SHIPPED_INT8).payload, "class", 16, "before")
    after = ClassHead(read_model(adapted.path).payload, "class", 17, "after")
    for old, new in zip(before.branches, after.branches, strict=True):
        for position in (1, 2):
            kept = constant(before.model, int(old.layer.inputs[position]))
            grown = constant(after.model, int(new.layer.inputs[position]))
            assert kept is not None and grown is not None
            assert np.array_equal(grown[:16], kept) and len(grown) == 17
    report, shipped = inspect_model(adapted.path), inspect_model(SHIPPED_INT8)
    assert (report.precision, report.operators) == (shipped.precision, shipped.operators)
    assert report.parameters - shipped.parameters == 1280 + 80 + 2


def test_the_contract_keeps_the_history_and_the_self_test_is_made_again(adapted: Adapted) -> None:
    contract = read_model(adapted.path).contract
    assert contract is not None and contract.adapted_from is not None
    assert contract.labels[-1] == "Target"
    assert contract.adapted_from["sha256"] == hashlib.sha256(SHIPPED_INT8.read_bytes()).hexdigest()
    assert contract.adapted_from["labels_added"] == ["Target"] and contract.adapted_from["images"] == 12
    Localizer(adapted.path).self_test()


def test_undo_gives_the_file_before_byte_for_byte(adapted: Adapted, tmp_path: Path) -> None:
    assert main(["adapt", str(adapted.path), "--undo", "--out", str(tmp_path / "back.tflite")]) == 0
    assert (tmp_path / "back.tflite").read_bytes() == SHIPPED_INT8.read_bytes()


def test_a_file_is_adapted_twice_and_undone_twice(adapted: Adapted, tmp_path: Path) -> None:
    draw(tmp_path / "photos", 6, 5)
    second = tmp_path / "second.tflite"
    command = ["adapt", str(adapted.path), "--data", str(tmp_path / "photos"), "--label", "Other", "--out", str(second)]
    assert main(command) == 0
    assert read_model(second).labels[-2:] == ("Target", "Other")
    assert main(["adapt", str(second), "--undo", "--out", str(tmp_path / "first.tflite")]) == 0
    assert (tmp_path / "first.tflite").read_bytes() == adapted.path.read_bytes()


def test_what_the_old_classes_lose_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "photos", 6, 0)
    rows = [{"file": f"{number:02d}.png", "cls": "Bolt" if number > 4 else "Target"} for number in range(6)]
    lines = [json.dumps({**row, "box_xyxy": [50, 50, 150, 150], "clip": row["file"]}) for row in rows]
    (tmp_path / "photos" / "manifest.jsonl").write_text("\n".join(lines))
    out = str(tmp_path / "new.tflite")
    assert main(["adapt", str(SHIPPED_INT8), "--data", str(tmp_path / "photos"), "--out", out, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["old_photos"] == 1 and shown["old_before"] is not None and shown["old_after"] is not None


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--data", "PHOTOS"], "shows no class"),
        (["--data", "PHOTOS", "--label", "Bolt"], "does not know"),
        ([], "--data"),
        (["--undo"], "was not adapted"),
        (["--undo", "--label", "x"], "--label"),
    ],
)
def test_bad_input_is_one_sentence(
    more: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "photos", 5, 0)
    words = [str(tmp_path / "photos") if word == "PHOTOS" else word for word in more]
    assert main(["adapt", str(SHIPPED_INT8), "--out", str(tmp_path / "new.tflite"), *words]) == 2
    message = capsys.readouterr().err
    assert named in message and "Traceback" not in message
    assert not (tmp_path / "new.tflite").exists()


def test_four_photos_are_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "photos", 4, 0)
    words = ["--data", str(tmp_path / "photos"), "--label", "Target", "--out", str(tmp_path / "new.tflite")]
    assert main(["adapt", str(SHIPPED_INT8), *words]) == 2
    assert "needs 5" in capsys.readouterr().err


def test_models_that_cannot_be_adapted_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "photos", 5, 0)
    words = ["--data", str(tmp_path / "photos"), "--label", "Target", "--out", str(tmp_path / "new.tflite")]
    assert main(["adapt", str(SHIPPED_DETECTOR_INT8), *words]) == 2
    assert "cannot be adapted" in capsys.readouterr().err


def test_an_altered_file_before_is_not_given_back(adapted: Adapted, tmp_path: Path) -> None:
    from edgeloc.adaptation import EARLIER, undo
    from edgeloc.errors import ModelError
    from edgeloc.model.file import write_model

    file = read_model(adapted.path)
    assert file.contract is not None
    write_model(tmp_path / "bad.tflite", file.payload, file.contract, extra={EARLIER: b"something else"})
    with pytest.raises(ModelError, match="altered"):
        undo(tmp_path / "bad.tflite", tmp_path / "back.tflite")
