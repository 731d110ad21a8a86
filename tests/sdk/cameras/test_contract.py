"""The contract of every camera, over those without hardware."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloc.cameras import Camera, open_camera
from edgeloc.testing import CameraSuite


class TestEveryCamera(CameraSuite):
    @pytest.fixture(
        params=[
            "video",
            "folder",
            "image",
            "data",
            "data-skipping",
            "synthetic",
            "synthetic-live",
            "fake",
            "fake-turned",
            "fake-without-reconnect",
        ]
    )
    def camera(
        self, request: pytest.FixtureRequest, tiny_video: Path, tiny_folder: Path, tiny_labelled: Path, tmp_path: Path
    ) -> Camera:
        damaged = tmp_path / "images"
        damaged.mkdir()
        for index in range(5):
            (damaged / f"{index}.png").write_bytes((tiny_folder / f"{index:02d}.png").read_bytes())
        (damaged / "2.png").write_bytes(b"no image")
        uris = {
            "video": str(tiny_video),
            "folder": str(tiny_folder),
            "image": str(tiny_folder / "00.png"),
            "data": f"data://{tiny_labelled}?frames=5",
            "data-skipping": f"data://{damaged}?skip_bad=1",
            "synthetic": "synthetic://?seed=1&size=64x48&frames=6&live=0",
            "synthetic-live": "synthetic://?seed=1&size=64x48&frames=6&fps=200",
            "fake": "fake://?size=64x48&fps=100&frames=100&corrupt=2&disconnect=30:0.05",
            "fake-turned": "fake://?size=64x48&fps=100&frames=100&region=8,0,40,48&hflip=1&rotate=270",
            "fake-without-reconnect": "fake://?size=64x48&fps=100&frames=100&clock=2:-5&reconnect=0",
        }
        return open_camera(uris[request.param])
