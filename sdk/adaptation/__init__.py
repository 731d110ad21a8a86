"""Learning a class on the device: rows added to the class head of an int8 localizer, from a few photos, in seconds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import atomic_path, require_writable
from edgeloc.adaptation.head import ClassHead, choose_strength, fit_row, log_sum, out_of_fold
from edgeloc.data import Sample, open_dataset
from edgeloc.data.sample import fingerprint
from edgeloc.decode.numbers import Quantization, dequantized
from edgeloc.engines import open_engine
from edgeloc.errors import DataError, ModelError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, contract_for, file_in_memory, read_model, write_model
from edgeloc.model.golden import make_golden
from edgeloc.model.trust import is_trusted, trust
from edgeloc.scenes import SceneGenerator
from edgeloc.types import Pixels

__all__ = ["EARLIER", "Adapted", "Learned", "adapt", "undo"]

EARLIER = "adapted_from/model.tflite"
"""The member that holds the whole file before, so that it can be given back byte for byte."""

_FEWEST = 5
# The margin that all but a tenth of the photos have, when held out, goes to the old classes: chosen on the table of
# docs/guide/adapt.md.
_GIVEN_UP = 0.1
_SCENES, _SCENE_SIZE = 120, (224, 224)
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Learned:
    """A new class.

    Parameters:
        label: its name.
        photos: how many it was learned from.
        right: the share of them that get the label from a head fitted without them (five folds, by group).
        found: the share of them whose presence reaches the threshold: the presence and box heads are as they were.
    """

    label: str
    photos: int
    right: float
    found: float


@dataclass(frozen=True, slots=True)
class Adapted:
    """What `adapt` did.

    Parameters:
        path: the new file.
        learned: the new classes.
        old_photos: how many photos of the data show a class that the model knew before.
        old_before, old_after: the share of these with the right label, before, and by a head fitted without them; None
            without such photos.
        taken: the share of generated scenes, which show none of the new classes, that got a new label, by a head fitted
            without them.
        in_file: the share of the new classes' photos that get their label from the written file.
    """

    path: Path
    learned: tuple[Learned, ...]
    old_photos: int
    old_before: float | None
    old_after: float | None
    taken: float
    in_file: float


@dataclass(frozen=True)
class _Seen:
    """Images through the frozen network: features by branch, old logits, presence; a label and a group each."""

    parts: list[Array]
    logits: Array
    presence: Array
    labels: tuple[str | None, ...]
    groups: tuple[str, ...]
    is_photo: NDArray[np.bool_]

    @property
    def scales(self) -> list[float]:
        """The root of each branch's mean square, at least a millionth."""
        return [max(float(np.sqrt(np.mean(part**2))), 1e-6) for part in self.parts]


def adapt(
    model: str | Path, data: str | Path, out: str | Path, *, label: str | None = None, split: str | None = None
) -> Adapted:
    """Teach an int8 localizer the classes of a data set that it does not know, and write it as a new file.

    The class head gains a row for each; all other weights stay byte for byte. Beside the photos it is fitted on their
    mirror images and on generated scenes, which stand for everything else.

    Parameters:
        model: the model file; a head of fully connected layers in int8 can be adapted.
        data: photos, as `open_dataset` reads them.
        out: the new file.
        label: the class of photos that carry no label, such as a folder of images alone.
        split: which part of the data.

    Raises ModelError for a model that cannot be adapted, DataError where the data teaches nothing new.
    """
    require_writable(out, model)
    file = read_model(model)
    contract = contract_for(file)
    head = _head(file, contract)
    dataset = open_dataset(data, split=split)
    samples, labels = _labelled(dataset.samples, label)
    new = _new_labels(labels, contract, str(data))
    localizer = _with_features(file, contract, head)
    seen = _look(localizer, contract, head, samples, labels)
    rows, biases, held_out = _fit(seen, new)
    flatbuffer = head.with_rows(_by_branch(seen, rows), biases, _reach(head, seen, rows, biases))
    history = _history(file, contract, new, dataset.name, samples)
    adapted = dataclasses.replace(contract, labels=(*contract.labels, *new), adapted_from=history)
    right = _write(Path(out), file, adapted, flatbuffer, samples, labels)
    return _figures(Path(out), seen, held_out, contract, new, right)


def undo(model: str | Path, out: str | Path) -> str:
    """Write the file that `model` was adapted from, byte for byte; its SHA-256.

    Raises ModelError where `model` was not adapted, or what it carries is not the file before.
    """
    require_writable(out, model)
    file = read_model(model)
    history = None if file.contract is None else file.contract.adapted_from
    if history is None or EARLIER not in file.members:
        raise ModelError(f"{model} was not adapted: there is no file before it to give back")
    earlier = file.members[EARLIER]
    digest = hashlib.sha256(earlier).hexdigest()
    if digest != history.get("sha256"):
        raise ModelError(f"{model} is altered: what it carries is not the file that it was adapted from")
    with atomic_path(out) as temporary:
        temporary.write_bytes(earlier)
    return digest


def _head(file: ModelFile, contract: Contract) -> ClassHead:
    output = contract.output("class")
    if file.format != "tflite" or output is None or not contract.finds_one or not contract.labels:
        raise ModelError(
            f"{file.path} cannot be adapted: only a .tflite localizer of one object with an output of its own for the "
            "class can"
        )
    return ClassHead(file.payload, output.tensor, len(contract.labels), str(file.path))


def _labelled(samples: Sequence[Sample], label: str | None) -> tuple[list[Sample], list[str]]:
    """The samples whose class is known, and the class of each."""
    named = [(sample, sample.label if sample.labelled else label) for sample in samples]
    known = [(sample, one) for sample, one in named if one is not None]
    return [sample for sample, _ in known], [one for _, one in known]


def _new_labels(labels: Sequence[str], contract: Contract, data: str) -> tuple[str, ...]:
    new = tuple(sorted(set(labels) - set(contract.labels)))
    if not new:
        known = ", ".join(contract.labels)
        raise DataError(
            f"{data} shows no class that the model does not know ({known})",
            hint="label the photos, or name their class with {label}",
        )
    few = [one for one in new if labels.count(one) < _FEWEST]
    if few:
        raise DataError(f"{data} has {labels.count(few[0])} photos of {few[0]}: a class needs {_FEWEST}, better 30")
    return new


def _with_features(file: ModelFile, contract: Contract, head: ClassHead) -> Localizer:
    if not (file.trusted or is_trusted(file.digest)):
        open_engine("auto", file)  # an untrusted file is tried in a process of its own, before it is edited and run
    return Localizer(file_in_memory(file.path, head.with_features(), contract))


def _look(
    localizer: Localizer, contract: Contract, head: ClassHead, samples: Sequence[Sample], labels: Sequence[str]
) -> _Seen:
    output = contract.output("class")
    assert output is not None
    rows: list[tuple[list[Array], Array, float]] = []
    known: list[tuple[str | None, str, bool]] = []
    for pixels, label, group, is_photo in _pictures(samples, labels):
        tensor, placement = localizer.preprocess(pixels)
        raw = localizer.invoke(tensor)
        presence = localizer.decode(raw, placement, (pixels.shape[1], pixels.shape[0])).presence
        names = [f"features-{number}" for number in range(len(head.branches))]
        parts = [_real(localizer, name, raw[name]) for name in names]
        rows.append((parts, _real(localizer, output.tensor, raw[output.tensor]), presence))
        known.append((label, group, is_photo))
    return _Seen(
        [np.array([row[0][number] for row in rows]) for number in range(len(head.branches))],
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        tuple(label for label, _, _ in known),
        tuple(group for _, group, _ in known),
        np.array([is_photo for _, _, is_photo in known]),
    )


def _pictures(samples: Sequence[Sample], labels: Sequence[str]) -> Iterator[tuple[Pixels, str | None, str, bool]]:
    """Each photo, its mirror image, and generated scenes: pixels, label, group, and whether it is a photo as taken."""
    for sample, label in zip(samples, labels, strict=True):
        pixels, group = sample.load(), sample.group or sample.name
        yield pixels, label, group, True
        yield np.ascontiguousarray(pixels[:, ::-1]), label, group, False
    scenes = SceneGenerator(seed=1, size=_SCENE_SIZE)
    for index in range(_SCENES):
        yield scenes.scene(index).pixels, None, f"scene-{index}", False


def _real(localizer: Localizer, name: str, raw: NDArray[Any]) -> Array:
    info = localizer.engine.outputs[name]
    return dequantized(raw.reshape(-1), Quantization(info.scale, info.zero_point or 0)).astype(np.float64)


def _fit(seen: _Seen, new: Sequence[str]) -> tuple[list[Array], Array, Array]:
    """For each new class its weights over all features and its bias; and its logits (n, new) by held-out fits."""
    features = np.concatenate([part / scale for part, scale in zip(seen.parts, seen.scales, strict=True)], axis=1)
    logits, rows, biases, held_out = seen.logits, [], [], []
    for label in new:
        wanted, offset = np.array([one == label for one in seen.labels]), log_sum(logits)
        strength = choose_strength(features, offset, wanted, seen.groups)
        unseen = out_of_fold(features, offset, wanted, seen.groups, strength)
        weights, bias = fit_row(features, offset, wanted, strength)
        # What the photos have to spare is given to the classes that none of them shows.
        spare = max(0.0, float(np.quantile((unseen - offset)[wanted], _GIVEN_UP)))
        held_out.append(unseen - spare)
        bias -= spare
        logits = np.concatenate([logits, (features @ weights + bias)[:, None]], axis=1)
        rows.append(weights)
        biases.append(bias)
    return rows, np.array(biases), np.stack(held_out, axis=1)


def _by_branch(seen: _Seen, rows: Sequence[Array]) -> list[Array]:
    """The weights of each branch, (new, features), for features as the network has them."""
    ends = np.cumsum([part.shape[1] for part in seen.parts])[:-1]
    split = [np.split(row, ends) for row in rows]
    return [np.array([parts[number] for parts in split]) / scale for number, scale in enumerate(seen.scales)]


def _reach(head: ClassHead, seen: _Seen, rows: Sequence[Array], biases: Array) -> dict[int, tuple[float, float]]:
    """The least and greatest number that each branch must hold now, and their sum at its upper end."""
    sums = [part @ weights.T for part, weights in zip(seen.parts, _by_branch(seen, rows), strict=True)]
    sums[0] = sums[0] + biases
    reach = {
        branch.way[-1]: (float(values.min()), float(values.max()))
        for branch, values in zip(head.branches, sums, strict=True)
    }
    # A logit far below the others may be cut off: the class is another one either way.
    reach[head.output] = (0.0, float(np.sum(sums, axis=0).max()))
    return reach


def _history(
    file: ModelFile, contract: Contract, new: Sequence[str], data: str, samples: Sequence[Sample]
) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest(),
        "payload": file.digest,
        "head": "class",
        "labels_added": list(new),
        "data": data,
        "images": len(samples),
        "data_sha256": fingerprint(samples),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "adapted_from": contract.adapted_from,
    }


def _write(
    out: Path,
    file: ModelFile,
    contract: Contract,
    flatbuffer: bytes,
    samples: Sequence[Sample],
    labels: Sequence[str],
) -> float:
    """Write the new file once it has run; the share of the new classes' photos that it labels rightly."""
    memory = file_in_memory(out, flatbuffer, contract)
    localizer = Localizer(memory)
    assert contract.adapted_from is not None
    added = set(contract.adapted_from["labels_added"])
    photos = [(sample, label) for sample, label in zip(samples, labels, strict=True) if label in added]
    right = [_answer(localizer, sample) == contract.labels.index(label) for sample, label in photos]
    extra = {**file.extra, EARLIER: file.path.read_bytes()}
    write_model(out, flatbuffer, contract, calibration=file.calibration, golden=make_golden(localizer), extra=extra)
    trust(memory.digest)
    return float(np.mean(right))


def _answer(localizer: Localizer, sample: Sample) -> int:
    """The class with the highest logit, whatever the presence."""
    output = localizer.contract.output("class")
    assert output is not None
    raw = localizer.invoke(localizer.preprocess(sample.load())[0])
    return int(np.argmax(raw[output.tensor].reshape(-1)))


def _figures(
    out: Path, seen: _Seen, held_out: Array, contract: Contract, new: Sequence[str], in_file: float
) -> Adapted:
    names = (*contract.labels, *new)
    before = [names[index] for index in seen.logits.argmax(axis=1)]
    after = [names[index] for index in np.concatenate([seen.logits, held_out], axis=1).argmax(axis=1)]
    labels = np.array([label or "" for label in seen.labels])
    correct_before, correct_after = (np.array(answers) == labels for answers in (before, after))
    found = seen.presence >= contract.thresholds.presence
    old = seen.is_photo & np.isin(labels, contract.labels)
    shown = {label: seen.is_photo & (labels == label) for label in new}
    learned = tuple(
        Learned(label, int(of.sum()), float(correct_after[of].mean()), float(found[of].mean()))
        for label, of in shown.items()
    )
    any_old = bool(old.any())
    return Adapted(
        path=out,
        learned=learned,
        old_photos=int(old.sum()),
        old_before=float(correct_before[old].mean()) if any_old else None,
        old_after=float(correct_after[old].mean()) if any_old else None,
        taken=float(np.isin(after, new)[labels == ""].mean()),
        in_file=in_file,
    )
