"""The ONNX model file: what travels in it, and what happens to a damaged one; no ONNX package is needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeloc.errors import ContractError, ModelError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import Golden
from edgeloc.model.onnx import is_onnx, join_onnx, read_onnx_model, split_onnx, write_onnx_model
from edgeloc.types import Box

# The outermost fields of an ONNX model: ir_version 8, a graph of 300 bytes, opset_import 13.
MODEL = bytes([8, 8, 0x3A, 0xAC, 0x02]) + bytes(range(256)) + bytes(44) + bytes([0x42, 2, 0x10, 13])
CONTRACT = Contract(
    InputSpec("image", 32, 32),
    (OutputSpec("presence", "presence"), OutputSpec("class", "class"), OutputSpec("box", "box")),
    labels=("bolt", "Schraube ä"),
)
GOLDEN = Golden(np.full((6, 8, 3), 9, np.uint8), 0.75, Box(1, 2, 3, 4), "bolt")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_onnx_model(tmp_path / "m.onnx", MODEL, CONTRACT, calibration={"count": 3}, golden=GOLDEN)
    return tmp_path / "m.onnx"


def test_everything_comes_back(written: Path) -> None:
    model = read_onnx_model(written)
    assert model.flatbuffer == MODEL
    assert model.verified
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
    write_onnx_model(again, written.read_bytes(), CONTRACT, calibration={"count": 3}, golden=GOLDEN)
    assert again.read_bytes() == written.read_bytes()


def test_onnx_itself_reads_the_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ports[:1], ports[1:])
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert is_onnx(plain.SerializeToString())
    write_onnx_model(tmp_path / "m.onnx", plain.SerializeToString(), CONTRACT)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert onnx.load(str(tmp_path / "m.onnx")).graph == plain.graph
    assert read_onnx_model(tmp_path / "m.onnx").flatbuffer == plain.SerializeToString()


def test_an_archive_takes_the_place_of_the_one_before() -> None:
    twice = join_onnx(join_onnx(MODEL, b"first"), b"second")
    assert split_onnx(twice) == (MODEL, b"second")
    assert split_onnx(MODEL) == (MODEL, b"")


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x1c\0\0\0TFL3", MODEL[:-1], MODEL[:200], b"\x89PNG\r\n", b"\xff" * 40]
)
def test_what_is_no_onnx(data: bytes) -> None:
    assert not is_onnx(data)


def test_a_file_cut_anywhere_is_found(written: Path) -> None:
    data = written.read_bytes()
    for length in range(1, len(data), 7):
        written.write_bytes(data[:length])
        with pytest.raises(ModelError):
            read_onnx_model(written)


def test_a_changed_byte_is_found(written: Path) -> None:
    data = bytearray(written.read_bytes())
    data[100] ^= 1
    written.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="truncated or altered"):
        read_onnx_model(written)


def test_a_broken_archive_is_told(written: Path) -> None:
    written.write_bytes(join_onnx(MODEL, b"PK no zip at all"))
    with pytest.raises(ModelError, match=r"m\.onnx is truncated or altered: the zip"):
        read_onnx_model(written)


def test_a_model_from_elsewhere_is_sent_to_the_converter(tmp_path: Path) -> None:
    path = tmp_path / "bare.onnx"
    path.write_bytes(MODEL)
    with pytest.raises(ModelError, match=r"bare\.onnx carries no contract: .*--target tensorrt"):
        read_onnx_model(path)
    path.write_bytes(b"hello, world")
    with pytest.raises(ModelError, match="truncated or no ONNX model"):
        read_onnx_model(path)
    with pytest.raises(ModelError, match="no such file"):
        read_onnx_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        read_onnx_model(tmp_path)


def test_a_bad_contract_is_named(written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    changed = data.replace(b'"schema_version": 1', b'"schema_version": 9')
    written.write_bytes(changed)
    with pytest.raises(ModelError):  # the zip's own checksum speaks first
        read_onnx_model(written)
    write_onnx_model(written, MODEL, CONTRACT)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("edgeloc.json", '{"schema_version": 9}')
    written.write_bytes(join_onnx(MODEL, (tmp_path / "z.zip").read_bytes()))
    with pytest.raises(ContractError, match=r"m\.onnx: the contract inside is bad: schema_version is 9"):
        read_onnx_model(written)


def test_only_onnx_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no ONNX model"):
        write_onnx_model(tmp_path / "m.onnx", b"\x1c\0\0\0TFL3", CONTRACT)
    assert list(tmp_path.iterdir()) == []
