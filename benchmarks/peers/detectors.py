"""Peers that are whole programs: a detector's file and a frame go in, boxes in pixels come out."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeloc.benchmarks.peers.base import Case, Found, Peer, Timed
from edgeloc.model.flatbuffer import pack, schema, tensor_name, unpack
from edgeloc.types import Box, Pixels

__all__ = ["MediaPipe", "Ultralytics"]


class Ultralytics(Peer):
    """Ultralytics' `YOLO(file).predict(frame)`, on LiteRT. It is under the AGPL, and imported only here."""

    case = "yolo"
    package, install = "ultralytics", "pip install ultralytics"
    engine = "litert"

    def __init__(self, case: Case, threads: int) -> None:
        os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_VERBOSE="false")
        import torch
        import ultralytics

        torch.set_num_threads(threads)
        contract = case.localizer.contract
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(_for_ultralytics(case))
            self._yolo = ultralytics.YOLO(path, task="detect")
            self._options: dict[str, Any] = {
                "conf": contract.thresholds.presence,
                "iou": contract.detector.selection.iou if contract.detector else None,
                "imgsz": contract.input.width,
                "verbose": False,
            }
            self._warm_up()
        backend = self._yolo.predictor.model.backend
        self.network = backend.interpreter = Timed(backend.interpreter, "invoke")

    def _warm_up(self) -> None:
        """The first call, which loads the model; its own warm-up does no more than import torchvision."""
        from ultralytics.utils import nms as suppression

        blank = np.zeros((8, 8, 3), np.uint8)
        try:
            self._yolo.predict(blank, **self._options)
        except (ImportError, RuntimeError):
            self.differs = ("non-maximum suppression not counted: torchvision, which does it, does not load",)
            self.left_out = suppression.TorchNMS = Timed(suppression.TorchNMS, "nms")
            self._yolo.predictor.done_warmup = True
            self._yolo.predict(blank, **self._options)

    def __call__(self, frame: Pixels) -> list[Found]:
        (result,) = self._yolo.predict(frame, **self._options)
        return [Found(Box(*row[:4]), result.names[int(row[5])]) for row in result.boxes.data.tolist()]


def _for_ultralytics(case: Case) -> bytes:
    """The model with the metadata of an export of its own behind it."""
    contract = case.localizer.contract
    size = [contract.input.height, contract.input.width]
    names = dict(enumerate(contract.labels))
    data = io.BytesIO(case.localizer.model.payload)
    with zipfile.ZipFile(data, "a") as archive:
        about = {"stride": 32, "task": "detect", "batch": 1, "imgsz": size, "names": names, "channels": 3}
        archive.writestr("metadata.json", json.dumps(about))
    return data.getvalue()


class MediaPipe(Peer):
    """MediaPipe Tasks' `ObjectDetector`, with the TFLite that it brings."""

    case = "ssd"
    package, install = "mediapipe", "pip install mediapipe"
    engine = "mediapipe"
    differs = ("another build of TFLite", "its threads cannot be set")

    def __init__(self, case: Case, threads: int) -> None:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        contract = case.localizer.contract
        self._mediapipe, self._labels = mediapipe, contract.labels
        options = vision.ObjectDetectorOptions(
            base_options=BaseOptions(model_asset_buffer=_for_mediapipe(case)),
            score_threshold=contract.thresholds.presence,
        )
        self._detector = vision.ObjectDetector.create_from_options(options)

    def __call__(self, frame: Pixels) -> list[Found]:
        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=rgb)
        return [self._found(one) for one in self._detector.detect(image).detections]

    def close(self) -> None:
        self._detector.close()

    def _found(self, detection: Any) -> Found:
        box, category = detection.bounding_box, detection.categories[0]
        x, y = float(box.origin_x), float(box.origin_y)
        return Found(Box(x, y, x + box.width, y + box.height), category.category_name or self._labels[category.index])


def _for_mediapipe(case: Case) -> bytes:
    """The model with the TFLite metadata that MediaPipe wants, written by its own classes."""
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as words
    from mediapipe.tasks.python.metadata.metadata_writers import metadata_info as info

    contract, payload = case.localizer.contract, case.localizer.model.payload
    kind = schema().TensorType.UINT8
    image = info.InputImageTensorMd(
        "image", "", list(contract.input.mean), list(contract.input.std), words.ColorSpaceType.RGB, kind
    )
    outputs = info.DetectionOutputTensorsMd(bytearray(payload)).output_mds
    names = [one.name for one in outputs[:3]]
    own, graph = words.ModelMetadataT(), words.SubGraphMetadataT()
    own.name, own.subgraphMetadata = "detector", [graph]
    graph.inputTensorMetadata = [image.create_metadata()]
    order = [tensor_name(tensor) for tensor in _outputs(payload)]
    outputs = sorted(outputs, key=lambda one: order.index(one.tensor_name))
    graph.outputTensorMetadata = [one.create_metadata() for one in outputs]
    graph.outputTensorGroups = [info.TensorGroupMd("detections", names).create_metadata()]
    builder = flatbuffers.Builder(0)
    builder.Finish(own.Pack(builder), file_identifier=b"M001")
    return _with_metadata(payload, bytes(builder.Output()))


def _outputs(payload: bytes) -> list[Any]:
    graph = unpack(payload).subgraphs[0]
    return [graph.tensors[index] for index in graph.outputs]


def _with_metadata(payload: bytes, metadata: bytes) -> bytes:
    model, kinds = unpack(payload), schema()
    buffer, entry = kinds.BufferT(), kinds.MetadataT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]
    return pack(model)
