"""An ONNX graph: run by ONNX Runtime, converted by onnx2tf in an environment of its own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.sources.base import Source, answer_each, channels_first, image_shape, refuse_weights
from edgeloc.converters.sources.tflite import drop_metadata, put_channels_last, replace_padded_pooling, set_signature
from edgeloc.errors import MissingExtra, ModelError, UsageError, first_line
from edgeloc.model.containers import read_fields
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import pack, unpack

__all__ = ["OnnxSource", "find_onnx2tf"]

_TOOL = "onnx2tf"
_OLDEST = 2
_INSTALL = "pipx install --python python3.12 onnx2tf (Python 3.12 or newer), or uv tool install --python 3.12 onnx2tf"
_ERRORS_ONLY = 3  # ONNX Runtime's level of what it writes on the terminal
# Field numbers of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.external_data.
_GRAPH, _INITIALIZER, _EXTERNAL_DATA = 7, 5, 13


class OnnxSource(Source):
    """An `.onnx` file; outputs go by the graph's names, one with four dimensions leaves with its channels last.

    Where the channels stand is read from the input's shape; a size that the file leaves open becomes
    the contract's.
    """

    def __init__(self, path: str | Path) -> None:
        import onnxruntime

        self.name, self.contract, self._path = str(path), None, Path(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelError(f"{path} is no ONNX file that can be run: {first_line(error)}") from error
        self._input = _only_input(self.name, self._session)
        self._shape = tuple(size if isinstance(size, int) else None for size in self._input.shape)
        self.digest = _digest(self._path)
        self.tools = {"onnxruntime": importlib.metadata.version("onnxruntime")}

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> OnnxSource:
        """Load the file; it holds its weights itself, or names the files beside it that do."""
        refuse_weights(path, weights)
        if importlib.util.find_spec("onnxruntime") is None:
            raise MissingExtra("onnxruntime", "onnx", "converting an ONNX file")
        return cls(path)

    def to_tflite(self, spec: InputSpec) -> bytes:
        tool, version = find_onnx2tf()
        self.tools = {**self.tools, _TOOL: version}
        first = channels_first(self._shape, image_shape(spec), self.name)
        with tempfile.TemporaryDirectory() as folder:
            flatbuffer = _converted(tool, self._path, Path(folder), self._flags(spec, first))
        model = unpack(flatbuffer)
        outputs = self.answer(np.zeros(image_shape(spec), np.float32))
        put_channels_last(model, [values.shape for values in outputs.values()])
        set_signature(model, spec.tensor, list(outputs))
        replace_padded_pooling(model)
        drop_metadata(model)
        return pack(model)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        names = [output.name for output in self._session.get_outputs()]
        first = channels_first(self._shape, (1, *images.shape[1:]), self.name)

        def call(image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            image = np.ascontiguousarray(image.transpose(0, 3, 1, 2)) if first else image
            outputs = self._session.run(names, {self._input.name: image})
            return {
                name: value.transpose(0, 2, 3, 1) if first and value.ndim == 4 else value
                for name, value in zip(names, outputs, strict=True)
            }

        return answer_each(images, call)

    def _flags(self, spec: InputSpec, first: bool) -> list[str]:
        sizes = ",".join(map(str, image_shape(spec, first=first)))
        flags = ["--overwrite_input_shape", f"{self._input.name}:{sizes}"]
        return flags if first else [*flags, "--keep_shape_absolutely_input_names", self._input.name]


def find_onnx2tf() -> tuple[str, str]:
    """The path of the command onnx2tf and its version; UsageError with the line to install it where it is absent."""
    beside = Path(sys.executable).with_name(_TOOL)
    tool = shutil.which(_TOOL) or (str(beside) if beside.is_file() else None)
    if tool is None:
        raise UsageError(f"converting an ONNX file needs the command {_TOOL}: {_INSTALL}")
    asked = subprocess.run([tool, "-V"], capture_output=True, text=True, errors="replace", check=False)
    version = (asked.stdout.split() or ["unknown"])[-1]
    if asked.returncode or not version.partition(".")[0].isdecimal():
        raise UsageError(f"{tool} does not run ({_last_line(asked)}): install it again with {_INSTALL}")
    if int(version.partition(".")[0]) < _OLDEST:
        raise UsageError(f"{tool} is version {version}, and {_OLDEST} or newer is needed: {_INSTALL}")
    return tool, version


def _converted(tool: str, path: Path, folder: Path, flags: list[str]) -> bytes:
    # It simplifies the very file that it is given, so it is given a copy.
    command = [tool, "-i", str(_copy(path, folder)), "-o", str(folder), "-n", *flags]
    # Its simplifier is a command of its own, which lies beside it and not on the user's PATH.
    home = os.path.dirname(os.path.realpath(tool))
    environment = {**os.environ, "PATH": os.pathsep.join([home, os.environ.get("PATH", "")])}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    results = sorted(folder.glob("*_float32.tflite"))
    if done.returncode or len(results) != 1:
        raise ModelError(f"{_TOOL} cannot convert {path}: {_last_line(done)}")
    return results[0].read_bytes()


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [f"exit status {done.returncode}"])[-1][-300:]


def _only_input(name: str, session: Any) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelError(
            f"{name} has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}): a localizer has one, the image"
        )
    if inputs[0].type != "tensor(float)":
        raise ModelError(f"{name} takes {inputs[0].type}: export it with a float32 input")
    return inputs[0]


def _copy(path: Path, folder: Path) -> Path:
    """The graph and the files of its weights, under the same names in `folder`; the graph's path there."""
    for name in (path.name, *_weight_files(path)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / name, folder / name)
    return folder / path.name


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for name in (path.name, *_weight_files(path)):
        digest.update((path.parent / name).read_bytes())
    return digest.hexdigest()


def _weight_files(path: Path) -> list[str]:
    """The files that hold weights outside the graph, each by its path from the graph's folder.

    Raises ModelError for one that lies elsewhere.
    """
    tensors = _submessages(_submessages([path.read_bytes()], _GRAPH), _INITIALIZER)
    entries = [dict(read_fields(entry)) for entry in _submessages(tensors, _EXTERNAL_DATA)]
    places = [entry.get(2) for entry in entries if entry.get(1) == b"location"]
    names = dict.fromkeys(place.decode() for place in places if isinstance(place, bytes))
    for name in names:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ModelError(f"{path} keeps weights outside of its folder, in {name}: export it with both in one")
    return list(names)


def _submessages(messages: Iterable[bytes], number: int) -> list[bytes]:
    """The fields `number` of protobuf messages, where they have a length."""
    fields = (field for message in messages for field in read_fields(message))
    return [content for field, content in fields if field == number and isinstance(content, bytes)]
