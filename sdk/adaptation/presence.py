"""The presence head learned again: what to add to its row, so that a place's own photos are judged better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloc.adaptation.features import Picture, Seen, and_mirrored, choose_strength, clips, fit_row, out_of_fold
from edgeloc.data import Sample
from edgeloc.data.sample import cut_background
from edgeloc.errors import DataError

__all__ = ["AdaptedPresence", "MovedRow", "move_presence", "presence_pictures"]


@dataclass(frozen=True, slots=True)
class AdaptedPresence:
    """What `adapt_presence` did; shares after are by heads fitted without the photos that they judge (five folds).

    Parameters:
        path: the new file.
        photos: how many photos of the data show an object.
        empty: how many show none, with the crops beside the objects of the others.
        found_before, found_after: the share of the photos with an object whose presence reaches the threshold; None
            without such photos.
        false_alarms_before, false_alarms_after: the same share of the empty ones.
        scenes_before, scenes_after: the share of generated scenes, with and without an object, that are judged rightly.
        in_file: the share of all photos and crops that the written file judges rightly.
    """

    path: Path
    photos: int
    empty: int
    found_before: float | None
    found_after: float | None
    false_alarms_before: float | None
    false_alarms_after: float | None
    scenes_before: float
    scenes_after: float
    in_file: float


@dataclass(frozen=True)
class MovedRow:
    """What to add to the presence head's weights by branch and to its bias.

    `held_out` (n,) says how far its logits lie above the cut, by fits without the picture's group.
    """

    weights: list[NDArray[np.float64]]
    bias: float
    held_out: NDArray[np.float64]


def presence_pictures(samples: Sequence[Sample]) -> Iterator[Picture]:
    """Each photo, what lies beside its object, and the mirror images of both."""
    together = clips(samples, [bool(sample.objects) for sample in samples])
    for number, (sample, clip) in enumerate(zip(samples, together, strict=True)):
        pixels = sample.load()
        yield from and_mirrored(Picture(pixels, None, clip, bool(sample.objects), is_photo=True))
        beside = cut_background(pixels, sample.objects, np.random.default_rng(number)) if sample.objects else None
        if beside is not None:
            yield from and_mirrored(Picture(beside.pixels, None, clip, False, is_photo=True))


def move_presence(seen: Seen, cut: float) -> MovedRow:
    """Fit what to add to the row so that logits above `cut` mean an object; nothing to learn adds nothing.

    Raises DataError where that does not judge more of the photos and crops rightly, each held out.
    """
    features, margin = seen.features, seen.logits[:, 0] - cut
    strength = choose_strength(features, -margin, seen.present, seen.groups)
    held_out = margin + out_of_fold(features, -margin, seen.present, seen.groups, strength)
    before, after = (int(((one >= 0) == seen.present)[seen.is_photo].sum()) for one in (margin, held_out))
    if after <= before:
        count = int(seen.is_photo.sum())
        raise DataError(
            f"the photos teach the presence head nothing: of {count} photos and crops it judges {before} rightly as it "
            f"stands, and {after} when fitted without them",
            hint="give photos of what it judges wrongly, with and without an object",
        )
    weights, bias = fit_row(features, -margin, seen.present, strength)
    return MovedRow(seen.by_branch([weights]), bias, held_out)
