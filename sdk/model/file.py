"""The model file: a network, and in the same file its contract, labels, calibration manifest and self-test."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeloc._support.json import parse_json
from edgeloc.errors import ContractError, EdgelocError, ModelError
from edgeloc.model.containers import CONTAINERS, Format, format_of
from edgeloc.model.contract import Contract, read_contract

if TYPE_CHECKING:
    from zipfile import ZipFile

    from edgeloc.model.golden import Golden

__all__ = [
    "CONTRACT",
    "HEAD",
    "ModelFile",
    "contract_for",
    "file_in_memory",
    "own_contract",
    "read_keras_contract",
    "read_model",
    "write_model",
]

CONTRACT = "edgeloc.json"
HEAD = "stages/head.tflite"
"""Of a two-stage detector, the network of one region; the payload is the one before it."""
LABELS = "labels.txt"
CALIBRATION = "calibration.json"
GOLDEN_IMAGE = "golden/image.png"
GOLDEN_EXPECTED = "golden/expected.json"

PAYLOAD_HASH = "payload"

# A contract has a few kilobytes, a manifest of 10,000 images one and a half megabytes.
_LONGEST_TEXT = 8 << 20
_MOST_LABELS = 100_000


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory.

    Parameters:
        payload: the network alone, a TFLite flatbuffer or an ONNX model as `format` is; `members` are the files that
            lie beside it in the same file, by name. `contract` is None when the file carries none. `trusted` means that
            this process made the network, so that it is loaded without a trial.
    """

    path: Path
    payload: bytes = dataclasses.field(repr=False)
    format: Format
    members: dict[str, bytes] = dataclasses.field(repr=False, default_factory=dict)
    contract: Contract | None = None
    trusted: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The contract's labels, else the lines of `labels.txt`, else none; ModelError where those are no text."""
        if self.contract is not None and self.contract.labels:
            return self.contract.labels
        lines = tuple(self._text(LABELS).splitlines())
        if len(lines) > _MOST_LABELS:
            raise ModelError(f"{LABELS} in {self.path} has more than {_MOST_LABELS:,} lines")
        return lines

    @property
    def extra(self) -> dict[str, bytes]:
        """The members that `write_model` does not make of its other arguments."""
        made = (CONTRACT, LABELS, CALIBRATION, GOLDEN_IMAGE, GOLDEN_EXPECTED)
        return {name: content for name, content in self.members.items() if name not in made}

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the network."""
        return hashlib.sha256(self.payload).hexdigest()

    @cached_property
    def calibration(self) -> dict[str, Any] | None:
        """The manifest of the images that the quantization was calibrated on, None when there is none."""
        return self._json(CALIBRATION) if CALIBRATION in self.members else None

    @cached_property
    def golden(self) -> Golden | None:
        """The self-test, None when there is none; ModelError when it is damaged."""
        if GOLDEN_IMAGE not in self.members or GOLDEN_EXPECTED not in self.members:
            return None
        from edgeloc.model.golden import read_golden  # who only runs a model tests none

        image, expected = f"{GOLDEN_IMAGE} in {self.path}", f"{GOLDEN_EXPECTED} in {self.path}"
        return read_golden(self.members[GOLDEN_IMAGE], image, self._json(GOLDEN_EXPECTED), expected)

    def _text(self, name: str) -> str:
        content = self.members.get(name, b"")
        if len(content) > _LONGEST_TEXT:
            raise ModelError(f"{name} in {self.path} is longer than {_LONGEST_TEXT >> 20} MB")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{name} in {self.path} is no UTF-8 text") from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = parse_json(self._text(name))
        except ValueError as error:
            raise ModelError(f"{name} in {self.path} is no JSON ({error})") from error
        if not isinstance(value, dict):
            raise ModelError(f"{name} in {self.path} must hold a JSON object")
        return value


def read_model(path: str | Path) -> ModelFile:
    """Read a `.tflite` or `.onnx` file, and what lies beside the network in it; no interpreter is involved.

    Raises ModelError when the file is missing, is no such model, is truncated or altered, and
    ContractError when its contract does not hold together.
    """
    path = Path(path)
    data = _read(path)
    format = format_of(data, path.suffix)
    payload, members = CONTAINERS[format].split(data, str(path))
    text = members.get(CONTRACT)
    contract = None if text is None else _contract_in(path, text)
    model = ModelFile(path, payload, format, members, contract)
    expected = None if contract is None else contract.hashes.get(PAYLOAD_HASH)
    if expected is None:
        CONTAINERS[format].check(payload, str(path))
    elif model.digest != expected:
        raise ModelError(f"{path} is truncated or altered: it is not the model its contract was written for")
    return model


def file_in_memory(name: str | Path, data: bytes, contract: Contract | None = None) -> ModelFile:
    """A model that this process made, and that is no file yet; a zip behind the network gives its members."""
    format = format_of(data)
    payload, members = CONTAINERS[format].split(data, str(name))
    return ModelFile(Path(name), payload, format, members, contract, trusted=True)


def contract_beside(model: str | Path) -> Path:
    """Where the contract of a model lies that carries none: a JSON file beside it with the same name (`model.json`)."""
    return Path(model).with_suffix(".json")


def contract_file(model: str | Path) -> Path | None:
    """The JSON file that holds the contract of a model that carries none; None for any other model, or without one."""
    beside = contract_beside(model)
    if Path(model).suffix == ".keras" or not beside.is_file():
        return None
    try:
        return beside if read_model(model).contract is None else None
    except EdgelocError:
        return None  # what is wrong with the model says who reads it


def own_contract(model: ModelFile) -> Contract | None:
    """The contract inside the file, else that of `contract_beside`, else None."""
    beside = contract_beside(model.path)
    if model.contract is not None or not beside.is_file():
        return model.contract
    return read_contract(beside)


def contract_for(model: ModelFile, given: Contract | str | Path | None = None) -> Contract:
    """The contract to use a model with: the one given, else the model's own; ContractError when there is none."""
    if isinstance(given, Contract):
        return given
    contract = own_contract(model) if given is None else read_contract(given)
    if contract is None:
        raise ContractError(
            f"{model.path} has no contract, so the meaning of its numbers is unknown",
            hint=f"write one as {contract_beside(model.path).name} beside it, give {{contract}}, or convert the "
            "model with `edgeloc convert`",
        )
    return contract


def read_keras_contract(path: str | Path) -> Contract | None:
    """The contract inside a `.keras` file, None when it carries none; ModelError when it is no such file."""
    import zipfile  # it takes 5 ms to import, and who only runs a model reads none
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            text = _packed(archive, CONTRACT) if CONTRACT in archive.namelist() else None
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file", hint="give a .keras model") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"{path} is no .keras file: {error}") from error
    return None if text is None else _contract_in(path, text)


def _packed(archive: ZipFile, name: str) -> bytes:
    """A text in another program's zip, stored or deflated; ValueError where it is too long.

    The size is counted while it is read: the one in the zip may be false.
    """
    from zipfile import ZIP_DEFLATED, ZIP_STORED

    entry = archive.getinfo(name)
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others unpack to any length at once
        raise ValueError(f"{name} is compressed in an uncommon way")
    with archive.open(entry) as member:
        content = member.read(_LONGEST_TEXT + 1)
    if len(content) > _LONGEST_TEXT:
        raise ValueError(f"{name} is longer than {_LONGEST_TEXT:,} bytes")
    return content


def write_model(
    path: str | Path,
    payload: bytes,
    contract: Contract,
    *,
    calibration: dict[str, Any] | None = None,
    golden: Golden | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model file: the network, and beside it the contract, labels, calibration and self-test.

    The same arguments give the same bytes.

    Parameters:
        path: where to; its suffix must be that of the payload's format.
        payload: the network, a TFLite flatbuffer or an ONNX model; a zip that it carries already is left out.
        contract: is stored with the payload's SHA-256 in `hashes["payload"]`.
        calibration: the manifest of the images that the quantization was calibrated on.
        golden: the self-test.
        extra: further members of the zip by name.

    Raises ModelError when `payload` is of no known format or another than the suffix says, OutputError when the path
    cannot be written.
    """
    from edgeloc._support.files import atomic_path  # who only runs a model never writes one

    path = Path(path)
    container = CONTAINERS[format_of(b"", path.suffix)]
    if not container.matches(payload):
        raise ModelError(f"{path}: what should be written is no {container.title} model")
    payload, _ = container.split(bytes(payload), str(path))
    members = {**_members_of(payload, contract, calibration, golden), **(extra or {})}
    with atomic_path(path) as temporary:
        temporary.write_bytes(container.join(payload, members))


def _members_of(
    payload: bytes, contract: Contract, calibration: dict[str, Any] | None, golden: Golden | None
) -> dict[str, bytes]:
    digest = hashlib.sha256(payload).hexdigest()
    contract = dataclasses.replace(contract, hashes={**contract.hashes, PAYLOAD_HASH: digest})
    members = {CONTRACT: contract.to_json().encode()}
    if contract.labels:
        members[LABELS] = "".join(label + "\n" for label in contract.labels).encode()
    if calibration is not None:
        members[CALIBRATION] = (json.dumps(calibration, indent=1) + "\n").encode()
    if golden is not None:
        members[GOLDEN_IMAGE] = golden.image_png()
        members[GOLDEN_EXPECTED] = golden.expected_json().encode()
    return members


def _contract_in(path: str | Path, text: bytes) -> Contract:
    """The contract out of a model file's archive; an error names the file."""
    try:
        return Contract.from_json(text.decode(errors="replace"))
    except ContractError as error:
        raise ContractError(f"{path}: the contract inside is bad: {error}") from error


def _read(path: Path) -> bytes:
    hint = "give an .onnx model" if path.suffix == ".onnx" else "give a .tflite model"
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file", hint=hint) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
