"""The model file: what is written behind the flatbuffer comes back, and damaged files get one sentence."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.errors import ContractError, ModelError, OutputError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import ModelFile, contract_for, own_contract, read_model, write_model
from edgeloc.model.golden import Golden
from edgeloc.types import Box

# Enough of a flatbuffer for what does not look into it.
FLATBUFFER = b"\x18\0\0\0TFL3" + bytes(range(256)) * 8
CONTRACT = Contract(InputSpec("image", 32, 32), (OutputSpec("box", "box"),), labels=("bolt", "Mutter ü"))
CONTRACT_WITHOUT_LABELS = Contract(CONTRACT.input, CONTRACT.outputs)
GOLDEN = Golden(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), 0.9, Box(1, 2, 3, 4), "bolt", 1.5, 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.tflite"
    write_model(file, FLATBUFFER, CONTRACT, calibration={"images": ["a"]}, golden=GOLDEN, extra={"note.txt": b"hi"})
    return file


def test_everything_comes_back(path: Path) -> None:
    model = read_model(path)
    assert model.payload == FLATBUFFER
    assert model.contract is not None and model.contract.hashes["payload"] == model.digest
    assert model.contract is not None
    assert (model.contract.input, model.contract.outputs, model.labels) == (
        CONTRACT.input,
        CONTRACT.outputs,
        CONTRACT.labels,
    )
    assert model.calibration == {"images": ["a"]}
    assert model.members["note.txt"] == b"hi"
    golden = model.golden
    assert golden is not None
    assert np.array_equal(golden.image, GOLDEN.image)
    assert (golden.presence, golden.box, golden.label, golden.box_px, golden.presence_tolerance) == (
        0.9,
        Box(1, 2, 3, 4),
        "bolt",
        1.5,
        0.05,
    )


def test_what_was_not_written_is_not_there(tmp_path: Path) -> None:
    write_model(tmp_path / "m.tflite", FLATBUFFER, CONTRACT_WITHOUT_LABELS)
    model = read_model(tmp_path / "m.tflite")
    assert (model.labels, model.calibration, model.golden) == ((), None, None)


def test_a_golden_without_an_object_comes_back(tmp_path: Path) -> None:
    empty = Golden(GOLDEN.image, 0.1, None, None)
    write_model(tmp_path / "m.tflite", FLATBUFFER, CONTRACT, golden=empty)
    golden = read_model(tmp_path / "m.tflite").golden
    assert golden is not None
    assert (golden.box, golden.label) == (None, None)


def test_any_zip_program_lists_the_contract(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[:2] == ["edgeloc.json", "labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == list(CONTRACT.labels)
        assert archive.testzip() is None
    assert path.read_bytes().startswith(FLATBUFFER)


def test_the_same_input_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tflite"
    write_model(again, FLATBUFFER, CONTRACT, calibration={"images": ["a"]}, golden=GOLDEN, extra={"note.txt": b"hi"})
    assert again.read_bytes() == path.read_bytes()


def test_writing_a_written_model_again_replaces_what_lay_behind_it(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tflite"
    write_model(again, path.read_bytes(), CONTRACT)
    assert read_model(again).payload == FLATBUFFER
    assert set(read_model(again).members) == {"edgeloc.json", "labels.txt"}


@pytest.mark.parametrize("keep", [0, 3, 7, 100, len(FLATBUFFER) - 1, len(FLATBUFFER) + 45, -30, -1])
def test_a_truncated_file_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("position", [8, 900, len(FLATBUFFER) + 100])
def test_an_altered_file_is_refused(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="truncated or altered"):
        read_model(path)


def test_cut_at_any_place_a_real_model_never_gets_through_whole(tiny_models: Path, tmp_path: Path) -> None:
    whole = (tiny_models / "int8.tflite").read_bytes()
    cut = tmp_path / "cut.tflite"
    for keep in range(0, len(whole) - 64, len(whole) // 60):
        cut.write_bytes(whole[:keep])
        with pytest.raises(ModelError):
            read_model(cut)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.tflite", b"", "is empty"),
        ("m.tflite", b"hello, I am a text file", "mark TFL3"),
        ("m.keras", b"PK\x03\x04 and more", "edgeloc convert"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_model(tmp_path / name)


def test_a_zip_that_is_no_model_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("edgeloc.json", CONTRACT.to_json())
    (tmp_path / "m.tflite").write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="a zip with no model"):
        read_model(tmp_path / "m.tflite")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "absent.tflite")
    with pytest.raises(ModelError, match="cannot be read"):
        read_model(tmp_path)


def with_members(tmp_path: Path, **members: bytes) -> Path:
    path = tmp_path / "m.tflite"
    write_model(path, FLATBUFFER, CONTRACT, golden=GOLDEN)
    model = read_model(path)
    path.write_bytes(FLATBUFFER)
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in {**model.members, **members}.items():
            archive.writestr(name, content)
    return path


def test_a_bad_contract_inside_is_a_contract_error(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no JSON"):
        read_model(with_members(tmp_path, **{"edgeloc.json": b"{"}))


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"box": null}', b'{"box": [1], "presence": 1, "label": null}'])
def test_a_damaged_self_test_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    model = read_model(with_members(tmp_path, **{"golden/expected.json": content}))
    with pytest.raises(ModelError, match=r"golden/expected\.json"):
        _ = model.golden


def test_a_self_test_without_an_image_is_a_model_error(tmp_path: Path) -> None:
    model = read_model(with_members(tmp_path, **{"golden/image.png": b"no image"}))
    with pytest.raises(ModelError, match=r"golden/image\.png"):
        _ = model.golden


PICTURE = cv2.imencode(".png", GOLDEN.image)[1].tobytes()


def png(width: int, height: int) -> bytes:
    """A PNG's beginning, which is all that a bomb needs to be told by."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(100)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"BM",
        png(16_000, 16_000),
        png(2**31 - 1, 2**31 - 1),
        png(0, 5),
        png(9, 9),
        PICTURE[:-20],
        PICTURE[:25] + b"\x05\x09" + PICTURE[27:],
        PICTURE[:33] + b"\xff\x7f" + PICTURE[35:],
        cv2.imencode(".jpg", GOLDEN.image)[1].tobytes(),
    ],
)
def test_a_golden_picture_that_is_empty_huge_or_no_png_is_refused_before_it_is_decoded(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = read_model(with_members(tmp_path, **{"golden/image.png": content}))
    with pytest.raises(ModelError, match=r"golden/image\.png"):
        _ = model.golden
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence", "high"),
        ("presence", None),
        ("presence", float("nan")),
        ("box", [1, 2, 3]),
        ("box", [1, 2, 3, "x"]),
        ("box", [1, 2, [3], 4]),
        ("box", [0, 0, 0, float("inf")]),
        ("label", 7),
        ("box_px", [4]),
        ("presence_tolerance", "0.1"),
        ("image", "x"),
        ("a" * 5000, 1),
    ],
)
def test_golden_values_of_a_wrong_type_are_a_model_error(name: str, value: object, tmp_path: Path) -> None:
    expected = {"presence": 0.9, "box": [1, 2, 3, 4], "label": "bolt", name: value}
    model = read_model(with_members(tmp_path, **{"golden/expected.json": json.dumps(expected).encode()}))
    with pytest.raises(ModelError, match=r"golden/expected\.json") as caught:
        _ = model.golden
    assert len(str(caught.value)) < 1000


def test_a_plain_model_has_no_contract(tiny_models: Path) -> None:
    model = read_model(tiny_models / "int8.tflite")
    assert (model.contract, model.members) == (None, {})


def test_what_is_no_flatbuffer_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no TFLite model"):
        write_model(tmp_path / "m.tflite", b"nonsense", CONTRACT)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_model(tmp_path / "file" / "m.tflite", FLATBUFFER, CONTRACT)


def test_the_contract_is_the_one_given_then_the_one_inside_then_the_one_beside(path: Path, tmp_path: Path) -> None:
    beside = Contract(CONTRACT.input, CONTRACT.outputs, labels=("beside",))
    given = Contract(CONTRACT.input, CONTRACT.outputs, labels=("given",))
    plain = ModelFile(tmp_path / "plain.tflite", FLATBUFFER, "tflite")
    assert own_contract(plain) is None
    with pytest.raises(ContractError, match=r"no contract.*plain\.json beside it"):
        contract_for(plain)
    for name in ("plain", "model"):
        (tmp_path / f"{name}.json").write_text(beside.to_json())
    (tmp_path / "given.json").write_text(given.to_json())
    assert contract_for(plain) == beside
    assert contract_for(read_model(path)).labels == CONTRACT.labels
    assert contract_for(read_model(path), tmp_path / "given.json") == given == contract_for(plain, given)
