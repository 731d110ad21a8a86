"""The ONNX model file: what travels in it, and what happens to a damaged one; no ONNX package is needed."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeloc.errors import ContractError, ModelError
from edgeloc.model.containers import CONTAINERS, format_of
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import read_keras_contract, read_model, write_model
from edgeloc.model.golden import Golden
from edgeloc.types import Box

# The outermost fields of an ONNX model: ir_version 8, a graph of 300 bytes, opset_import 13.
MODEL = bytes([8, 8, 0x3A, 0xAC, 0x02]) + bytes(range(256)) + bytes(44) + bytes([0x42, 2, 0x10, 13])
CONTRACT = Contract(
    InputSpec("image", 32, 32),
    (OutputSpec("presence", "presence"), OutputSpec("class", "class"), OutputSpec("box", "box")),
    labels=("bolt", "Schraube ä"),
)
ONNX = CONTAINERS["onnx"]
GOLDEN = Golden(np.full((6, 8, 3), 9, np.uint8), 0.75, Box(1, 2, 3, 4), "bolt")


def with_zip(archive: bytes) -> bytes:
    """MODEL with the protobuf field that the zip travels in: number 18765, of a kind with a length."""
    whole = ONNX.join(MODEL, {})
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert whole.startswith(MODEL)
    tag = whole[len(MODEL) : -len(empty.getvalue()) - 1]
    length = bytearray()
    size = len(archive)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return MODEL + tag + bytes([*length, size]) + archive


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_model(tmp_path / "m.onnx", MODEL, CONTRACT, calibration={"count": 3}, golden=GOLDEN)
    return tmp_path / "m.onnx"


def test_everything_comes_back(written: Path) -> None:
    model = read_model(written)
    assert (model.payload, model.format) == (MODEL, "onnx")
    assert model.contract is not None and model.contract.hashes["payload"] == model.digest
    assert model.contract is not None
    assert model.contract.outputs == CONTRACT.outputs
    assert model.labels == CONTRACT.labels
    assert model.calibration == {"count": 3}
    assert model.golden is not None
    assert (model.golden.presence, model.golden.box, model.golden.label) == (0.75, Box(1, 2, 3, 4), "bolt")
    assert np.array_equal(model.golden.image, GOLDEN.image)


def test_a_zip_reader_opens_the_file_itself(written: Path) -> None:
    with zipfile.ZipFile(written) as archive:
        assert archive.read("labels.txt").decode() == "bolt\nSchraube ä\n"


def test_the_same_arguments_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    write_model(again, written.read_bytes(), CONTRACT, calibration={"count": 3}, golden=GOLDEN)
    assert again.read_bytes() == written.read_bytes()


def test_onnx_itself_reads_the_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ports[:1], ports[1:])
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert format_of(plain.SerializeToString()) == "onnx"
    write_model(tmp_path / "m.onnx", plain.SerializeToString(), CONTRACT)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert onnx.load(str(tmp_path / "m.onnx")).graph == plain.graph
    assert read_model(tmp_path / "m.onnx").payload == plain.SerializeToString()


def test_a_zip_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx", MODEL, CONTRACT, extra={"note.txt": b"first"})
    write_model(tmp_path / "m.onnx", (tmp_path / "m.onnx").read_bytes(), CONTRACT)
    assert read_model(tmp_path / "m.onnx").payload == MODEL
    assert "note.txt" not in read_model(tmp_path / "m.onnx").members


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x1c\0\0\0TFL3", MODEL[:-1], MODEL[:200], b"\x89PNG\r\n", b"\xff" * 40]
)
def test_what_is_no_onnx(data: bytes) -> None:
    assert not ONNX.matches(data)


def test_a_file_cut_anywhere_is_found(written: Path) -> None:
    data = written.read_bytes()
    for length in range(1, len(data), 7):
        if length == len(MODEL):
            continue  # cut here it is a whole model, without a contract
        written.write_bytes(data[:length])
        with pytest.raises(ModelError):
            read_model(written)


def test_a_changed_byte_is_found(written: Path) -> None:
    data = bytearray(written.read_bytes())
    data[100] ^= 1
    written.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="truncated or altered"):
        read_model(written)


def test_a_broken_zip_is_reported(written: Path) -> None:
    written.write_bytes(with_zip(b"PK no zip at all"))
    with pytest.raises(ModelError, match=r"m\.onnx is truncated or altered: the zip"):
        read_model(written)


def zipped(method: int, members: dict[str, bytes], size: int | None = None) -> bytes:
    """A zip; `size` is what its headers say of each member's length, where that is false."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = bytearray(stream.getvalue())
    if size is not None:
        struct.pack_into("<I", data, 22, size)
        struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, size)
    return bytes(data)


@pytest.mark.parametrize(
    ("method", "size"),
    [(zipfile.ZIP_DEFLATED, None), (zipfile.ZIP_DEFLATED, 100), (zipfile.ZIP_BZIP2, 100), (zipfile.ZIP_LZMA, 100)],
)
def test_a_zip_bomb_is_refused_and_costs_no_memory(method: int, size: int | None, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(with_zip(zipped(method, {"edgeloc.json": bytes(16 << 20)}, size)))
    tracemalloc.start()
    with pytest.raises(ModelError, match="compressed, and only stored members are read"):
        read_model(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 << 20


def test_a_zip_of_too_much_or_too_many_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for archive in (zipped(0, {"zeros": b""}, 65 << 20), zipped(0, {str(number): b"" for number in range(1001)})):
        path.write_bytes(with_zip(archive))
        with pytest.raises(ModelError, match=r"m\.onnx: the zip in it holds more than 64 MB or 1000 members"):
            read_model(path)


@pytest.mark.parametrize("before", [b"", b"what offsets do not count"])
def test_zips_of_other_writers_are_read_as_the_standard_library_reads_them(before: bytes, tmp_path: Path) -> None:
    path, stream = tmp_path / "m.onnx", io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = b"PK, they say"
        for name in ("plain.txt", "größe/ü.txt", "empty"):
            archive.writestr(zipfile.ZipInfo(name), name.encode() if name != "empty" else b"")
    path.write_bytes(with_zip(before + stream.getvalue()))
    with zipfile.ZipFile(io.BytesIO(before + stream.getvalue())) as archive:
        assert read_model(path).members == {name: archive.read(name) for name in archive.namelist()}


def test_whatever_byte_of_a_zip_is_altered_no_content_is_altered(tmp_path: Path) -> None:
    path, members = tmp_path / "m.onnx", {"first": b"one", "second": b"two"}
    good = zipped(0, members)
    refused = 0
    for at in range(len(good)):
        path.write_bytes(with_zip(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]))
        try:
            assert read_model(path).members == members
        except ModelError as error:
            refused += 1
            assert "the zip in it" in str(error)
    assert refused > 100


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_lies_twice_in_the_zip_is_refused(tmp_path: Path) -> None:
    path, stream = tmp_path / "m.onnx", io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("edgeloc.json", "{}")
        archive.writestr("edgeloc.json", "{}")
    path.write_bytes(with_zip(stream.getvalue()))
    with pytest.raises(ModelError, match="two members of one name"):
        read_model(path)


def test_a_bomb_in_a_keras_file_is_counted_while_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(zipped(zipfile.ZIP_DEFLATED, {"edgeloc.json": b" " * (40 << 20)}, 100))
    with pytest.raises(ModelError, match="no .keras file"):
        read_keras_contract(path)


def test_a_model_from_elsewhere_has_no_contract(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    path.write_bytes(MODEL)
    model = read_model(path)
    assert (model.format, model.contract, model.members) == ("onnx", None, {})


def test_what_is_no_onnx_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"hello, world")
    with pytest.raises(ModelError, match="truncated or no ONNX model"):
        read_model(path)
    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        read_model(tmp_path)


def test_a_bad_contract_is_named(written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    changed = data.replace(b'"schema_version": 2', b'"schema_version": 9')
    written.write_bytes(changed)
    with pytest.raises(ModelError):  # the zip's own checksum speaks first
        read_model(written)
    write_model(written, MODEL, CONTRACT)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("edgeloc.json", '{"schema_version": 9}')
    written.write_bytes(with_zip((tmp_path / "z.zip").read_bytes()))
    with pytest.raises(ContractError, match=r"m\.onnx: the contract inside is bad: schema_version is 9"):
        read_model(written)


def test_only_onnx_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no ONNX model"):
        write_model(tmp_path / "m.onnx", b"\x1c\0\0\0TFL3", CONTRACT)
    assert list(tmp_path.iterdir()) == []
