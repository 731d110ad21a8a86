"""What the frozen network answers to pictures, and a row of weights fitted to the features before a head.

A row is fitted by ridge regression through the logistic function: how far its logit lies above an offset, of a new
class the log of the sum of the old ones' exponentials, is a logistic regression, solved in its dual by reweighted least
squares (kernel ridge regression; Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2nd ed., 4.4 and
12.3.7). Each step solves as many equations as there are pictures, however many features there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.adaptation.head import Head
from edgeloc.data.sample import Sample
from edgeloc.decode.numbers import Quantization, dequantized
from edgeloc.engines import open_engine
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, file_in_memory
from edgeloc.model.trust import is_trusted
from edgeloc.types import Pixels

__all__ = [
    "STRENGTHS",
    "Picture",
    "Seen",
    "and_mirrored",
    "choose_strength",
    "clips",
    "fit_row",
    "log_sum",
    "look",
    "out_of_fold",
]

Array = NDArray[np.float64]

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
_STEPS, _FOLDS = 12, 5
# The constant feature: so large that the penalty hardly holds the bias back.
_CONSTANT = 10.0
_LEAST_WEIGHT = 1e-5


class Picture(NamedTuple):
    """Pixels to learn from, what they show, and the group whose pictures are held out together.

    `label` is the class, None where there is none to tell; `is_photo` says that it is one as it was taken.
    """

    pixels: Pixels
    label: str | None
    group: str
    present: bool
    is_photo: bool = False


def and_mirrored(picture: Picture) -> Iterator[Picture]:
    """The picture, and its mirror image, which is no photo as it was taken."""
    yield picture
    yield picture._replace(pixels=np.ascontiguousarray(picture.pixels[:, ::-1]), is_photo=False)


@dataclass(frozen=True)
class Seen:
    """Pictures through the frozen network, a row each: features by branch, logits, presence and the truth."""

    parts: list[Array]
    logits: Array
    presence: Array
    labels: tuple[str | None, ...]
    groups: tuple[str, ...]
    present: NDArray[np.bool_]
    is_photo: NDArray[np.bool_]

    @property
    def features(self) -> Array:
        """All branches side by side, each scaled to a mean square of 1."""
        return np.concatenate([part / scale for part, scale in zip(self.parts, self._scales, strict=True)], axis=1)

    def by_branch(self, rows: Sequence[Array]) -> list[Array]:
        """The weights of each branch, (rows, features), for features as the network has them."""
        ends = np.cumsum([part.shape[1] for part in self.parts])[:-1]
        split = [np.split(row, ends) for row in rows]
        return [np.array([parts[number] for parts in split]) / scale for number, scale in enumerate(self._scales)]

    @property
    def _scales(self) -> list[float]:
        return [max(float(np.sqrt(np.mean(part**2))), 1e-6) for part in self.parts]


def look(file: ModelFile, contract: Contract, head: Head, pictures: Iterable[Picture]) -> Seen:
    """Run the pictures through the network, with the features before the head as further outputs."""
    if not (file.trusted or is_trusted(file.digest)):
        open_engine("auto", file)  # an untrusted file is tried in a process of its own, before it is edited and run
    localizer = Localizer(file_in_memory(file.path, head.with_features(), contract))
    names = [f"features-{number}" for number in range(len(head.branches))]
    rows: list[tuple[list[Array], Array, float]] = []
    known: list[Picture] = []
    for picture in pictures:
        tensor, placement = localizer.preprocess(picture.pixels)
        raw = localizer.invoke(tensor)
        presence = localizer.decode(raw, placement, (picture.pixels.shape[1], picture.pixels.shape[0])).presence
        parts = [_real(localizer, name, raw[name]) for name in names]
        rows.append((parts, _real(localizer, head.name, raw[head.name]), presence))
        known.append(picture._replace(pixels=picture.pixels[:0]))
    return Seen(
        [np.array([row[0][number] for row in rows]) for number in range(len(names))],
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        tuple(picture.label for picture in known),
        tuple(picture.group for picture in known),
        np.array([picture.present for picture in known]),
        np.array([picture.is_photo for picture in known]),
    )


def _real(localizer: Localizer, name: str, raw: NDArray[Any]) -> Array:
    info = localizer.engine.outputs[name]
    return dequantized(raw.reshape(-1), Quantization(info.scale, info.zero_point or 0)).astype(np.float64)


def log_sum(logits: Array) -> Array:
    """The log of the sum of exponentials of each row, (n,)."""
    most = logits.max(axis=1)
    return np.asarray(most + np.log(np.exp(logits - most[:, None]).sum(axis=1)), np.float64)


def fit_row(features: Array, offset: Array, wanted: NDArray[np.bool_], strength: float) -> tuple[Array, float]:
    """The weights (d,) and the bias of a new logit, or of what is added to one.

    Parameters:
        features: (n, d), each part of them scaled to a mean square of about 1.
        offset: (n,), what the logit must exceed: of a new class `log_sum` of the others.
        wanted: (n,), whether the image shows what it stands for; both kinds count alike in all.
        strength: of the penalty on the weights.
    """
    kernel = features @ features.T / features.shape[1] + _CONSTANT**2
    count = len(wanted)
    share = np.where(wanted, 0.5 * count / max(1, wanted.sum()), 0.5 * count / max(1, (~wanted).sum()))
    dual = np.zeros(count)
    # The offset only shifts what is fitted: the logit itself is linear in the features.
    for _ in range(_STEPS):
        linear = kernel @ dual
        chance = 0.5 * (1 + np.tanh(0.5 * (linear - offset)))
        weight = np.maximum(share * chance * (1 - chance), _LEAST_WEIGHT)
        target = linear + np.clip(share * (wanted - chance) / weight, -_CONSTANT, _CONSTANT)
        dual = np.linalg.solve(kernel + np.diag(strength / weight), target)
    return features.T @ dual / features.shape[1], float(_CONSTANT**2 * dual.sum())


def clips(samples: Sequence[Sample], kinds: Sequence[Hashable]) -> list[str]:
    """What of the photos is held out together: a clip; of a kind that only one clip shows, each photo by itself."""
    names = [sample.group or sample.name for sample in samples]
    shown: dict[Hashable, set[str]] = {}
    for kind, name in zip(kinds, names, strict=True):
        shown.setdefault(kind, set()).add(name)
    return [
        name if len(shown[kind]) > 1 else sample.name for sample, kind, name in zip(samples, kinds, names, strict=True)
    ]


def out_of_fold(
    features: Array, offset: Array, wanted: NDArray[np.bool_], groups: Sequence[str], strength: float
) -> Array:
    """The logit (n,) of each image by a row that was fitted without the image's group."""
    # Those that show it come first, so that no fold has all of them.
    shows = {group for group, shown in zip(groups, wanted, strict=True) if shown}
    names = sorted(set(groups), key=lambda name: (name not in shows, name))
    fold_of = {name: number % _FOLDS for number, name in enumerate(names)}
    folds = np.array([fold_of[group] for group in groups])
    logits = np.zeros(len(wanted))
    for fold in set(folds.tolist()):
        kept = folds != fold
        if not kept.any():
            kept = ~kept
        weights, bias = fit_row(features[kept], offset[kept], wanted[kept], strength)
        logits[~kept] = features[~kept] @ weights + bias
    return logits


def choose_strength(features: Array, offset: Array, wanted: NDArray[np.bool_], groups: Sequence[str]) -> float:
    """The strength of STRENGTHS with the least loss on images that the fit has not seen."""

    def loss(strength: float) -> float:
        margin = out_of_fold(features, offset, wanted, groups, strength) - offset
        losses = np.logaddexp(0, np.where(wanted, -margin, margin))
        return float(sum(losses[side].mean() for side in (wanted, ~wanted) if side.any()))

    return min(STRENGTHS, key=loss)
