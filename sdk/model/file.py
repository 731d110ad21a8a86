"""Reads and writes the model file: a TFLite flatbuffer with a zip of contract, labels and self-test behind it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from edgeloc._support.files import atomic_path
from edgeloc.errors import ContractError, MissingExtra, ModelError
from edgeloc.model.contract import Contract
from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.types import Box, Pixels

__all__ = [
    "CONTRACT",
    "Golden",
    "ModelFile",
    "append_zip",
    "contract_in",
    "members_of",
    "read_keras_contract",
    "read_model",
    "write_model",
]

CONTRACT = "edgeloc.json"
LABELS = "labels.txt"
CALIBRATION = "calibration.json"
GOLDEN_IMAGE = "golden/image.png"
GOLDEN_EXPECTED = "golden/expected.json"

_MARK = b"TFL3"
_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_SIZE = 30
_MOST_BEHIND_MODEL = 64 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """A small image and what the model must answer on it: the self-test on the device.

    `image` is BGR uint8 (height, width, 3); `box` is in its pixels, None where the model must find
    nothing. Every edge may differ by `box_px` pixels and the presence by `presence_tolerance`,
    since kernels and CPUs round differently.
    """

    image: Pixels
    presence: float
    box: Box | None
    label: str | None
    box_px: float = 4.0
    presence_tolerance: float = 0.1

    def expected_json(self) -> str:
        """Everything but the image, as the JSON text of `golden/expected.json`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "image"}
        return json.dumps(values, indent=2) + "\n"


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory: the flatbuffer's bytes, and the files behind it by name.

    `contract` is None when the file carries none. `verified` tells that the flatbuffer is, byte by
    byte, the one that its contract was written for.
    """

    path: Path
    flatbuffer: bytes = dataclasses.field(repr=False)
    members: dict[str, bytes] = dataclasses.field(repr=False, default_factory=dict)
    contract: Contract | None = None
    verified: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The contract's labels, else the lines of `labels.txt`, else none."""
        if self.contract is not None and self.contract.labels:
            return self.contract.labels
        return tuple(self._text(LABELS).splitlines())

    @cached_property
    def calibration(self) -> dict[str, Any] | None:
        """The manifest of the images that the quantization was calibrated on, None when there is none."""
        return self._json(CALIBRATION) if CALIBRATION in self.members else None

    @cached_property
    def golden(self) -> Golden | None:
        """The self-test, None when there is none; ModelError when it is damaged."""
        if GOLDEN_IMAGE not in self.members or GOLDEN_EXPECTED not in self.members:
            return None
        image = cv2.imdecode(np.frombuffer(self.members[GOLDEN_IMAGE], np.uint8), cv2.IMREAD_COLOR)
        values = self._json(GOLDEN_EXPECTED)
        if image is None:
            raise ModelError(f"{self.path}: {GOLDEN_IMAGE} behind the model is no image; convert the model anew")
        try:
            box = values.pop("box")
            return Golden(image.astype(np.uint8, copy=False), box=None if box is None else Box(*box), **values)
        except (TypeError, KeyError) as error:
            raise ModelError(f"{self.path}: {GOLDEN_EXPECTED} behind the model does not fit ({error})") from error

    def _text(self, name: str) -> str:
        try:
            return self.members.get(name, b"").decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.path}: {name} behind the model is no UTF-8 text") from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._text(name))
        except ValueError as error:
            raise ModelError(f"{self.path}: {name} behind the model is no JSON ({error})") from error
        if not isinstance(value, dict):
            raise ModelError(f"{self.path}: {name} behind the model must hold a JSON object")
        return value


def read_model(path: str | Path) -> ModelFile:
    """Read a `.tflite` file and what lies behind its flatbuffer, or an `.onnx` file that was made for TensorRT.

    Raises ModelError when the file is missing, is no such model, is truncated or altered, and
    ContractError when its contract does not hold together. No interpreter is involved.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        from edgeloc.model.onnx import read_onnx_model  # it builds on this module

        return read_onnx_model(path)
    data = _read(path)
    if data[4:8] != _MARK:
        raise ModelError(f"{path} is no TFLite model: {_what_it_is(path, data)}")
    flatbuffer, members = _split(path, data)
    text = members.get(CONTRACT)
    if text is None:
        _check_structure(path, flatbuffer)
        return ModelFile(path, flatbuffer, members)
    contract = contract_in(path, text)
    expected = contract.hashes.get("flatbuffer")
    if expected is None:
        _check_structure(path, flatbuffer)
    elif hashlib.sha256(flatbuffer).hexdigest() != expected:
        raise ModelError(f"{path} is truncated or altered: it is not the model its contract was written for")
    return ModelFile(path, flatbuffer, members, contract, verified=expected is not None)


def read_keras_contract(path: str | Path) -> Contract | None:
    """The contract inside a `.keras` file, None when it carries none; ModelError when it is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return contract_in(path, archive.read(CONTRACT)) if CONTRACT in archive.namelist() else None
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; give a .keras model") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{path} is no .keras file: {error}") from error


def write_model(
    path: str | Path,
    flatbuffer: bytes,
    contract: Contract,
    *,
    calibration: dict[str, Any] | None = None,
    golden: Golden | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model file: the flatbuffer, and behind it the contract, labels, calibration and self-test.

    The contract is stored with the flatbuffer's SHA-256 in `hashes["flatbuffer"]`. The same
    arguments give the same bytes. A zip that already lies behind `flatbuffer` is left out. Raises
    ModelError when `flatbuffer` is no TFLite model, OutputError when the path cannot be written.
    """
    path = Path(path)
    if flatbuffer[4:8] != _MARK:
        raise ModelError(f"{path}: what should be written is no TFLite flatbuffer")
    flatbuffer, _ = _split(path, bytes(flatbuffer))
    members = members_of(flatbuffer, contract, calibration, golden)
    with atomic_path(path) as temporary:
        temporary.write_bytes(flatbuffer)
        append_zip(temporary, {**members, **(extra or {})})


def members_of(
    model: bytes, contract: Contract, calibration: dict[str, Any] | None, golden: Golden | None
) -> dict[str, bytes]:
    """What goes along with a model, by name: the contract with the model's SHA-256, labels, calibration, self-test."""
    digest = hashlib.sha256(model).hexdigest()
    contract = dataclasses.replace(contract, hashes={**contract.hashes, "flatbuffer": digest})
    members = {CONTRACT: contract.to_json().encode()}
    if contract.labels:
        members[LABELS] = "".join(label + "\n" for label in contract.labels).encode()
    if calibration is not None:
        members[CALIBRATION] = (json.dumps(calibration, indent=1) + "\n").encode()
    if golden is not None:
        members[GOLDEN_IMAGE] = cv2.imencode(".png", golden.image)[1].tobytes()
        members[GOLDEN_EXPECTED] = golden.expected_json().encode()
    return members


def contract_in(path: str | Path, text: bytes) -> Contract:
    """The contract out of a model file's archive; an error names the file."""
    try:
        return Contract.from_json(text.decode(errors="replace"))
    except ContractError as error:
        raise ContractError(f"{path}: the contract inside is bad: {error}") from error


def append_zip(target: Path | BinaryIO, members: Mapping[str, bytes]) -> None:
    """Put a zip behind a file or stream; stored, as TFLite's own metadata reader needs it, and without clocks."""
    with zipfile.ZipFile(target, "a", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; give a .tflite model") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; give a .tflite model") from error


def _what_it_is(path: Path, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if path.suffix in (".keras", ".h5", ".pb", ".pt"):
        return "convert it first with `edgeloc convert`"
    if data[:4] == _LOCAL_HEADER:
        return "it is a zip with no model before it"
    return "it does not begin with the mark TFL3"


def _split(path: Path, data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The flatbuffer, and the members of the zip behind it (none where there is no zip)."""
    stream = io.BytesIO(data)
    if not zipfile.is_zipfile(stream):
        _refuse_broken_zip(path, data)
        return data, {}
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MOST_BEHIND_MODEL:
                raise ModelError(f"{path}: more than 64 MB lie behind the model; remove them with zip -d")
            members = {entry.filename: archive.read(entry) for entry in entries}
    except ModelError:
        raise
    except _DAMAGED_ZIP as error:
        raise ModelError(f"{path} is truncated or altered: the zip behind the model is broken ({error})") from error
    start = min((entry.header_offset for entry in entries), default=len(data))
    return data[:start], members


def _refuse_broken_zip(path: Path, data: bytes) -> None:
    """A zip that lost its end looks like none; our contract's local header gives it away."""
    name = data.find(CONTRACT.encode())
    start = name - _LOCAL_HEADER_SIZE
    if start > 0 and data[start : start + len(_LOCAL_HEADER)] == _LOCAL_HEADER:
        raise ModelError(f"{path} is truncated: the zip behind the model has no end; copy it anew")


def _check_structure(path: Path, flatbuffer: bytes) -> None:
    """Follow the flatbuffer's offsets where its format is known here, so that a cut is found before it is run."""
    try:
        parse_flatbuffer(flatbuffer, str(path))
    except MissingExtra:
        return  # the engine tries the model in a process of its own
