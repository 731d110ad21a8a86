"""A class learned on frozen int8 features: the new one is known, the old ones stay, and the way back is exact."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.adaptation import Adapted, adapt
from edgeloc.adaptation.features import Seen
from edgeloc.adaptation.head import Head
from edgeloc.adaptation.presence import move_presence
from edgeloc.cli import main
from edgeloc.errors import DataError
from edgeloc.localizer import Localizer
from edgeloc.model.file import read_model
from edgeloc.model.flatbuffer import constant
from edgeloc.model.inspection import inspect_model
from edgeloc.models import SHIPPED_DETECTOR_INT8, SHIPPED_INT8
from edgeloc.scenes import SceneGenerator

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
    before = Head(read_model(SHIPPED_INT8).payload, "class", 16, "before")
    after = Head(read_model(adapted.path).payload, "class", 17, "after")
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


@pytest.mark.parametrize("clips", [("clip-3",), ("clip-0", "clip-5")])
def test_the_clips_of_a_class_are_never_held_out_all_at_once(clips: tuple[str, ...], tmp_path: Path) -> None:
    """Of ten clips; the others show what the localizer knows."""
    draw(tmp_path / "photos", 8, 0)
    rows = [{"file": f"{number:02d}.png", "cls": "Target", "box_xyxy": [50, 50, 150, 150]} for number in range(8)]
    rows = [{**row, "clip": clips[number % len(clips)]} for number, row in enumerate(rows)]
    labels = read_model(SHIPPED_INT8).labels
    scenes = (scene for scene in map(SceneGenerator(77, (200, 200)).scene, itertools.count()) if scene.objects)
    known = (scene for scene in scenes if scene.objects[0].label in labels)
    others = [name for name in (f"clip-{number}" for number in range(10)) if name not in clips]
    for number, (name, scene) in enumerate(zip(others * 3, known, strict=False)):
        cv2.imwrite(str(tmp_path / "photos" / f"known-{number}.png"), scene.pixels)
        box, label = scene.objects[0]
        rows.append({"file": f"known-{number}.png", "cls": label, "box_xyxy": list(box), "clip": name})
    (tmp_path / "photos" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = adapt(SHIPPED_INT8, tmp_path / "photos", tmp_path / "new.tflite")
    assert report.learned[0].photos == 8 and report.learned[0].right >= 0.75
    assert report.old_before is not None and report.old_after is not None
    assert report.old_after >= report.old_before - 0.1 and report.taken <= 0.1


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--data", "PHOTOS"], "shows no class"),
        (["--data", "PHOTOS", "--label", "Bolt"], "knows Bolt already"),
        (["--data", "PHOTOS", "--label", "Disc", "--out", "new.txt"], "ends in .tflite"),
        ([], "--data"),
        (["--undo"], "was not adapted"),
        (["--undo", "--label", "x"], "--label"),
        (["--head", "presence", "--data", "PHOTOS"], "labelled photos"),
        (["--head", "presence", "--data", "PHOTOS", "--label", "Disc"], "--label"),
        (["--head", "presence"], "--data"),
        (["--head", "presence", "--undo"], "--head"),
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


def draw_places(folder: Path, count: int, seed: int) -> Path:
    """As many photos of a striped disc as of a ground with a painted arrow, where nothing lies; as COCO."""
    draw(folder, count, seed)
    rng = np.random.default_rng(seed)
    for number in range(count, 2 * count):
        pixels = np.full((200, 200, 3), 110, np.uint8) + rng.integers(0, 30, (200, 200, 1), np.uint8)
        x, y = (int(one) for one in rng.integers(60, 120, 2))
        cv2.arrowedLine(pixels, (x, y + 50), (x, y - 40), (0, 220, 240), 14, tipLength=0.4)
        cv2.imwrite(str(folder / f"{number:02d}.png"), pixels)
    names = [{"id": one, "file_name": f"{one:02d}.png", "width": 200, "height": 200} for one in range(2 * count)]
    boxes = [{"id": one, "image_id": one, "category_id": 1, "bbox": [40, 40, 120, 120]} for one in range(count)]
    labels = {"images": names, "annotations": boxes, "categories": [{"id": 1, "name": "Disc"}]}
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def adapt_presence_command(data: Path, out: Path) -> list[str]:
    return ["adapt", str(SHIPPED_INT8), "--head", "presence", "--data", str(data), "--out", str(out)]


def test_the_presence_head_unlearns_what_is_no_object_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.tflite"
    photos, others = (draw_places(tmp_path / name, 12, seed) for name, seed in (("photos", 0), ("others", 50)))
    assert main([*adapt_presence_command(photos, new), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    before, after = Localizer(SHIPPED_INT8), Localizer(new)
    after.self_test()

    def seen(localizer: Localizer, first: int) -> float:
        """The share of photos other than those that were learned from on which an object is seen."""
        pictures = (cv2.imread(str(others / f"{number:02d}.png")) for number in range(first, first + 12))
        return float(np.mean([localizer(pixels).box is not None for pixels in pictures]))

    assert seen(before, 12) >= 0.5 and seen(after, 12) <= 0.2
    assert seen(after, 0) >= 0.8
    assert (report["photos"], report["empty"]) == (12, 12)
    assert report["false_alarms_after"] < report["false_alarms_before"] and report["in_file"] >= 0.9
    assert report["scenes_after"] >= 0.85
    contract = read_model(new).contract
    assert contract is not None and contract.adapted_from is not None
    assert (contract.adapted_from["head"], contract.adapted_from["labels_added"]) == ("presence", [])
    # The other heads answer as before, number by number.
    pixels = cv2.imread(str(others / "00.png"))
    raw = [localizer.invoke(localizer.preprocess(pixels)[0]) for localizer in (before, after)]
    for name in ("class", "weights", "distances"):
        assert np.array_equal(raw[0][name], raw[1][name])
    assert main(["adapt", str(new), "--undo", "--out", str(tmp_path / "back.tflite")]) == 0
    assert (tmp_path / "back.tflite").read_bytes() == SHIPPED_INT8.read_bytes()


def test_features_that_tell_nothing_do_not_move_the_presence_head() -> None:
    rng = np.random.default_rng(0)
    present = np.arange(60) % 2 == 0
    logits = np.where(present, 4.0, -4.0)[:, None] + rng.normal(0, 1, (60, 1))
    names = tuple(str(number) for number in range(60))
    seen = Seen([rng.normal(0, 1, (60, 20))], logits, present * 1.0, (None,) * 60, names, present, present | True)
    with pytest.raises(DataError, match="teach the presence head nothing"):
        move_presence(seen, 0.0)
