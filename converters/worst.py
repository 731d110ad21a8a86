"""Pictures of the images on which quantization cost most, as files; which images those are is decided elsewhere."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2

from edgeloc.benchmarks.result import Worst
from edgeloc.data import Sample
from edgeloc.draw import FLOAT_COLOR, QUANTIZED_COLOR, TRUTH_COLOR, draw_boxes
from edgeloc.errors import DataError, OutputError
from edgeloc.types import Box, Pixels

__all__ = ["remove_worst", "write_worst"]

_SIDE = 640  # pixels of the longer side, so that titles stay beside a small object
_QUALITY = 90
_OURS = re.compile(r"\d\d-.*\.jpg")


def remove_worst(out: str | Path) -> None:
    """Remove the pictures of an earlier failure beside `out`, which would speak of another model than the one there."""
    folder = _folder(out)
    if folder.is_dir() and _only_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)


def write_worst(worst: Sequence[Worst], samples: Sequence[Sample], out: str | Path) -> Path:
    """Write one JPEG for each worst image that can still be read: truth, float and quantized box; give their folder.

    They are named by rank and image. A folder of an earlier failure is replaced, all of it or nothing. Raises
    OutputError where it cannot be written, or where the folder holds something else.
    """
    folder = _folder(out)
    try:
        if folder.exists() and not (folder.is_dir() and _only_ours(folder)):
            raise OutputError(f"cannot write {folder}: it holds other things than pictures; remove or rename it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
            pictures = Path(made) / folder.name
            pictures.mkdir()
            _write_all(pictures, worst, samples)
            if folder.exists():
                shutil.rmtree(folder)
            pictures.rename(folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _folder(out: str | Path) -> Path:
    out = Path(out)
    return out.with_name(f"{out.stem}-worst")


def _only_ours(folder: Path) -> bool:
    return all(_OURS.fullmatch(path.name) for path in folder.iterdir())


def _write_all(folder: Path, worst: Sequence[Worst], samples: Sequence[Sample]) -> None:
    by_name = {sample.name: sample for sample in samples}
    for rank, image in enumerate(worst, start=1):
        try:
            pixels = by_name[image.name].load()
        except DataError:
            continue
        written, data = cv2.imencode(".jpg", _drawn(image, pixels), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if written:
            (folder / f"{rank:02}-{_plain(image.name)}.jpg").write_bytes(data.tobytes())


def _drawn(image: Worst, pixels: Pixels) -> Pixels:
    scale = _SIDE / max(pixels.shape[:2])
    large = cast(Pixels, cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))
    boxes = (
        (image.truth, "truth", TRUTH_COLOR),
        (image.box_float, f"float {image.iou_float:.2f}", FLOAT_COLOR),
        (image.box_quantized, f"quantized {image.iou_quantized:.2f}", QUANTIZED_COLOR),
    )
    return draw_boxes(large, [(_scaled(box, scale), title, color) for box, title, color in boxes if box is not None])


def _scaled(box: Box, scale: float) -> Box:
    return Box(*(edge * scale for edge in box))


def _plain(name: str) -> str:
    """The image's name without folders, suffix and anything that a file name cannot hold."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)[-60:]
