"""TFLITE_METADATA as a start of a contract: written here by flatbuffers' own builder, and in files that others made."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgeloc.cli import main
from edgeloc.errors import ModelError
from edgeloc.model.contract import Contract
from edgeloc.model.legacy_metadata import read_legacy_metadata
from edgeloc.models import SHIPPED_INT8

flatbuffers = pytest.importorskip("flatbuffers")


def table(builder: flatbuffers.Builder, **slots: int) -> int:
    """A table of offsets, by slot: `s2=offset`."""
    builder.StartObject(7)
    for slot, offset in slots.items():
        builder.PrependUOffsetTRelativeSlot(int(slot[1:]), offset, 0)
    return int(builder.EndObject())


def tagged(builder: flatbuffers.Builder, kind_at: int, kind: int, offset_at: int, offset: int) -> int:
    """A table of a byte and an offset: a union, or a file and its kind."""
    builder.StartObject(7)
    builder.PrependUint8Slot(kind_at, kind, 0)
    builder.PrependUOffsetTRelativeSlot(offset_at, offset, 0)
    return int(builder.EndObject())


def vector(builder: flatbuffers.Builder, *offsets: int) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def floats(builder: flatbuffers.Builder, *values: float) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())


def metadata() -> bytes:
    """A model with an input normalized by 127 and 128, and a label file for its first output."""
    builder = flatbuffers.Builder(256)
    options = table(builder, s0=floats(builder, 127.0), s1=floats(builder, 128.0))
    unit = tagged(builder, 0, 1, 1, options)
    image = table(builder, s4=vector(builder, unit))
    file = tagged(builder, 2, 2, 0, builder.CreateString("names.txt"))
    output = table(builder, s6=vector(builder, file))
    graph = table(builder, s2=vector(builder, image), s3=vector(builder, output))
    builder.Finish(table(builder, s0=builder.CreateString("a detector"), s3=vector(builder, graph)), b"M001")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def network() -> bytes:
    """A float network that answers with 16 classes and a background in 4x4 cells, as a FOMO does."""
    tf = pytest.importorskip("tensorflow")

    @tf.function(input_signature=[tf.TensorSpec((1, 32, 32, 3), tf.float32, name="image")])
    def cells(image: Any) -> Any:
        return tf.nn.softmax(tf.concat([tf.nn.avg_pool2d(image, 8, 8, "VALID")] * 6, -1)[..., :17])

    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([cells.get_concrete_function()]).convert())


def write_model(path: Path, network: bytes, content: bytes) -> Path:
    """The network with this metadata, and the label file behind it."""
    from edgeloc.model.flatbuffer import pack, schema, unpack

    model = unpack(network)
    buffer, entry = schema().BufferT(), schema().MetadataT()
    buffer.data = list(content)
    model.buffers.append(buffer)
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("names.txt", "background\n" + "\n".join(f"class {number}" for number in range(16)))
    path.write_bytes(pack(model) + zipped.getvalue())
    return path


def test_labels_and_normalization_are_read(tmp_path: Path, network: bytes) -> None:
    found = read_legacy_metadata(write_model(tmp_path / "model.tflite", network, metadata()))
    assert found is not None
    assert (found.name, found.labels_file, found.mean, found.std) == ("a detector", "names.txt", (127.0,), (128.0,))
    assert found.labels[:2] == ("background", "class 0")
    assert read_legacy_metadata(SHIPPED_INT8) is None


def test_the_contract_starts_from_it_and_says_so(
    tmp_path: Path, network: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = write_model(tmp_path / "model.tflite", network, metadata()), tmp_path / "contract.json"
    assert main(["contract", str(model), "--like", "fomo", "--out", str(out)]) == 0
    contract = Contract.from_json(out.read_text())
    assert contract.labels == tuple(f"class {number}" for number in range(16))
    assert (contract.input.mean, contract.input.std) == ((127.0,), (128.0,))
    printed = capsys.readouterr().out
    assert "the file's own names.txt names the classes" in printed
    assert "mean 127, standard deviation 128" in printed


def test_labels_that_are_given_overrule_it(tmp_path: Path, network: bytes) -> None:
    model, out = write_model(tmp_path / "model.tflite", network, metadata()), tmp_path / "contract.json"
    (tmp_path / "own.txt").write_text("\n".join("abcdefghijklmnop"))
    labels = ["--labels", str(tmp_path / "own.txt")]
    assert main(["contract", str(model), "--like", "fomo", *labels, "--out", str(out)]) == 0
    assert Contract.from_json(out.read_text()).labels == tuple("abcdefghijklmnop")


@pytest.mark.parametrize("keep", [4, 40, 90])
def test_a_damaged_one_ends_in_a_sentence(tmp_path: Path, network: bytes, keep: int) -> None:
    with pytest.raises(ModelError, match="TFLITE_METADATA is damaged"):
        read_legacy_metadata(write_model(tmp_path / "model.tflite", network, metadata()[:keep]))


def test_files_of_others(shared_data: Path) -> None:
    files = sorted((shared_data / "conformance" / "coral").glob("mobilenet_v1_*_quant.tflite"))
    if not files:
        pytest.skip("no conformance files")
    for path in files:
        found = read_legacy_metadata(path)
        assert found is not None
        assert (len(found.labels), found.labels[0], found.mean, found.color) == (1001, "background", (127.5,), "rgb")
