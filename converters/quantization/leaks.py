"""Calibration images that the validation data holds too: a figure measured on those is too good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeloc.converters.quantization.calibration import Calibration, pixel_hash, thumbnail
from edgeloc.data import Dataset, Sample
from edgeloc.errors import DataError
from edgeloc.progress import progress
from edgeloc.types import Pixels

__all__ = ["refuse_leak"]

_NAMES_SHOWN = 3
# Most that any of the 32x32 greys may differ. Copies as JPEG at quality 30 to 90, or resized to 0.9 or 2 times, differ
# by at most 3, and 95 of 100 of half the size by at most 4; of 3 million pairs from different clips of fod-a none by
# less than 9, although some clips show the same floor under the same lamp.
_COPY = 4
# Pictures of nothing resemble each other: a wall, a clear sky. They are compared by their pixels alone.
_LEAST_CONTRAST = 8.0
_MEND = "calibrate on other images, such as those of another split"


def refuse_leak(calibration: Calibration, validation: Dataset, *, skip_bad: bool = False) -> tuple[str, ...]:
    """Refuse calibration images that the validation data holds too, and warn of their near relations.

    The same pixels under whatever name raise DataError. Returned are sentences on pictures that
    look the same but are not, pixel by pixel (saved anew, resized, the next frame), and on groups that
    give images to both sides. Reads every image of `validation` once; one that is damaged raises DataError too,
    or is passed over with `skip_bad`.
    """
    entries = calibration.manifest["images"]
    names = [str(entry["name"]) for entry in entries]
    by_hash = {entry["sha256"]: name for entry, name in zip(entries, names, strict=True)}
    thumbnails = calibration.thumbnails.astype(np.int16)
    rich = thumbnails.std(axis=(1, 2)) >= _LEAST_CONTRAST
    same: dict[str, str] = {}
    alike: dict[str, str] = {}
    for sample, pixels in _read(validation, skip_bad):
        found = by_hash.get(pixel_hash(pixels))
        if found is not None:
            same.setdefault(found, sample.name)
            continue
        differences = np.abs(thumbnails - thumbnail(pixels)).max(axis=(1, 2))
        for index in np.flatnonzero((differences <= _COPY) & rich):
            alike.setdefault(names[int(index)], sample.name)
    if same:
        raise DataError(
            f"{len(same)} of the {len(names)} calibration images are also in the validation data of {validation.name} "
            f"({_listed(same)}), so that what is measured there says too little: {_MEND}"
        )
    return tuple(_warnings(calibration, validation, alike))


def _read(validation: Sequence[Sample], skip_bad: bool) -> Iterator[tuple[Sample, Pixels]]:
    for sample in progress(validation, label="looking for leaks"):
        try:
            yield sample, sample.load()
        except DataError:
            if not skip_bad:
                raise


def _warnings(calibration: Calibration, validation: Dataset, alike: dict[str, str]) -> Iterator[str]:
    manifest = calibration.manifest
    if alike:
        yield (
            f"warning: {len(alike)} of the {manifest['count']} calibration images look just like validation images of "
            f"{validation.name} ({_listed(alike)}), as copies saved anew or neighbouring frames do: {_MEND}"
        )
    # Names such as "1" mean something else in another data set.
    if manifest["dataset"] != validation.name:
        return
    groups = {entry.get("group") for entry in manifest["images"]} & {sample.group for sample in validation} - {None}
    if groups:
        shown = ", ".join(sorted(map(str, groups))[:_NAMES_SHOWN])
        yield (
            f"warning: {len(groups)} group{'s' if len(groups) > 1 else ''} of {validation.name} ({shown}) "
            f"{'give' if len(groups) > 1 else 'gives'} images to calibration and validation, whose frames are not "
            "independent: split the data by group"
        )


def _listed(pairs: dict[str, str]) -> str:
    shown = [name if name == other else f"{name} as {other}" for name, other in list(pairs.items())[:_NAMES_SHOWN]]
    return ", ".join(shown) + (", ..." if len(pairs) > _NAMES_SHOWN else "")
