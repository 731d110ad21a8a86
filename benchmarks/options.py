"""What a benchmark is asked for: its options, checked, and the command line that asks for the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from edgeloc.benchmarks.scenarios.stopping import LEAST_SAMPLES, SCENARIOS, Scenario, ScenarioName
from edgeloc.engines import Threads
from edgeloc.errors import UsageError, mask_credentials
from edgeloc.model.file import contract_file

__all__ = ["BenchOptions"]

_LEAST_FRAMES = 200
_WARMUP_FRAMES = 20
# Of cold starts each is a process.
_STARTS, _WARMUP_STARTS = 10, 1
# Seconds at least, and at most, where nothing is asked for.
_SECONDS: dict[ScenarioName, tuple[float, float]] = {"single-stream": (2.0, 10.0), "stream": (10.0, 30.0)}
_MOST_TO_LEAST = 5.0
# What is asked for, and of which scenarios it means something.
_OF_SCENARIOS: dict[str, tuple[ScenarioName, ...]] = {
    "min_frames": ("single-stream", "stream"),
    "min_seconds": ("single-stream", "stream"),
    "max_seconds": ("single-stream", "stream"),
    "minutes": ("sustained",),
    "fps": ("stream",),
    "loadgen": ("single-stream",),
}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and where the result goes.

    Parameters:
        model: the quantized model, `.tflite` or `.onnx`.
        out: where the result goes, as JSON; compressed, if its name ends in .gz.
        against: the float model to compare it with, `.tflite` or `.keras`; needs `validation`.
        validation: labelled images, as `edgeloc.open_dataset` takes them. Without `against` the model's own accuracy
            is measured on them.
        validation_split: the part of `validation` to use; None is all of it.
        max_images: how many images to measure accuracy on, spread evenly over the data's groups; None is all.
        camera: time frames of this camera; None is the images of `validation`, else synthetic scenes.
        scenario: `single-stream` (one frame after the other), `stream` (a camera at a rate, through the capture loop),
            `sustained` (single-stream for minutes) or `cold-start` (fresh processes, until each one's first result).
        frames: time exactly so many frames, of cold-start so many processes; None: until the scenario has enough, of
            cold-start 10.
        warmup: frames (processes) before them, which are kept apart; None is 20 (1).
        min_frames: of single-stream and stream, how many frames at least; None is 200.
        min_seconds: and for how long at least; None is 2 of single-stream, 10 of stream.
        max_seconds: and at most, though the 90th percentile is not known well enough then; None is five times
            `min_seconds`, or three times of stream, and longer where 64 frames take longer.
        minutes: of sustained, for how long; None is 10.
        fps: of stream, the rate of the frames; None is 30. A live camera has its own.
        loadgen: of single-stream, let MLPerf's LoadGen issue the frames, as a check of the 90th percentile.
        engine: what runs the model, as in `edgeloc.Localizer`.
        threads: of the engine, as in `edgeloc.Localizer`; None is its own choice.
        contract: a JSON file, for a model that carries no contract.
        negatives: take crops of background through the model too, for the presence figures.
        skip_bad: leave out images and rows that cannot be read, and count them.
        power: a power meter's URI, `auto` or `none`.
    """

    model: str | Path
    out: str | Path
    against: str | Path | None = None
    validation: str | Path | None = None
    validation_split: str | None = None
    max_images: int | None = None
    camera: str | None = None
    scenario: ScenarioName = "single-stream"
    frames: int | None = None
    warmup: int | None = None
    min_frames: int | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None
    minutes: float | None = None
    fps: float | None = None
    loadgen: bool = False
    engine: str = "auto"
    threads: Threads = None
    contract: str | Path | None = None
    negatives: bool = True
    skip_bad: bool = False
    power: str = "auto"

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise UsageError(field="scenario", value=self.scenario, allowed=", ".join(SCENARIOS))
        for name, least in (("frames", 1), ("warmup", 0), ("max_images", 1), ("min_frames", 1), ("min_seconds", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(field=name, value=value, allowed=f"at least {least}")
        for name in ("max_seconds", "minutes", "fps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(field=name, value=value, allowed="above 0")
        self._require_meaning()
        self._require_data()

    def _require_meaning(self) -> None:
        for name, scenarios in _OF_SCENARIOS.items():
            if getattr(self, name) and self.scenario not in scenarios:
                message = (
                    f"the scenario {self.scenario} has no {name.replace('_', ' ')}, only {' and '.join(scenarios)}"
                )
                raise UsageError(message, hint=f"leave {{{name}}} out, or give another {{scenario}}")
        bounds = [name for name in ("min_frames", "min_seconds", "max_seconds") if getattr(self, name) is not None]
        if self.frames is not None and bounds:
            message = f"{self.frames} frames are timed, however long they take"
            raise UsageError(message, hint=f"leave {{frames}} or {{{bounds[0]}}} out")
        if self.max_seconds is not None and self.min_seconds is not None and self.max_seconds < self.min_seconds:
            raise UsageError(field="max_seconds", value=self.max_seconds, allowed=f"at least {self.min_seconds:g}")

    def _require_data(self) -> None:
        if self.validation is not None:
            return
        if self.against is not None:
            raise UsageError("two models are compared on labelled images", hint="give {validation}")
        if self.validation_split is not None:
            message = f"there is no data set to take the split {self.validation_split} of"
            raise UsageError(message, hint="give {validation}, or leave {validation_split} out")
        if self.max_images is not None:
            message = "there are no labelled images to measure accuracy on"
            raise UsageError(message, hint="give {validation}, or leave {max_images} out")

    @property
    def inputs(self) -> tuple[str | Path | None, ...]:
        """What is read, and so is not to be written: a contract beside a model, too."""
        models = [path for path in (self.model, self.against) if path is not None]
        recording = self.power.partition("://")[2].partition("?")[0] or None
        return *models, *map(contract_file, models), self.validation, self.camera, self.contract, recording

    @property
    def asked(self) -> Scenario:
        """The scenario, with nothing reached yet."""
        if self.scenario == "cold-start":
            return Scenario("cold-start", self.count or _STARTS, 0.0, None)
        if self.scenario == "sustained":
            seconds = 60 * (10.0 if self.minutes is None else self.minutes)
            return Scenario("sustained", self.frames or 1, seconds, seconds)
        if self.frames is not None:
            return Scenario(self.scenario, self.frames, 0.0, None)
        least, most = _SECONDS[self.scenario]
        if self.min_seconds is not None:
            least, most = self.min_seconds, max(most, self.min_seconds * most / least)
        most = max(most, least) if self.max_seconds is None else self.max_seconds
        return Scenario(self.scenario, self.min_frames or _LEAST_FRAMES, min(least, most), most)

    @property
    def count(self) -> int | None:
        """Exactly how many samples to take; None: as many as the scenario needs."""
        return _STARTS if self.frames is None and self.scenario == "cold-start" else self.frames

    @property
    def patience(self) -> int:
        """How many samples to take though the longest time has passed: where nobody set it, enough for a bound."""
        return LEAST_SAMPLES if self.max_seconds is None and self.scenario in _SECONDS else 1

    @property
    def warmup_samples(self) -> int:
        """How many samples come before those that count."""
        usual = _WARMUP_STARTS if self.scenario == "cold-start" else _WARMUP_FRAMES
        return usual if self.warmup is None else self.warmup

    @property
    def command(self) -> str:
        """The command line that asks for the same, without where the result goes; credentials are masked."""
        return mask_credentials(shlex.join(["edgeloc", "bench", str(self.model), *self._flags()]))

    def _flags(self) -> Iterator[str]:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in ("model", "out") or value == spec.default:
                continue
            name = spec.name.replace("_", "-")
            if value is False:
                yield f"--no-{name}"
            else:
                yield from [f"--{name}"] if value is True else [f"--{name}", str(value)]
