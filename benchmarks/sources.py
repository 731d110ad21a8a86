"""Where the frames for a latency measurement come from: a camera, a data set's images, or scenes in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeloc.errors import CameraError, DataError
from edgeloc.types import Pixels

if TYPE_CHECKING:
    from edgeloc.cameras import Camera
    from edgeloc.data import Sample

__all__ = ["CameraSource", "FrameSource", "ImageSource", "SceneSource", "spread"]

_IMAGES = 64
_SCENES = 32


class FrameSource(ABC):
    """Gives frames without end; `capture` says in words what `grab` spends its time on.

    `skipped` names what could not be read and was left out.
    """

    name: str
    capture: str
    skipped: Sequence[str] = ()

    @abstractmethod
    def grab(self) -> Pixels:
        """The next frame, BGR uint8 (height, width, 3)."""

    def close(self) -> None:  # noqa: B027 - most sources have nothing to let go of
        """Let go of the source; harmless when called again."""


class CameraSource(FrameSource):
    """A camera by URI; a finite one (a video, a folder) starts again at its end.

    `size` is the model's input (width, height), for cameras that scale by themselves.
    """

    def __init__(self, uri: str, size: tuple[int, int] | None = None) -> None:
        self.name, self._size = uri, size
        self._camera = self._open()
        self.capture = (
            "waiting for the camera's next frame" if self._camera.live else "reading and decoding the next frame"
        )

    def _open(self) -> Camera:
        from edgeloc.cameras import open_camera

        return open_camera(self.name, size=self._size)

    def grab(self) -> Pixels:
        frame = self._camera.read()
        if frame is None:
            self.close()
            self._camera = self._open()
            frame = self._camera.read()
        if frame is None:
            raise CameraError(f"{self.name} gave no frame")
        return frame.pixels

    def close(self) -> None:
        self._camera.close()


class ImageSource(FrameSource):
    """Up to 64 images spread over a data set, in turn; each is read once before, so that none comes from a cold disk.

    A corrupt image raises DataError, or with `skip_bad` is left out and listed in `skipped`.
    """

    capture = "reading and decoding an image file that the system holds in memory"

    def __init__(self, name: str, samples: Sequence[Sample], *, skip_bad: bool = False) -> None:
        self.name = name
        self.skipped: list[str] = []
        self._samples = [sample for sample in spread(samples, _IMAGES) if self._loads(sample, skip_bad)]
        if not self._samples:
            raise DataError(f"{name} holds no image that can be read")
        self._next = 0

    def _loads(self, sample: Sample, skip_bad: bool) -> bool:
        try:
            sample.load()
        except DataError:
            if not skip_bad:
                raise
            self.skipped.append(sample.name)
            return False
        return True

    def grab(self) -> Pixels:
        sample = self._samples[self._next % len(self._samples)]
        self._next += 1
        return sample.load()


class SceneSource(FrameSource):
    """Synthetic scenes, drawn before the measurement and held in memory."""

    capture = "copying a ready frame out of memory"

    def __init__(self, size: tuple[int, int] = (640, 480), seed: int = 0) -> None:
        from edgeloc.scenes import SceneGenerator

        self.name = f"synthetic scenes {size[0]}x{size[1]}"
        scenes = SceneGenerator(seed, size)
        self._frames: list[Pixels] = [scenes.scene(index).pixels for index in range(_SCENES)]
        self._next = 0

    def grab(self) -> Pixels:
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        return np.array(frame, copy=True)


def spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` samples in their order: as many of each group as of any other, evenly spaced within it."""
    if limit is None or limit >= len(samples):
        return list(samples)
    groups: dict[str | None, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(index)
    chosen = [index for members, count in _shares(list(groups.values()), limit) for index in _evenly(members, count)]
    return [samples[index] for index in sorted(chosen)]


def _shares(groups: list[list[int]], limit: int) -> list[tuple[list[int], int]]:
    """How many to take of each group: smallest groups first, so that what they lack goes to the others."""
    if limit < len(groups):
        return [(groups[index], 1) for index in _evenly(list(range(len(groups))), limit)]
    shares = []
    for position, members in enumerate(sorted(groups, key=len)):
        count = min(len(members), limit // (len(groups) - position))
        limit -= count
        shares.append((members, count))
    return shares


def _evenly(items: list[int], count: int) -> list[int]:
    """`count` of `items`, each from the middle of its share of the list."""
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]
