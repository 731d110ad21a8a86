"""A camera that sees made scenes with known truth, at its own pace or the reader's; the scenes are made elsewhere."""

from __future__ import annotations

import time

from edgeloc.cameras.base import Camera
from edgeloc.cameras.uri import flag, integer, positive, rate
from edgeloc.cameras.uri import size as parse_size
from edgeloc.errors import CameraTimeout
from edgeloc.scenes import Clip, SceneGenerator
from edgeloc.types import Frame
from edgeloc.uri import Uri

__all__ = ["SyntheticCamera"]


class SyntheticCamera(Camera):
    """`synthetic://?seed=1&size=640x480&fps=30&frames=300&live=1`: a clip of passing objects, with its truth.

    Frames carry `truth` and `truth_label`; the same seed and size show the same clip. Live (the
    default), frame n is exposed n / fps seconds after `open()`, whoever reads: what is not read in
    time is lost, as with a sensor. With `live=0` it waits for its reader, like a file, and
    `captured_at` is when the frame was made. Without `frames` it does not end.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        size: tuple[int, int] = (640, 480),
        fps: float = 30.0,
        frames: int | None = None,
        live: bool = True,
    ) -> None:
        self._scenes = SceneGenerator(seed, size)
        self._frames = frames
        self._clip: Clip | None = None
        self._next = 0
        self._began_at = 0.0
        self.size, self.fps, self.live = size, fps, live

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> SyntheticCamera:
        """The camera with the URI's options; it has no scaler, so what the model takes makes no difference."""
        uri.require_no_path()
        parsers = {"seed": integer, "size": parse_size, "fps": rate, "frames": positive, "live": flag}
        return cls(**uri.options(parsers))

    @property
    def name(self) -> str:
        """The URI's beginning."""
        return f"synthetic://?seed={self._scenes.seed}"

    def _open(self) -> None:
        self._clip = self._scenes.clip(0, self._frames)
        # The first frame costs more than those that follow: made now, it does not delay a live camera's start.
        self._clip.frame(0)
        self._next, self._began_at = 0, time.monotonic()

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._clip is not None
        number = self._wait(timeout_s) if self.live else self._next
        if self._frames is not None and number >= self._frames:
            return None
        scene = self._clip.frame(number)
        self._next = number + 1
        captured_at = self._exposed_at(number) if self.live else time.monotonic()
        return Frame(scene.pixels, captured_at, number, has_truth=True, truth=scene.box, truth_label=scene.label)

    def _wait(self, timeout_s: float) -> int:
        """The number of the newest frame whose exposure has begun, after waiting for one that was not read yet."""
        left = self._exposed_at(self._next) - time.monotonic()
        ended = self._frames is not None and self._next >= self._frames
        if left > 0 and not ended:
            time.sleep(min(left, timeout_s))
            if left > timeout_s:
                raise CameraTimeout(f"camera {self.name} made no frame in {timeout_s:g} s at {self.fps:g} fps")
        elapsed = time.monotonic() - self._began_at
        return max(self._next, int(elapsed * (self.fps or 1.0) + 1e-6))

    def _exposed_at(self, number: int) -> float:
        return self._began_at + number / (self.fps or 1.0)

    def _close(self) -> None:
        self._clip = None
