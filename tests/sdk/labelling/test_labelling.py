"""What labelling reads, in which order it shows it, what it saves, and whom it answers."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc import DataError, OutputError, UsageError, open_camera, run
from edgeloc.cli import main
from edgeloc.data import open_dataset
from edgeloc.labelling.images import Image, images_of, labels_beside
from edgeloc.labelling.labels import LabelFile
from edgeloc.labelling.proposals import ModelProposals, Proposal, RunProposals
from edgeloc.labelling.session import LabelSession
from edgeloc.models import SHIPPED_INT8
from edgeloc.sinks.jsonl import JsonLinesSink
from edgeloc.types import Box, Detection, Frame, LabelledBox, Pixels, Result

TOKEN = "a-token-of-more-than-sixteen"
BOX = {"box": [10, 20, 40, 50], "label": "nut"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photos of 80x60, of which none shows a thing."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "abcd":
        cv2.imwrite(str(photos / f"{name}.png"), np.full((60, 80, 3), ord(name), np.uint8))
    return photos


def nothing(image: Image, pixels: Pixels) -> Proposal:
    return Proposal((), 0.5)


def session(
    source: Path,
    propose: Callable[[Image, Pixels], Proposal] = nothing,
    classes: tuple[str, ...] = ("nut", "bolt"),
    known: tuple[str, ...] = (),
    out: Path | None = None,
) -> LabelSession:
    path = out or labels_beside(source)
    return LabelSession(LabelFile(path, classes), images_of(source, path), propose, known)


def names(given: LabelSession) -> list[str]:
    return [image["name"] for image in given.state()["images"]]


def test_the_least_certain_come_first_and_what_is_labelled_before_them(folder: Path) -> None:
    margins = {"a.png": 0.4, "b.png": 0.1, "c.png": 0.3, "d.png": 0.2}
    asked = []

    def propose(image: Image, pixels: Pixels) -> Proposal:
        asked.append(image.name)
        return Proposal((), margins[image.name])

    first = session(folder, propose)
    assert names(first) == ["b.png", "d.png", "c.png", "a.png"]
    assert first.save("c.png", [BOX]) == (1, 4)
    asked.clear()
    again = session(folder, propose)
    assert names(again) == ["c.png", "b.png", "d.png", "a.png"] and again.counts == (1, 4)
    assert [image["saved"] for image in again.state()["images"]] == [True, False, False, False]
    assert asked == ["a.png", "b.png", "d.png"]
    assert again.image("c.png") == {"name": "c.png", "width": 80, "height": 60, "saved": True, "objects": [BOX]}


def test_what_is_saved_is_what_training_reads(folder: Path) -> None:
    given = session(folder)
    more = {"box": [-5, 0, 200, 60], "label": "bolt"}
    assert given.save("a.png", [BOX, more]) == (1, 4)
    assert given.save("b.png", []) == (2, 4)
    assert given.save("a.png", [more, BOX]) == (2, 4)
    for path in (folder, folder / "labels.json"):
        samples = {sample.name: sample for sample in open_dataset(path)}
        assert samples["a.png"].objects == (
            LabelledBox(Box(0, 0, 80, 60), "bolt"),
            LabelledBox(Box(10, 20, 40, 50), "nut"),
        )
        assert samples["b.png"].labelled and samples["b.png"].objects == ()
        assert set(samples) == {"a.png", "b.png"} and samples["a.png"].load().shape == (60, 80, 3)
    assert open_dataset(folder).labels == ("nut", "bolt")


def test_labels_elsewhere_find_their_images(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels" / "mine.json"
    given = session(folder, out=out)
    assert names(given)[0] == "../photos/a.png"
    given.save("../photos/a.png", [BOX])
    assert session(folder, out=out).counts == (1, 4)
    assert open_dataset(out)[0].load().shape == (60, 80, 3)


def test_a_class_named_twice_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tornado", reason="tornado is not installed (extra web)")
    assert main(["label", str(folder), "--classes", "nut,bolt,nut"]) == 2
    assert "none twice" in capsys.readouterr().err


def test_classes_are_the_users_else_the_files_else_the_models(folder: Path) -> None:
    assert session(folder, classes=(), known=()).state()["classes"] == ("object",)

    def propose(image: Image, pixels: Pixels) -> Proposal:
        return Proposal((LabelledBox(Box(1, 2, 3, 4), "Washer"),), 0.1)

    given = session(folder, propose, classes=(), known=("rock", "washer"))
    assert given.state()["classes"] == ("rock", "washer")
    shown = given.image("a.png")
    assert shown is not None and shown["objects"] == [{"box": [1, 2, 3, 4], "label": "washer"}]
    given.save("a.png", [{"box": [1, 2, 9, 9], "label": "rock"}])
    # Those of the file go before, and what the model calls otherwise is proposed as the first of them.
    again = session(folder, propose, classes=("pin",), known=("washer",))
    assert again.state()["classes"] == ("rock", "washer", "pin")
    other = session(folder, propose, classes=(), known=("other",), out=folder.parent / "x.json")
    unknown = other.image(names(other)[0])
    assert unknown is not None and unknown["objects"][0]["label"] == "other"


def test_a_foreign_coco_file_keeps_what_is_not_a_box(folder: Path) -> None:
    crowd = {"id": 7, "image_id": "x", "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": [[1, 2]]}
    plain = {"id": 8, "image_id": "y", "category_id": 3, "bbox": [1, 2, 30, 40], "note": "mine"}
    content = {
        "info": {"who": "me"},
        "images": [{"id": "x", "file_name": "a.png"}, {"id": "y", "file_name": "b.png", "width": 80, "height": 60}],
        "annotations": [crowd, plain],
        "categories": [{"id": 3, "name": "nut"}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    given = session(folder, classes=("bolt",))
    assert given.counts == (1, 4)
    given.save("c.png", [{"box": [0, 0, 5, 5], "label": "bolt"}])
    given.save("a.png", [BOX])
    written = json.loads((folder / "labels.json").read_text())
    assert written["info"] == content["info"] and written["annotations"][:2] == [crowd, plain]
    assert written["images"][:2] == content["images"] and len(written["images"]) == 3
    objects = {sample.name: sample.objects for sample in open_dataset(folder / "labels.json")}
    assert objects["a.png"] == (LabelledBox(Box(10, 20, 40, 50), "nut"),)
    assert objects["c.png"] == (LabelledBox(Box(0, 0, 5, 5), "bolt"),)


def test_what_a_kill_leaves_half_written_is_in_nobodys_way(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    session(folder).save("a.png", [BOX])
    left = folder / ".labels-abcd1234.json"
    left.write_bytes((folder / "labels.json").read_bytes()[:-30])
    again = session(folder)
    assert again.counts == (1, 4) and f"{left} was left half written" in caplog.text
    again.save("b.png", [])
    assert len(open_dataset(folder)) == 2


def test_another_writer_is_not_overwritten(folder: Path) -> None:
    one, other = session(folder), session(folder)
    one.save("a.png", [BOX])
    with pytest.raises(OutputError, match="was changed by another program meanwhile"):
        other.save("b.png", [BOX])
    assert open_dataset(folder)[0].name == "a.png"


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        ("x", "the objects are no list"),
        ([BOX] * 301, "no list of at most 300"),
        ([{"box": [1, 2, 3], "label": "nut"}], "no box of four numbers"),
        ([{"box": [1, 2, "NaN", 4], "label": "nut"}], "no box of four numbers"),
        ([{"box": [1, 2, None, 4], "label": "nut"}], "no box of four numbers"),
        ([["box"]], "no box of four numbers"),
        ([{"box": [1, 2, 3, 4], "label": "cat"}], "'cat' is none of the classes: nut, bolt"),
        ([{"box": [1, 2, 3, 4], "label": ["nut"]}], "none of the classes"),
        ([{"box": [30, 2, 20, 40], "label": "nut"}], "less than a pixel"),
        ([{"box": [100, 2, 200, 40], "label": "nut"}], "less than a pixel"),
    ],
)
def test_what_is_no_answer_is_refused_and_changes_nothing(folder: Path, objects: Any, why: str) -> None:
    given = session(folder)
    given.save("a.png", [BOX])
    before = (folder / "labels.json").read_bytes()
    with pytest.raises(UsageError, match=why):
        given.save("a.png", objects)
    assert (folder / "labels.json").read_bytes() == before


def test_a_damaged_photo_is_left_out_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    propose = ModelProposals(SHIPPED_INT8)
    given = session(folder, propose)
    assert sorted(names(given)) == ["a.png", "c.png", "d.png"]
    assert "1 of the images cannot be read and were left out, the first: b.png" in caplog.text
    for name in "acd":
        (folder / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the images can be read"):
        session(folder, propose)


def test_the_shipped_model_proposes(tmp_path: Path) -> None:
    from edgeloc.scenes import SceneGenerator

    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), SceneGenerator(2, (200, 150)).scene(number).pixels)
    propose = ModelProposals(SHIPPED_INT8)
    given = session(tmp_path, propose, classes=(), known=propose.classes)
    proposals = [propose(image, image.pixels()) for image in images_of(tmp_path, tmp_path / "labels.json")]
    assert all(0 <= one.margin <= 0.5 for one in proposals)
    assert given.state()["classes"] == propose.classes


def write_run(source: Path, path: Path, scores: dict[int, float]) -> None:
    """A run over a source whose localizer has these scores, by the frame's number, and the threshold 0.6."""

    def localize(frame: Frame) -> Result:
        score = scores[frame.sequence % len(scores)]
        found = Detection(Box(1, 2, 30, 40), score, "pin")
        return Result((found,)) if score >= 0.6 else Result((), Detection(None, score))

    with open_camera(str(source)) as camera:
        run(camera, localize, JsonLinesSink(path))


def test_a_run_over_a_folder_proposes_by_file_name(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_run(folder, path, {0: 0.95, 1: 0.62, 2: 0.3, 3: 0.55})
    cv2.imwrite(str(folder / "0 new.png"), np.zeros((60, 80, 3), np.uint8))
    propose = RunProposals(path)
    assert propose.classes == ("pin",)
    given = session(folder, propose, classes=(), known=propose.classes)
    assert names(given) in (
        ["b.png", "d.png", "c.png", "a.png", "0 new.png"],
        ["d.png", "b.png", "c.png", "a.png", "0 new.png"],
    )
    shown = given.image("b.png")
    assert shown is not None and shown["objects"] == [{"box": [1, 2, 30, 40], "label": "pin"}]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Forty frames, each of its own brightness."""
    path = tmp_path / "way.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (80, 60))
    for number in range(40):
        writer.write(np.full((60, 80, 3), 6 * number, np.uint8))
    writer.release()
    return path


def test_frames_of_a_video_become_images_when_they_are_labelled(video: Path, tmp_path: Path) -> None:
    out = labels_beside(video)
    assert out == tmp_path / "way-labels" / "labels.json"
    images = images_of(video, out, 12)
    assert [image.sequence for image in images] == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    run_file = tmp_path / "run.jsonl"
    write_run(video, run_file, {number: {20: 0.55, 21: 0.62}.get(number, 0.9) for number in range(40)})
    propose = RunProposals(run_file)
    given = LabelSession(LabelFile(out), images, propose, propose.classes)
    assert names(given)[0] == "way-000020.jpg"
    given.save("way-000020.jpg", [{"box": [1, 2, 30, 40], "label": "pin"}])
    assert sorted(path.name for path in out.parent.iterdir()) == ["labels.json", "way-000020.jpg"]
    sample = open_dataset(out)[0]
    assert sample.objects == (LabelledBox(Box(1, 2, 30, 40), "pin"),)
    assert abs(int(sample.load().mean()) - 120) < 4
    # Again, with other frames: what was labelled stays.
    again = LabelSession(LabelFile(out), images_of(video, out, 5), propose, propose.classes)
    assert names(again)[0] == "way-000020.jpg" and again.counts == (1, 6)
    assert again.picture("way-000020.jpg") is not None


def test_a_picture_of_another_video_is_not_taken_for_the_frame(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.json"
    given = session(video, classes=("pin",), out=out)
    assert given.save("way-000000.jpg", []) == (1, 40)
    other = tmp_path / "other"
    other.mkdir()
    writer = cv2.VideoWriter(str(other / "way.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (80, 60))
    writer.write(np.full((60, 80, 3), 255, np.uint8))
    writer.release()
    second = session(other / "way.avi", classes=("pin",), out=tmp_path / "val.json")
    with pytest.raises(OutputError, match=r"way-000000.jpg is another picture .* give another folder with out"):
        second.save("way-000000.jpg", [])
    assert not (tmp_path / "val.json").exists()


def test_what_a_run_proposes_can_be_accepted_as_it_is(folder: Path) -> None:
    boxes = [Box(-5, 10, 20, 30), Box(0, 0, 0, 10), Box(70, 50, 90, 50.5), *[Box(1, 1, 9, 9)] * 400]
    given = session(folder, lambda image, pixels: Proposal(tuple(LabelledBox(box, "nut") for box in boxes), 0.5))
    shown = given.image("a.png")
    assert shown is not None and shown["objects"][0]["box"] == [0, 10, 20, 30] and len(shown["objects"]) == 300
    assert given.save("a.png", shown["objects"]) == (1, 4)


def test_a_damaged_photo_is_left_out_where_a_run_proposes(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(folder, tmp_path / "run.jsonl", {0: 0.9})
    (folder / "b.png").write_bytes(b"")
    assert sorted(names(session(folder, RunProposals(tmp_path / "run.jsonl")))) == ["a.png", "c.png", "d.png"]
    assert "cannot be read and were left out, the first: b.png" in caplog.text


def line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["label", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("edgeloc: error: ") and "\n" not in error
    return error


def test_bad_input_ends_in_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tornado")
    text = tmp_path / "words.txt"
    text.write_text("words")
    empty = tmp_path / "empty"
    empty.mkdir()
    photos = str(folder)
    assert "is not there: give a folder of images, or a video" in line(capsys, str(tmp_path / "x"))
    assert "neither a folder of images nor a video" in line(capsys, str(text))
    assert "holds no image" in line(capsys, str(empty))
    assert "give --out so" in line(capsys, photos, "--out", str(tmp_path / "labels.csv"))
    assert "give --model or --run" in line(capsys, photos, "--model", "m.tflite", "--run", "r.jsonl")
    assert "--classes is 'a,,b': it must be names" in line(capsys, photos, "--classes", "a,,b")
    assert "words.txt:1: this is no line of a run" in line(capsys, photos, "--run", str(text))
    assert "No such file" in line(capsys, photos, "--run", str(tmp_path / "none.jsonl"))
    assert "demands a token" in line(capsys, photos, "--page", "http://0.0.0.0:8080")
    assert "no address and port" in line(capsys, photos, "--page", "ftp://127.0.0.1:8080")
    for content in ("words", "{}", '{"images": 3}'):
        (folder / "labels.json").write_text(content)
        assert "labels.json" in line(capsys, photos)
    record = {"images": [{"id": 1, "file_name": "gone.png"}], "annotations": [], "categories": []}
    (folder / "labels.json").write_text(json.dumps(record))
    assert "gone.png does not exist" in line(capsys, photos)


class Page:
    """A session's server in this process."""

    def __init__(self, given: LabelSession, token: str = "") -> None:
        from edgeloc.labelling.site import ROUTES
        from edgeloc.sinks.web.address import WebAddress

        self.session = given
        self._server = WebAddress("127.0.0.1", 0, token).listen(ROUTES, given)
        self.port, self.url = self._server.port, f"http://127.0.0.1:{self._server.port}"

    def ask(self, path: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(self.url + path, data, named), timeout=5) as answer:
                return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}
        except urllib.error.HTTPError as error:
            return error.code, error.read(), {k.lower(): v for k, v in error.headers.items()}

    def save(self, name: str, objects: Any, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        body = json.dumps({"name": name, "objects": objects}).encode()
        return self.ask("/save", body, **{"Content_Type": "application/json", **headers})

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def page(folder: Path) -> Iterator[Page]:
    pytest.importorskip("tornado", reason="tornado is not installed (extra web)")
    page = Page(session(folder))
    yield page
    page.close()


def test_programs_can_ask_and_save(page: Page, folder: Path) -> None:
    status, body, _ = page.ask("/state")
    assert status == 200 and json.loads(body)["classes"] == ["nut", "bolt"]
    status, body, headers = page.ask("/picture.jpg?name=a.png")
    assert (status, headers["content-type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    status, body, _ = page.save("a.png", [BOX])
    assert status == 200 and json.loads(body) == {"saved": 1, "images": 4}
    assert open_dataset(folder)[0].objects[0].label == "nut"


def test_a_disk_that_takes_nothing_is_reported(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OutputError("cannot write labels.json: No space left on device")

    monkeypatch.setattr("edgeloc.labelling.labels.write_durably", full)
    status, body, _ = page.save("a.png", [BOX])
    assert status == 500 and "No space left" in json.loads(body)["why"]
    monkeypatch.undo()
    assert page.session.counts == (0, 4)
    assert page.save("a.png", [BOX])[0] == 200


def test_without_the_token_nothing_is_answered(folder: Path) -> None:
    pytest.importorskip("tornado")
    page = Page(session(folder), TOKEN)
    try:
        for path in ("/", "/state", "/image?name=a.png", "/picture.jpg?name=a.png", "/?token=wrong"):
            assert page.ask(path)[0] == 401
        assert page.save("a.png", [BOX])[0] == 401
        assert page.save("a.png", [BOX], Cookie=f"edgeloc-{page.port}={TOKEN}")[0] == 401
        assert not (folder / "labels.json").exists()
        assert page.save("a.png", [BOX], Authorization=f"Bearer {TOKEN}")[0] == 200
    finally:
        page.close()


def test_pages_elsewhere_and_other_forms_save_nothing(page: Page, folder: Path) -> None:
    assert page.save("a.png", [BOX], Host="evil.example")[0] == 421
    assert page.save("a.png", [BOX], Origin="http://evil.example")[0] == 403
    assert page.save("a.png", [BOX], Origin="null")[0] == 403
    assert page.save("a.png", [BOX], Content_Type="text/plain")[0] == 415
    assert page.save("a.png", [BOX], Content_Type="application/x-www-form-urlencoded")[0] == 415
    assert page.ask("/save")[0] == 405
    assert page.ask("/state", b"{}", Content_Type="application/json")[0] == 405
    for body in (b"", b"[]", b"{", b'{"name": 3}', b"[" * 9000, b"{" + b" " * 70_000 + b"}"):
        try:
            assert page.ask("/save", body, Content_Type="application/json")[0] in (400, 413)
        except OSError:  # closed without an answer: longer than anything that is taken
            assert len(body) > 65536
    assert page.save("a.png", [{"box": [1], "label": "nut"}])[0] == 400
    assert not (folder / "labels.json").exists()
    assert page.save("a.png", [BOX], Origin=page.url)[0] == 200


@pytest.mark.parametrize(
    "name", ["../words.txt", "/etc/passwd", "labels.json", "", "a.png\0", "./a.png", "%2e%2e/a.png"]
)
def test_only_the_images_have_names(page: Page, name: str) -> None:
    quoted = urllib.parse.quote(name, safe="")
    assert page.ask(f"/picture.jpg?name={quoted}")[0] == 404
    assert page.ask(f"/image?name={quoted}")[0] == 404
    assert page.save(name, [])[0] == 404


@pytest.mark.parametrize("path", ["/../etc/passwd", "/%2e%2e/etc/passwd", "/page.html", "//etc/passwd", "/picture.jpg"])
def test_paths_lead_nowhere_else(page: Page, path: str) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 4")


def test_the_page_may_load_nothing_from_elsewhere(page: Page) -> None:
    status, body, headers = page.ask("/")
    policy = headers["content-security-policy"]
    assert status == 200 and b"edgeloc label" in body
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["cache-control"] == "no-store" and headers["cross-origin-resource-policy"] == "same-origin"
