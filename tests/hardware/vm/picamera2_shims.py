"""What picamera2 needs to run on libcamera's virtual pipeline, which has no sensor, no DRM and no heap of its own."""

from __future__ import annotations

import contextlib
import mmap
import sys
import types
from typing import Any

__all__ = ["install"]


def install() -> None:
    """Put fakes in place of what only a Raspberry Pi has; nothing of the capture itself is replaced."""
    pykms: Any = types.ModuleType("pykms")
    pykms.PixelFormat = types.SimpleNamespace(
        **{name: name for name in ("RGB888", "BGR888", "XRGB8888", "XBGR8888", "YUV420", "YVU420", "YUYV", "NV12")},
        MJPEG="MJPEG",
    )
    sys.modules.setdefault("pykms", pykms)
    import picamera2
    from picamera2.allocators import LibcameraAllocator

    class Sync:
        def __init__(self, allocator: Any, buffer: Any, write: bool) -> None:
            self._buffer, self._memory = buffer, None

        def __enter__(self) -> Any:
            length = max(plane.offset + plane.length for plane in self._buffer.planes)
            self._memory = mmap.mmap(self._buffer.planes[0].fd, length)
            return self._memory

        def __exit__(self, *error: object) -> None:
            with contextlib.suppress(BufferError):  # an array may still look into it
                self._memory.close()

    class Allocator(LibcameraAllocator):
        def __init__(self, camera: Any) -> None:
            super().__init__(camera)
            self.sync = Sync

    class Camera(picamera2.Picamera2):
        def __init__(self, number: int = 0) -> None:
            super().__init__(number)
            self.allocator = Allocator(self.camera)

        def _get_raw_modes(self) -> list[dict[str, Any]]:
            return [{"format": "SBGGR8", "size": (1280, 720)}]

    # There is no heap to make one from, and both the constructor and close() do.
    picamera2.picamera2.DmaAllocator = lambda: None
    picamera2.Picamera2 = Camera
