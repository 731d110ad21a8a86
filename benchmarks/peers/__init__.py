"""Other ways to run a detector on a camera's frames, each beside edgeloc in one run; see `python -m` this package."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["PEERS"]

# In the order of the table. Each is imported when it is measured: some have licences that a user must want.
PEERS: Mapping[str, str] = {
    "LiteRT, invoke only": "edgeloc.benchmarks.peers.runtimes:BareLiteRt",
    "LiteRT by hand": "edgeloc.benchmarks.peers.runtimes:LiteRt",
    "OpenVINO": "edgeloc.benchmarks.peers.runtimes:OpenVino",
    "ONNX Runtime": "edgeloc.benchmarks.peers.runtimes:OnnxRuntime",
    "OpenCV DNN": "edgeloc.benchmarks.peers.runtimes:OpenCvDnn",
    "ncnn": "edgeloc.benchmarks.peers.runtimes:Ncnn",
    "Ultralytics": "edgeloc.benchmarks.peers.detectors:Ultralytics",
    "MediaPipe Tasks": "edgeloc.benchmarks.peers.detectors:MediaPipe",
}
