"""Images to label, as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def image() -> Callable[..., Path]:
    """Writes a textured image of a size (width, height), its folder included, and gives its path."""

    def write(path: Path, size: tuple[int, int] = (60, 40)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), pixels)
        return path

    return write
