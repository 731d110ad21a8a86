"""Takes frames through picamera:// from libcamera's virtual pipeline, and checks size, colour, times and numbers."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import picamera2_shims

from edgeloc.cameras import open_camera
from edgeloc.errors import CameraError


def bars(pixels: np.ndarray) -> list[list[int]]:
    """The colours along the middle row, in BGR."""
    height, width = pixels.shape[:2]
    return [pixels[height // 2, round(width * (at + 0.5) / 8)].tolist() for at in range(8)]


def main() -> None:
    """Open by the model's size, read, refuse what it cannot do, open again."""
    picamera2_shims.install()
    with open_camera("picamera://0", size=(224, 224)) as camera:
        frames = [camera.read() for _ in range(40)]
        now = time.monotonic()
        print("size", camera.size, "stream", camera._camera._stream)
        times = np.array([frame.captured_at for frame in frames])
        numbers = [frame.sequence for frame in frames]
        assert frames[0].pixels.shape == (camera.size[1], camera.size[0], 3) and frames[0].pixels.dtype == np.uint8
        assert (np.diff(times) > 0).all() and times[-1] <= now and now - times[-1] < 5
        assert numbers[0] == 0 and (np.diff(numbers) > 0).all()
        assert not np.shares_memory(frames[0].pixels, frames[1].pixels)
        print("numbers", numbers[:5], "...", numbers[-1], "steps ms", np.round(np.diff(times)[:6] * 1e3, 1))
        print("bars, BGR:", bars(frames[0].pixels))
        cv2.imwrite("virtual.png", frames[0].pixels)
        try:
            open_camera("picamera://0")
        except CameraError as error:
            print("busy:", error)
        else:
            raise AssertionError("a camera that is in use was opened a second time")
        camera.close()
        camera.open()
        assert camera.read().sequence == 0
        print("opened again")
    for uri in ("picamera://7", "picamera://0?size=640x100"):
        try:
            open_camera(uri).close()
        except CameraError as error:
            print("refused:", error)
        else:
            raise AssertionError(f"{uri} was opened")
    print("PASSED", Path("virtual.png").stat().st_size > 0)


main()
