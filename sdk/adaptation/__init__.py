"""Learning on the device: a class more for an int8 localizer, or its presence head again, from a few photos."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import atomic_path, require_writable
from edgeloc.adaptation.features import (
    Picture,
    Seen,
    and_mirrored,
    choose_strength,
    clips,
    fit_row,
    log_sum,
    look,
    out_of_fold,
)
from edgeloc.adaptation.head import Head
from edgeloc.adaptation.presence import AdaptedPresence, MovedRow, move_presence, presence_pictures
from edgeloc.data import Sample, open_dataset
from edgeloc.data.sample import fingerprint
from edgeloc.errors import DataError, ModelError, UsageError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, contract_for, file_in_memory, read_model, write_model
from edgeloc.model.golden import make_golden
from edgeloc.model.trust import trust
from edgeloc.scenes import SceneGenerator

__all__ = ["EARLIER", "Adapted", "AdaptedPresence", "Learned", "adapt", "adapt_presence", "undo"]

EARLIER = "adapted_from/model.tflite"
"""The member that holds the whole file before, so that it can be given back byte for byte."""

_FEWEST = 5
# The margin that all but a tenth of the photos have, when held out, goes to the old classes: chosen on the table of
# docs/guide/adapt.md.
_GIVEN_UP = 0.1
# A threshold of 0 or 1 has no logit.
_LEAST_CHANCE = 1e-6
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
    _require_out(out, model)
    file = read_model(model)
    contract = contract_for(file)
    head = _head(file, contract, "class")
    dataset = open_dataset(data, split=split)
    samples, labels = _labelled(dataset.samples, label)
    new = _new_labels(labels, contract, str(data), label)
    seen = look(file, contract, head, _pictures(samples, labels))
    rows, biases, held_out = _fit(seen, new)
    weights = seen.by_branch(rows)
    by_branch = [biases, *[0 * biases] * (len(weights) - 1)]
    reach = _reach(head, seen.parts, weights, by_branch)
    # A logit far below the others may be cut off: the class is another one either way.
    reach[head.output] = (0.0, reach[head.output][1])
    history = _history(file, contract, "class", new, dataset.name, samples)
    adapted = dataclasses.replace(contract, labels=(*contract.labels, *new), adapted_from=history)
    localizer = _write(Path(out), file, adapted, head.with_rows(weights, by_branch, reach))
    photos = [(sample, one) for sample, one in zip(samples, labels, strict=True) if one in new]
    right = [_answer(localizer, sample) == adapted.labels.index(one) for sample, one in photos]
    return _figures(Path(out), seen, held_out, contract, new, float(np.mean(right)))


def adapt_presence(
    model: str | Path, data: str | Path, out: str | Path, *, split: str | None = None
) -> AdaptedPresence:
    """Teach the presence head of an int8 localizer what is an object in a data set and what is not; write a new file.

    Something is added to the weights and to the bias of its only row; all other weights stay byte for byte. The fit is
    on the photos, on crops beside their objects, on the mirror images of both, and on generated scenes with and without
    an object.

    Parameters:
        model: the model file; a head of fully connected layers in int8 can be adapted.
        data: labelled photos with and without an object, as `open_dataset` reads them.
        out: the new file.
        split: which part of the data.

    Raises ModelError for a model that cannot be adapted, DataError for too few labelled photos and where a head fitted
    on them would be no better on photos that were held out.
    """
    _require_out(out, model)
    file = read_model(model)
    contract = contract_for(file)
    head = _head(file, contract, "presence")
    dataset = open_dataset(data, split=split)
    samples = [sample for sample in dataset.samples if sample.labelled]
    if len(samples) < _FEWEST:
        hint = "label what they show, or that they show nothing"
        raise DataError(f"{data} has {len(samples)} labelled photos: the presence head needs {_FEWEST}", hint=hint)
    seen = look(file, contract, head, chain(presence_pictures(samples), _scenes()))
    threshold = min(max(contract.thresholds.presence, _LEAST_CHANCE), 1 - _LEAST_CHANCE)
    moved = move_presence(seen, math.log(threshold / (1 - threshold)))
    old = [head.real(branch) for branch in head.branches]
    weights = [before + more for (before, _), more in zip(old, moved.weights, strict=True)]
    biases = [bias for _, bias in old]
    biases[0] = biases[0] + moved.bias
    flatbuffer = head.with_replaced(weights, biases, _reach(head, seen.parts, weights, biases))
    history = _history(file, contract, "presence", (), dataset.name, samples)
    localizer = _write(Path(out), file, dataclasses.replace(contract, adapted_from=history), flatbuffer)
    return _presence_figures(Path(out), localizer, samples, seen, moved)


def undo(model: str | Path, out: str | Path) -> str:
    """Write the file that `model` was adapted from, byte for byte; its SHA-256.

    Raises ModelError where `model` was not adapted, or what it carries is not the file before.
    """
    _require_out(out, model)
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


def _require_out(out: str | Path, model: str | Path) -> None:
    """UsageError where the name is not that of a `.tflite`, OutputError where nothing can be written there."""
    if Path(out).suffix != ".tflite":
        raise UsageError(field="out", value=str(out), allowed="a name that ends in .tflite")
    require_writable(out, model)


def _head(file: ModelFile, contract: Contract, role: Literal["class", "presence"]) -> Head:
    """The head of an output of its own for the class or for presence."""
    output = contract.output(role)
    known = output is not None and file.format == "tflite" and contract.finds_one
    if not known or (role == "class" and not contract.labels):
        raise ModelError(
            f"{file.path} cannot be adapted: only a .tflite localizer of one object with an output of its own for the "
            f"{role} can"
        )
    assert output is not None
    return Head(file.payload, output.tensor, len(contract.labels) if role == "class" else 1, str(file.path))


def _labelled(samples: Sequence[Sample], label: str | None) -> tuple[list[Sample], list[str]]:
    """The samples whose class is known, and the class of each."""
    named = [(sample, sample.label if sample.labelled else label) for sample in samples]
    known = [(sample, one) for sample, one in named if one is not None]
    return [sample for sample, _ in known], [one for _, one in known]


def _new_labels(labels: Sequence[str], contract: Contract, data: str, label: str | None) -> tuple[str, ...]:
    new = tuple(sorted(set(labels) - set(contract.labels)))
    if not new:
        known = ", ".join(contract.labels)
        if label is not None and label in contract.labels:
            raise DataError(f"the model knows {label} already ({known})", hint="name a new class with {label}")
        raise DataError(
            f"{data} shows no class that the model does not know ({known})",
            hint="label the photos, or name their class with {label}",
        )
    few = [one for one in new if labels.count(one) < _FEWEST]
    if few:
        raise DataError(f"{data} has {labels.count(few[0])} photos of {few[0]}: a class needs {_FEWEST}, better 30")
    return new


def _pictures(samples: Sequence[Sample], labels: Sequence[str]) -> Iterator[Picture]:
    """Each photo, its mirror image, and generated scenes, which stand for everything else."""
    for sample, label, clip in zip(samples, labels, clips(samples, labels), strict=True):
        yield from and_mirrored(Picture(sample.load(), label, clip, True, is_photo=True))
    yield from _scenes()


def _scenes() -> Iterator[Picture]:
    scenes = SceneGenerator(seed=1, size=_SCENE_SIZE)
    for index in range(_SCENES):
        scene = scenes.scene(index)
        yield Picture(scene.pixels, None, f"scene-{index}", bool(scene.objects))


def _fit(seen: Seen, new: Sequence[str]) -> tuple[list[Array], Array, Array]:
    """For each new class its weights over all features and its bias; and its logits (n, new) by held-out fits."""
    features, logits = seen.features, seen.logits
    rows, biases, held_out = [], [], []
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


def _reach(
    head: Head, parts: Sequence[Array], weights: Sequence[Array], biases: Sequence[Array]
) -> dict[int, tuple[float, float]]:
    """The least and the greatest number that each branch and their sum must hold."""
    sums = [part @ rows.T + bias for part, rows, bias in zip(parts, weights, biases, strict=True)]
    tensors = [*(branch.way[-1] for branch in head.branches), head.output]
    values = [*sums, np.sum(sums, axis=0)]
    return {tensor: (float(one.min()), float(one.max())) for tensor, one in zip(tensors, values, strict=True)}


def _history(
    file: ModelFile, contract: Contract, role: str, new: Sequence[str], data: str, samples: Sequence[Sample]
) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest(),
        "payload": file.digest,
        "head": role,
        "labels_added": list(new),
        "data": data,
        "images": len(samples),
        "data_sha256": fingerprint(samples),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "adapted_from": contract.adapted_from,
    }


def _write(out: Path, file: ModelFile, contract: Contract, flatbuffer: bytes) -> Localizer:
    """Write the new file once it has run; it, opened."""
    memory = file_in_memory(out, flatbuffer, contract)
    localizer = Localizer(memory)
    extra = {**file.extra, EARLIER: file.path.read_bytes()}
    write_model(out, flatbuffer, contract, calibration=file.calibration, golden=make_golden(localizer), extra=extra)
    trust(memory.digest)
    return localizer


def _answer(localizer: Localizer, sample: Sample) -> int:
    """The class with the highest logit, whatever the presence."""
    output = localizer.contract.output("class")
    assert output is not None
    raw = localizer.invoke(localizer.preprocess(sample.load())[0])
    return int(np.argmax(raw[output.tensor].reshape(-1)))


def _figures(out: Path, seen: Seen, held_out: Array, contract: Contract, new: Sequence[str], in_file: float) -> Adapted:
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
    return Adapted(
        path=out,
        learned=learned,
        old_photos=int(old.sum()),
        old_before=_share_of(correct_before, old),
        old_after=_share_of(correct_after, old),
        taken=float(np.isin(after, new)[labels == ""].mean()),
        in_file=in_file,
    )


def _presence_figures(
    out: Path, localizer: Localizer, samples: Sequence[Sample], seen: Seen, moved: MovedRow
) -> AdaptedPresence:
    threshold = localizer.contract.thresholds.presence
    before, after = seen.presence >= threshold, moved.held_out >= 0
    shown, empty = seen.is_photo & seen.present, seen.is_photo & ~seen.present
    scenes = slice(-_SCENES, None)
    taken = (picture for picture in presence_pictures(samples) if picture.is_photo)
    right = [(localizer(picture.pixels).presence >= threshold) == picture.present for picture in taken]
    return AdaptedPresence(
        path=out,
        photos=int(shown.sum()),
        empty=int(empty.sum()),
        found_before=_share_of(before, shown),
        found_after=_share_of(after, shown),
        false_alarms_before=_share_of(before, empty),
        false_alarms_after=_share_of(after, empty),
        scenes_before=float((before == seen.present)[scenes].mean()),
        scenes_after=float((after == seen.present)[scenes].mean()),
        in_file=float(np.mean(right)),
    )


def _share_of(answers: NDArray[np.bool_], among: NDArray[np.bool_]) -> float | None:
    """The share of true answers; None among none."""
    return float(answers[among].mean()) if among.any() else None
