"""The networks of a two-stage detector run in sequence, as one engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.decode.numbers import Quantization, dequantized
from edgeloc.decode.regions import FEATURES, RegionStages
from edgeloc.engines.base import Engine, TensorInfo, quantizations
from edgeloc.errors import ModelError, UsageError
from edgeloc.findings import Finding
from edgeloc.model.containers import CONTAINERS
from edgeloc.model.contract import Contract
from edgeloc.model.file import HEAD, ModelFile

__all__ = ["StagedEngine", "networks_of"]


def networks_of(model: ModelFile) -> list[ModelFile]:
    """The networks of a two-stage detector's file, in the order that they run in: the head is the last.

    Raises ModelError where the file holds no head, or another kind of file in its place.
    """
    contract = model.contract
    assert contract is not None and contract.stages is not None
    first = ModelFile(model.path, model.payload, model.format, trusted=model.trusted)
    if contract.stages.method == "rcnn":
        return [first]
    if HEAD not in model.members:
        raise ModelError(f"{model.path} holds no {HEAD}, which its contract runs", hint="convert it again")
    payload, name = model.members[HEAD], f"{HEAD} in {model.path}"
    if not CONTAINERS[model.format].matches(payload):
        raise ModelError(f"{name} is no {CONTAINERS[model.format].title} model", hint="convert it again")
    return [first, ModelFile(model.path, payload, model.format, trusted=model.trusted)]


class StagedEngine(Engine):
    """Runs the first network, proposes and pools regions, and runs the head once for each.

    Its outputs are those that the contract describes, float32: `box` (1, regions, 4), corners in pixels of the input,
    and `class` (1, regions, labels + 1), logits with the background first.

    Parameters:
        contract: one with `stages`.
        engines: the networks of `networks_of`, loaded.

    Raises ModelError where the networks are not those of the contract.
    """

    def __init__(self, contract: Contract, engines: Sequence[Engine]) -> None:
        stages, spec = contract.stages, contract.input
        assert stages is not None
        self._first, self._head = (engines[0] if len(engines) > 1 else None), engines[-1]
        self.name, self.version, self.threads = self._head.name, self._head.version, self._head.threads
        channels = 1 if spec.color == "gray" else 3
        region = _only_input(self._head)
        image = region if self._first is None else _only_input(self._first)
        _require(self._head, {"class": len(contract.labels) + 1, "box": 4})
        if self._first is not None:
            _require(self._first, {FEATURES: region.shape[-1]})
        if region.shape[1:3] != (stages.side, stages.side):
            raise ModelError(f"the head takes regions of {region.shape[1:3]}, stages.side is {stages.side}")
        shape = (1, spec.height, spec.width, channels)
        if self._first is not None and image.shape != shape:
            raise ModelError(f"the first network's input is {image.shape}, the contract's {shape}")
        self.inputs = {spec.tensor: TensorInfo(spec.tensor, shape, image.dtype, image.scale, image.zero_point)}
        real = np.dtype(np.float32)
        self.outputs = {
            "class": TensorInfo("class", (1, stages.regions, len(contract.labels) + 1), real),
            "box": TensorInfo("box", (1, stages.regions, 4), real),
        }
        first = {} if self._first is None else quantizations(self._first.outputs)
        self._steps = RegionStages(contract, Quantization(image.scale, image.zero_point or 0), first)
        self._region, self._answers = region, quantizations(self._head.outputs)

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> StagedEngine:
        """None by itself: its networks run on another engine."""
        raise UsageError("stages are no engine", hint="open the model with the name of one")

    @property
    def notify(self) -> Callable[[Finding], object] | None:
        """Takes each fault of the engines that run the networks."""
        return self._head.notify

    @notify.setter
    def notify(self, taker: Callable[[Finding], object] | None) -> None:
        for engine in filter(None, (self._first, self._head)):
            engine.notify = taker

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run all stages on one image."""
        marks = [perf_counter_ns()]
        outputs = {} if self._first is None else self._first.invoke(tensor)
        marks.append(perf_counter_ns())
        regions = self._steps.propose(tensor, outputs)
        marks.append(perf_counter_ns())
        pooled = _quantized(self._steps.pool(tensor, outputs, regions), self._region)
        marks.append(perf_counter_ns())
        answers = [self._head.invoke(region[np.newaxis]) for region in pooled]
        classes, numbers = (
            dequantized(np.concatenate([answer[name] for answer in answers]), self._answers[name])
            for name in ("class", "box")
        )
        joined = self._steps.join(regions, classes.reshape(len(regions), -1), numbers.reshape(len(regions), 4))
        marks.append(perf_counter_ns())
        spent = dict(zip(("backbone", "proposals", "regions", "head"), np.diff(marks) / 1e6, strict=True))
        if self._first is None:
            del spent["backbone"]
        self.spent_ms = {name: float(time) for name, time in spent.items()}
        return dict(joined)


def _only_input(engine: Engine) -> TensorInfo:
    return next(iter(engine.inputs.values()))


def _require(engine: Engine, wanted: dict[str, int]) -> None:
    """Raise ModelError where an output is missing, or does not end with as many numbers as it must."""
    for name, numbers in wanted.items():
        found = engine.outputs.get(name)
        if found is None or found.shape[-1] != numbers:
            there = ", ".join(f"{info.name!r} {info.shape}" for info in engine.outputs.values())
            raise ModelError(
                f"a two-stage detector needs an output {name!r} of {numbers} numbers, and there is {there}"
            )


def _quantized(values: NDArray[np.float32], info: TensorInfo) -> NDArray[Any]:
    """Real numbers as those of a network's input."""
    if info.scale is None:
        return values
    limits = np.iinfo(info.dtype)
    levels = np.rint(values / np.float32(info.scale)) + (info.zero_point or 0)
    rounded: NDArray[Any] = np.clip(levels, limits.min, limits.max).astype(info.dtype)
    return rounded
