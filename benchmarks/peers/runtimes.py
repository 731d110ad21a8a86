"""The localizer on bare runtimes, with the loop around them that a careful user writes by hand for this one model."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.benchmarks.peers.base import Case, Found, Peer, Timed, shared_network
from edgeloc.engines.base import TensorInfo
from edgeloc.errors import ModelError, UsageError
from edgeloc.model.contract import Contract
from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.types import Box, Pixels

__all__ = ["BareLiteRt", "LiteRt", "Ncnn", "OnnxRuntime", "OpenCvDnn", "OpenVino"]

_ROLES = ("presence", "class", "grid-weights", "grid-distances")

Outputs = list[NDArray[np.float32]]


class _ByHand:
    """What stands around the network of a grid head: one pass each, NumPy and OpenCV, its constants at hand."""

    def __init__(self, contract: Contract) -> None:
        spec = contract.input
        tensors: dict[str, str] = {output.role: output.tensor for output in contract.outputs}
        known = (spec.color, spec.resize, spec.interpolation, spec.width) == ("rgb", "letterbox", "linear", spec.height)
        if set(tensors) != set(_ROLES) or not known:
            raise UsageError(f"the loop by hand knows square letterboxes and the outputs {', '.join(_ROLES)} only")
        self.tensors = [tensors[role] for role in _ROLES]
        self._side, self._labels, self._threshold = spec.width, contract.labels, contract.thresholds.presence
        self._pad = (spec.pad_value,) * 3
        self._scale, self._left, self._top = 1.0, 0, 0
        self._cells: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def image(self, frame: Pixels) -> Pixels:
        """The letterboxed RGB image."""
        side, (height, width) = self._side, frame.shape[:2]
        self._scale = min(side / width, side / height)
        w, h = round(width * self._scale), round(height * self._scale)
        self._left, self._top = (side - w) // 2, (side - h) // 2
        small = cv2.cvtColor(cv2.resize(frame, (w, h)), cv2.COLOR_BGR2RGB)
        below, right = side - h - self._top, side - w - self._left
        image = cv2.copyMakeBorder(small, self._top, below, self._left, right, cv2.BORDER_CONSTANT, value=self._pad)
        return np.asarray(image, np.uint8)

    def answer(self, outputs: Outputs, frame: Pixels) -> list[Found]:
        """The box out of presence, class, weights and distances, channels last, as real numbers."""
        presence, scores, weights, distances = outputs
        if 1 / (1 + np.exp(-presence.ravel()[0])) < self._threshold:
            return []
        if self._cells is None:
            self._cells = _cells(distances.reshape(-1, distances.shape[-2], 4).shape[:2])
        centres, signs = self._cells
        share = np.exp(weights.ravel() - weights.max())
        share /= share.sum()
        edges = np.log1p(np.exp(distances.reshape(-1, 4)))
        box = share @ (centres + signs * edges) * self._side
        height, width = frame.shape[:2]
        x1, x2 = np.clip((box[[0, 2]] - self._left) / self._scale, 0, width)
        y1, y2 = np.clip((box[[1, 3]] - self._top) / self._scale, 0, height)
        return [Found(Box(float(x1), float(y1), float(x2), float(y2)), self._labels[int(scores.argmax())])]


def _cells(grid: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The centre of each cell, twice, and the direction of each edge."""
    rows, columns = grid
    y, x = np.mgrid[:rows, :columns]
    centres = np.stack([(x.ravel() + 0.5) / columns, (y.ravel() + 0.5) / rows] * 2, axis=1).astype(np.float32)
    return centres, np.array([-1, -1, 1, 1], np.float32)


def _real(raw: NDArray[Any], info: TensorInfo) -> NDArray[np.float32]:
    values: NDArray[np.float32] = raw.astype(np.float32)
    return values if info.scale is None else (values - np.float32(info.zero_point or 0)) * np.float32(info.scale)


def _indices(case: Case) -> Mapping[str, int]:
    """The index of each tensor of the signature, by the contract's name for it."""
    signature = parse_flatbuffer(case.localizer.model.payload, str(case.localizer.model.path)).signature
    if signature is None:
        raise ModelError(f"{case.localizer.model.path} has no signature")
    return {**signature.inputs, **signature.outputs}


class LiteRt(Peer):
    """LiteRT's interpreter with the shortest loop around it."""

    case = "localizer"
    package, install = "ai_edge_litert", "pip install ai-edge-litert"
    engine = "litert"

    def __init__(self, case: Case, threads: int) -> None:
        self._hand = _ByHand(case.localizer.contract)
        self.network = self._interpreter = Timed(shared_network(case), "invoke")
        indices, infos = _indices(case), case.localizer.engine.outputs
        self._input = indices[case.localizer.contract.input.tensor]
        self._outputs = [(indices[name], infos[name]) for name in self._hand.tensors]

    def __call__(self, frame: Pixels) -> list[Found]:
        interpreter = self._interpreter
        interpreter.set_tensor(self._input, self._hand.image(frame)[np.newaxis])
        interpreter.invoke()
        return self._hand.answer([_real(interpreter.get_tensor(at), info) for at, info in self._outputs], frame)


class BareLiteRt(LiteRt):
    """LiteRT's invoke and nothing else: the input is set once."""

    differs = ("no preprocessing, no decoding",)
    whole = False

    def __call__(self, frame: Pixels) -> list[Found]:
        self._interpreter.invoke()
        return []


class OpenVino(Peer):
    """OpenVINO on the same int8 `.tflite`, which it reads by itself."""

    case = "localizer"
    package, install = "openvino", "pip install openvino"
    engine = "openvino"
    differs = ("another engine",)

    def __init__(self, case: Case, threads: int) -> None:
        import openvino

        self._hand = _ByHand(case.localizer.contract)
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(case.localizer.model.payload)
            options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            compiled = core.compile_model(core.read_model(path), "CPU", options)
        self.network = self._request = Timed(compiled.create_infer_request(), "infer")
        graph = parse_flatbuffer(case.localizer.model.payload, "the model").graphs[0]
        indices, infos = _indices(case), case.localizer.engine.outputs
        self._outputs = [
            (compiled.output(graph.tensors[indices[name]].name), infos[name]) for name in self._hand.tensors
        ]

    def __call__(self, frame: Pixels) -> list[Found]:
        answers = self._request.infer(self._hand.image(frame)[np.newaxis])
        return self._hand.answer([_real(answers[port], info) for port, info in self._outputs], frame)


class _OnnxByHand(Peer):
    """A runtime on the ONNX model, float in and out."""

    case = "onnx"

    def __init__(self, case: Case, threads: int) -> None:
        contract = case.localizer.contract
        self._hand, spec = _ByHand(contract), contract.input
        if spec.layout != "channels-last":
            raise UsageError("the loop by hand knows inputs with the channels last only")
        self._mean, self._std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        self._name = spec.tensor
        self.load(case, threads)

    def load(self, case: Case, threads: int) -> None:
        """Load the model into the runtime."""
        raise NotImplementedError

    def run(self, tensor: NDArray[np.float32]) -> Outputs:
        """Presence, class, weights and distances of an input."""
        raise NotImplementedError

    def __call__(self, frame: Pixels) -> list[Found]:
        tensor = (self._hand.image(frame).astype(np.float32) - self._mean) / self._std
        return self._hand.answer(self.run(tensor[np.newaxis]), frame)


class OnnxRuntime(_OnnxByHand):
    """ONNX Runtime on the CPU."""

    package, install = "onnxruntime", "pip install onnxruntime"
    engine = "onnxruntime"

    def load(self, case: Case, threads: int) -> None:
        self.network = self._session = Timed(shared_network(case), "run")

    def run(self, tensor: NDArray[np.float32]) -> Outputs:
        answers: Outputs = self._session.run(self._hand.tensors, {self._name: tensor})
        return answers


class OpenCvDnn(_OnnxByHand):
    """OpenCV's own networks."""

    engine = "opencv"
    differs = ("another engine",)

    def load(self, case: Case, threads: int) -> None:
        cv2.setNumThreads(threads)
        network = cv2.dnn.readNetFromONNX(np.frombuffer(case.localizer.model.payload, np.uint8))
        self.network = self._net = Timed(network, "forward")

    def run(self, tensor: NDArray[np.float32]) -> Outputs:
        self._net.setInput(tensor)
        return [np.asarray(answer, np.float32) for answer in self._net.forward(self._hand.tensors)]


class Ncnn(_OnnxByHand):
    """ncnn, with the ONNX model translated by pnnx, which stores its weights in float16."""

    package, install = "ncnn", "pip install ncnn pnnx"
    engine = "ncnn"
    differs = ("another engine", "weights in float16")

    def load(self, case: Case, threads: int) -> None:
        import ncnn
        import onnx
        import pnnx

        self._ncnn, self._net = ncnn, ncnn.Net()
        self._net.opt.num_threads, self._net.opt.use_vulkan_compute = threads, False
        model = case.localizer.model.payload
        graph = onnx.load_from_string(model).graph
        names = [output.name for output in graph.output]
        self._outputs = [f"out{names.index(name)}" for name in self._hand.tensors]
        sizes = [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.onnx").write_bytes(model)
            shape = "inputshape=" + str(sizes).replace(" ", "")
            done = subprocess.run([pnnx.EXEC_PATH, "model.onnx", shape], cwd=folder, capture_output=True)
            if done.returncode:
                raise ModelError(f"pnnx cannot translate the model: exit status {done.returncode}")
            self._net.load_param(f"{folder}/model.ncnn.param")
            self._net.load_model(f"{folder}/model.ncnn.bin")
        self.network = Timed(self, "extract")

    def extract(self, tensor: NDArray[np.float32]) -> Outputs:
        """Run the network: it computes what an output needs when that is asked for."""
        extractor = self._net.create_extractor()
        extractor.input("in0", self._ncnn.Mat(tensor[0]))
        return [np.array(extractor.extract(name)[1]) for name in self._outputs]

    def run(self, tensor: NDArray[np.float32]) -> Outputs:
        assert self.network is not None
        answers: Outputs = self.network.extract(tensor)
        return answers
