"""The card of a model: what its contract knows of data, lineage, figures and limits, and what a person states.

What the contract does not record is None, "unknown" in the page; what only a person can say, and has not said, is "not
stated". Nothing is guessed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeloc._support.json import from_data, parse_json
from edgeloc._version import __version__
from edgeloc.benchmarks.card.figures import (
    Measurement,
    Training,
    limits_of,
    measurement_of,
    section,
    training_of,
    whole,
)
from edgeloc.errors import ContractError, UsageError
from edgeloc.model.contract import Contract, Thresholds
from edgeloc.model.file import ModelFile, own_contract, read_model
from edgeloc.model.inspection import report_payload

__all__ = [
    "CARD_VERSION",
    "NOT_STATED",
    "About",
    "Card",
    "DataUse",
    "NetworkFacts",
    "Origin",
    "make_card",
    "read_about",
]

CARD_VERSION = 1
NOT_STATED = "not stated"
_ORIGINS = {
    "started_from": "the trained network that the training went on from",
    "float_model": "the float network that was quantized",
    "calibration": "the manifest of the calibration images",
    "uncompiled": "the network before the Edge TPU's compiler",
    "adapted_from": "the file before it was adapted on the device",
    "payload": "this file's network",
}


@dataclass(frozen=True, slots=True)
class About:
    """What only a person can say of a model; the text stays as it was given.

    Parameters:
        license: of the model, such as Apache-2.0.
        contact: whom to ask.
        intended_use: what it was made for.
        must_not_use: what it must not be used for.
        training_data: what the network was trained on.
        data_licenses: the licence of each data set, by the name that the card shows.
        limits: what is known of its weaknesses, beside what the contract shows.
    """

    license: str = NOT_STATED
    contact: str = NOT_STATED
    intended_use: str = NOT_STATED
    must_not_use: tuple[str, ...] = ()
    training_data: str = NOT_STATED
    data_licenses: dict[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What was read out of the file itself.

    Parameters:
        format: tflite or onnx.
        file_bytes: the whole file.
        file_sha256: of the whole file, contract included.
        precision: what it computes in.
        parameters: the numbers stored in weights and biases.
        macs: multiply-accumulates of one run.
        input: the image that it takes, in words.
        recipe: how it was quantized; None where that is unknown.
    """

    format: str
    file_bytes: int
    file_sha256: str
    precision: str
    parameters: int
    macs: int
    input: str
    recipe: str | None


@dataclass(frozen=True, slots=True)
class DataUse:
    """Images that went into the model, or that it was measured on.

    Parameters:
        role: what for.
        name: the data set; of the training data what a person states.
        split: its part.
        images: how many.
        sha256: of the images' list.
        license: as stated for this name.
    """

    role: Literal["training", "calibration", "measurement"]
    name: str | None
    split: str | None
    images: int | None
    sha256: str | None
    license: str = NOT_STATED


@dataclass(frozen=True, slots=True)
class Origin:
    """Something that the file was made of, by the SHA-256 that the contract has of it."""

    name: str
    what: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Card:
    """The card of a model file.

    Parameters:
        name: the file's, without its suffix.
        task: whether it finds one object, a known number, or any.
        labels: the classes.
        thresholds: from which probability an object is present, and its class known.
        network: what the file holds.
        about: what a person states.
        data: the images of training, calibration and measurement.
        lineage: what the file was made of.
        tools: the versions that made it, by name.
        training: what the training wrote; None where the contract has nothing of it.
        measurement: what quantization cost; None where it was not measured.
        also_recorded: further sections of the contract's figures, which `edgeloc inspect --json` shows.
        limits: what the contract shows it cannot do.
        written_by: the version of edgeloc that wrote the card.
        schema_version: of this layout.
    """

    name: str
    task: Literal["one object", "a known number of objects", "any number of objects"]
    labels: tuple[str, ...]
    thresholds: Thresholds
    network: NetworkFacts
    about: About
    data: tuple[DataUse, ...]
    lineage: tuple[Origin, ...]
    tools: dict[str, str]
    training: Training | None
    measurement: Measurement | None
    also_recorded: tuple[str, ...]
    limits: tuple[str, ...]
    written_by: str = __version__
    schema_version: int = CARD_VERSION


def read_about(path: str | Path) -> About:
    """What a person states, out of a JSON file; UsageError names the field that does not fit."""
    hint = f"write a JSON object with any of {', '.join(About.__slots__)}"
    try:
        data = parse_json(Path(path).read_bytes())
        about: About = from_data(About, data, strict=True, failure=UsageError)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error})", hint=hint) from error
    return about


def make_card(path: str | Path, about: About | None = None) -> Card:
    """The card of a model file by its contract; nothing is run.

    Parameters:
        path: a `.tflite` or `.onnx`.
        about: what a person states.

    Raises ModelError where the file is bad, ContractError where it has no contract.
    """
    about = about or About()
    model = read_model(path)
    contract = own_contract(model)
    if contract is None:
        raise ContractError(
            f"{path} has no contract, and a card says what the contract knows",
            hint="convert the model with `edgeloc convert`, or write a contract with `edgeloc contract`",
        )
    measured = measurement_of(contract)
    return Card(
        name=model.path.stem,
        task=_task(contract),
        labels=model.labels,
        thresholds=contract.thresholds,
        network=_network(model, contract),
        about=about,
        data=_data(model, contract, measured, about),
        lineage=tuple(_lineage(contract)),
        tools=contract.tools,
        training=training_of(contract),
        measurement=measured,
        also_recorded=tuple(sorted(set(contract.measured) - {"training", "quantization"})),
        limits=tuple(limits_of(contract, measured)),
    )


def _task(contract: Contract) -> Literal["one object", "a known number of objects", "any number of objects"]:
    if contract.detector is not None:
        return "any number of objects"
    return "one object" if contract.finds_one else "a known number of objects"


def _network(model: ModelFile, contract: Contract) -> NetworkFacts:
    report, whole_file = report_payload(model.payload, str(model.path)), model.path.read_bytes()
    spec = contract.input
    return NetworkFacts(
        format=report.format,
        file_bytes=len(whole_file),
        file_sha256=hashlib.sha256(whole_file).hexdigest(),
        precision=report.precision,
        parameters=report.parameters,
        macs=report.macs,
        input=f"{spec.width}x{spec.height} {spec.color}, {spec.resize}",
        recipe=contract.recipe or None,
    )


def _lineage(contract: Contract) -> Iterator[Origin]:
    """What the file was made of, the earliest first."""
    started_from = section(contract.measured, "training.data").get("started_from")
    earlier = (contract.adapted_from or {}).get("sha256")
    for name, digest in {"started_from": started_from, "adapted_from": earlier, **contract.hashes}.items():
        if isinstance(digest, str):
            yield Origin(name, _ORIGINS.get(name, ""), digest)


def _data(model: ModelFile, contract: Contract, measured: Measurement | None, about: About) -> tuple[DataUse, ...]:
    """Training, calibration and measurement: what is not recorded stays None."""
    trained = section(contract.measured, "training.data")
    calibration = model.calibration or {}
    known: list[tuple[Literal["training", "calibration", "measurement"], dict[str, Any]]] = [
        ("training", {**trained, "name": trained.get("name", _stated(about.training_data))}),
        (
            "calibration",
            {
                "name": calibration.get("dataset"),
                "split": calibration.get("split"),
                "images": calibration.get("count"),
                "sha256": contract.hashes.get("calibration"),
            },
        ),
    ]
    if measured is not None:
        known.append(("measurement", {"name": measured.data, "split": measured.split, "images": measured.images}))
    return tuple(_use(role, values, about) for role, values in known)


def _use(role: Literal["training", "calibration", "measurement"], values: dict[str, Any], about: About) -> DataUse:
    name, split, digest = (
        value if isinstance(value := values.get(key), str) else None for key in ("name", "split", "sha256")
    )
    return DataUse(
        role, name, split, whole(values.get("images")), digest, about.data_licenses.get(name or "", NOT_STATED)
    )


def _stated(text: str) -> str | None:
    return None if text == NOT_STATED else text
