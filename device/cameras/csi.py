"""The CSI camera of a Jetson, through NVIDIA's source and scaler; how pipelines are run is in gst."""

from __future__ import annotations

from edgeloc.cameras.uri import rate
from edgeloc.cameras.uri import size as parse_size
from edgeloc.device.cameras.fit import cover
from edgeloc.device.cameras.gst import GstCamera, Source
from edgeloc.errors import CameraError, UsageError
from edgeloc.uri import Uri

__all__ = ["CsiCamera"]

MODE = (1280, 720)
_MEND = (
    "on a Jetson: check the ribbon cable, that no other program holds the sensor, and"
    " `sudo systemctl restart nvargus-daemon`"
)


class CsiCamera(GstCamera):
    """`csi://0?mode=1280x720&fps=30&size=400x224`: the Jetson's sensor by number.

    `mode` is what the sensor sends (it must be one of its own modes); the board's converter scales
    it to the smallest size of the same shape that covers what the model takes, or to `size`.
    """

    def __init__(
        self, sensor: int = 0, *, mode: tuple[int, int] = MODE, fps: float = 30.0, size: tuple[int, int] | None = None
    ) -> None:
        self._sensor = sensor
        width, height = size or mode
        super().__init__(
            f"nvarguscamerasrc sensor-id={sensor}"
            f" ! video/x-raw(memory:NVMM),width={mode[0]},height={mode[1]},framerate={round(fps * 1000)}/1000"
            f" ! nvvidconv ! video/x-raw,format=BGRx,width={width},height={height}"
        )

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> CsiCamera:
        """The camera of a csi:// URI; `size` is what the model takes."""
        options = uri.options({"mode": parse_size, "fps": rate, "size": parse_size})
        if uri.path and not uri.path.isdecimal():
            raise UsageError(f"camera {uri.text}: give the sensor's number, such as csi://0")
        if size is not None:
            options.setdefault("size", cover(size, options.get("mode", MODE)))
        return cls(int(uri.path or 0), **options)

    @property
    def name(self) -> str:
        """The URI's beginning."""
        return f"csi://{self._sensor}"

    def _start(self) -> Source:
        try:
            return super()._start()
        except CameraError as error:
            raise CameraError(f"{error}; {_MEND}") from error
