"""From a trained network to one model file that carries its contract, checked at every step before it is written."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import require_writable
from edgeloc._version import __version__
from edgeloc.converters.batch_norm import check_batch_norm
from edgeloc.converters.calibration import Calibration, calibrate, check_images, check_leaks, check_range_stability
from edgeloc.converters.checks import (
    check_parity,
    check_ports,
    check_presence_range,
    require_precision,
)
from edgeloc.converters.gate import DetectorGate, Gate, GateLimits, Report, Trial, choose_recipe
from edgeloc.converters.gate.report import require_passed
from edgeloc.converters.output_heads.diagnosis import diagnose
from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.converters.quantization.box_correction import BoxCorrection
from edgeloc.converters.quantization.quantize import AUTO, RECIPES, Recipe, quantize, recipe
from edgeloc.converters.sources import Source, open_source, require_source
from edgeloc.converters.stages import float_bundle, members_of, quantize_bundle
from edgeloc.data import Dataset
from edgeloc.data.sample import several_objects
from edgeloc.engines import Engine
from edgeloc.errors import ContractError, UsageError
from edgeloc.evaluation.suspicion import try_contract
from edgeloc.findings import Finding, report
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import file_in_memory, write_model
from edgeloc.model.golden import make_golden
from edgeloc.model.inspection import ModelReport, inspect_model, report_payload
from edgeloc.model.trust import trust
from edgeloc.preprocess import Preprocessor
from edgeloc.scenes import SceneGenerator

__all__ = ["TARGETS", "Conversion", "ConvertOptions", "Target", "convert"]

logger = logging.getLogger(__name__)

Target = Literal["tflite", "edgetpu", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)
AUTO_IMAGES = 500
"""On how many labelled images recipes are tried, where the user sets no number."""
_PARITY_IMAGES = 4
_FEWEST_LABELLED = 16


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert.

    Parameters:
        recipe: a name in RECIPES, or "auto" for the cheapest that passes the gate.
        target: tflite, edgetpu or tensorrt.
        calibration_images: how many images to calibrate on.
        seed: which of them are drawn.
        keep_float: regular expressions of operators that stay in float, or two with `->` between them; see `quantize`.
        fix_head: split outputs and drop final activations that lose to int8.
        repair_batch_norm: re-estimate the batch-norm statistics of a Keras network where they lag.
        weights: the file of a PyTorch factory's weights.
        limits: what the gate allows; None is the defaults of GateLimits.
        max_images: how many labelled images the gate takes at most; None is all of them, or 500 for "auto".
        min_mapped: the least share of operators on the Edge TPU, 0 to 1; None is 0.9.
        skip_bad: leave damaged images out and count them.
    """

    recipe: str = "int8"
    target: Target = "tflite"
    calibration_images: int = 200
    seed: int = 0
    keep_float: tuple[str, ...] = ()
    fix_head: bool = False
    repair_batch_norm: bool = False
    weights: str | None = None
    limits: GateLimits | None = None
    max_images: int | None = None
    min_mapped: float | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        for name, least in (("calibration_images", 1), ("max_images", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(field=name, value=value, allowed=f"at least {least}")
        if self.target not in TARGETS:
            raise UsageError(field="target", value=self.target, allowed=f"one of {', '.join(TARGETS)}")
        if self.recipe != AUTO:
            recipe(self.recipe)
        if self.target != "tflite" and self.recipe != "int8":
            message = f"the target {self.target} computes in int8, not by the recipe {self.recipe}"
            raise UsageError(message, field="recipe", value=self.recipe, hint="leave {recipe} out")
        if self.target != "tflite" and self.keep_float:
            message = f"the target {self.target} computes in int8 throughout"
            raise UsageError(message, field="keep_float", value=self.keep_float, hint="leave {keep_float} out")
        if self.min_mapped is not None and self.target != "edgetpu":
            message = "only the target edgetpu maps operators"
            raise UsageError(message, field="min_mapped", value=self.min_mapped, hint="leave {min_mapped} out")
        if self.min_mapped is not None and not 0 <= self.min_mapped <= 1:
            raise UsageError(field="min_mapped", value=self.min_mapped, allowed="0 to 1")

    @property
    def calibrated(self) -> bool:
        """Whether images to calibrate on are needed."""
        return self.recipe == AUTO or recipe(self.recipe).calibrated


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote, with its figures.

    Parameters:
        path: the file that goes to the device.
        recipe: the name of the recipe it was quantized by.
        precision: what it computes in, as read out of the file.
        size: of the file, in bytes.
        inspection: all that was read out of the file; None for an ONNX file.
        gate: what quantization cost on labelled data; None where none was given.
        trials: the recipes that were tried, where the recipe was "auto".
        figures: of the target, by name: `onnx_to_float` for TensorRT, `edgetpu` for the Edge TPU's compiler.
        findings: what a user should know.
    """

    path: Path
    recipe: str
    precision: str
    size: int
    inspection: ModelReport | None = field(default=None, repr=False)
    gate: Report | None = field(default=None, repr=False)
    trials: tuple[Trial, ...] = field(default=(), repr=False)
    figures: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values."""
        return {
            "path": str(self.path),
            "recipe": self.recipe,
            "precision": self.precision,
            "bytes": self.size,
            "macs": None if self.inspection is None else self.inspection.macs,
            "gate": None if self.gate is None else self.gate.to_dict(),
            **self.figures,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def convert(
    model: str | Path,
    out: str | Path,
    options: ConvertOptions | None = None,
    *,
    calibration: Dataset | None = None,
    validation: Dataset | None = None,
    contract: Contract | None = None,
) -> Conversion:
    """Convert a trained network to a model file, and write it with everything that it carries.

    Progress and findings are logged; the findings are in the result, too.

    Parameters:
        model: whatever `edgeloc.converters.sources.open_source` reads.
        out: the file, a `.tflite`, or an `.onnx` for TensorRT. For the Edge TPU the compiled file lies beside it.
        options: how to convert.
        calibration: images for a recipe that becomes integer.
        validation: labelled images, other than those, to run the gate on; without them nothing is gated.
        contract: only for a model that carries none.

    Raises UsageError when something that is needed is not given, ContractError when there is no contract or it does
    not fit, DataError for bad images or ones on both sides, OutputError when `out` cannot be written, ModelError when
    the model is missing, or the result is not what the recipe is for, and GateRefused; then nothing is written but the
    gate's pictures, and where it is the Edge TPU's compilation that fails, `out` for the CPU.
    """
    return _Converter(str(model), Path(out), options or ConvertOptions(), calibration, validation, contract).run()


class _Converter:
    """One conversion from its inputs to the written file; each step is a method, in the order of the calls in `run`."""

    def __init__(
        self,
        model: str,
        out: Path,
        options: ConvertOptions,
        calibration: Dataset | None,
        validation: Dataset | None,
        contract: Contract | None,
    ) -> None:
        self.options, self.out = options, out
        self.calibration, self.validation = calibration, validation
        require_source(model)
        self._require_data()
        require_writable(out, model)
        self.source = open_source(model, weights=options.weights)
        self.contract = self.source.adopt(_own_or_given(self.source, contract))
        if self.contract.stages is not None and (self.options.target != "tflite" or self.options.fix_head):
            option = "fix_head" if self.options.fix_head else "target"
            message = f"{self.source.name} is a two-stage detector, which is converted for the CPU, as it is"
            raise UsageError(message, field=option, hint=f"leave {{{option}}} out")
        self.drawn: Calibration | None = None
        self.gate: Gate | DetectorGate | None = None
        self.findings: list[Finding] = []

    def _require_data(self) -> None:
        """Raise UsageError where an option asks for images that were not given."""
        options = self.options
        if options.calibrated and self.calibration is None:
            message = f"the recipe {options.recipe} needs images to calibrate on"
            raise UsageError(message, field="calibration", hint="give {calibration}")
        if options.recipe == AUTO and self.validation is None:
            message = "the recipe auto needs labelled images to choose by"
            raise UsageError(message, field="validation", hint="give {validation}")
        if (options.limits is not None or options.max_images is not None) and self.validation is None:
            message = "limits of the gate are for labelled images"
            raise UsageError(message, field="validation", hint="give {validation}")
        for name, reason in (
            ("fix_head", "the head is repaired by what the outputs are on images"),
            ("repair_batch_norm", "batch-norm statistics are re-estimated from images"),
        ):
            if getattr(options, name) and self.calibration is None:
                raise UsageError(reason, field="calibration", hint=f"give {{calibration}}, or leave {{{name}}} out")

    def run(self) -> Conversion:
        """All of it."""
        for dataset in (self.calibration, self.validation):
            self._report(*(() if dataset is None else dataset.findings))
        if self.validation is not None and self.contract.finds_one:
            self._report(*several_objects(self.validation.name, self.validation))
        self.drawn = self._draw()
        self._check_batch_norm()
        flatbuffer = self._to_float()
        self._check_contract(flatbuffer)
        self._open_gate(flatbuffer)
        flatbuffer = self._repair_head(flatbuffer)
        if self.options.target == "tensorrt":
            return self._write_onnx(flatbuffer)
        chosen, quantized, judged, trials = self._quantize(flatbuffer)
        conversion = self._write(chosen, quantized, judged, trials)
        return self._compile(conversion) if self.options.target == "edgetpu" else conversion

    def _report(self, *findings: Finding | None) -> None:
        self.findings += [report(logger, finding) for finding in findings if finding is not None]

    def _draw(self) -> Calibration | None:
        dataset, options = self.calibration, self.options
        if dataset is None:
            return None
        if not (options.calibrated or options.repair_batch_norm or options.fix_head):
            message = f"the recipe {options.recipe} needs no calibration: {dataset.name} is not used"
            self._report(Finding("calibration-unused", "note", message))
            return None
        drawn = calibrate(dataset, self.contract.input, options.calibration_images, options.seed, options.skip_bad)
        logger.info("calibrating on %d images of %s (seed %d)", drawn.manifest["count"], dataset.name, options.seed)
        if drawn.manifest["skipped"]:
            message = f"left out {len(drawn.manifest['skipped'])} damaged images"
            self._report(Finding("image-damaged", "warning", message))
        self._report(*check_images(drawn, self.contract.input))
        if self.validation is not None:
            self._report(*check_leaks(drawn, self.validation, skip_bad=options.skip_bad))
        return drawn

    def _check_batch_norm(self) -> None:
        from edgeloc.converters.sources.tensorflow import KerasSource

        repair = self.options.repair_batch_norm
        if repair and not isinstance(self.source, KerasSource):
            message = f"batch-norm statistics are re-estimated in Keras networks alone: {self.source.name} is none"
            raise UsageError(message, field="repair_batch_norm", hint="leave {repair_batch_norm} out")
        if self.drawn is not None and isinstance(self.source, KerasSource) and self.contract.stages is None:
            samples = self.validation if self.validation is not None else self.calibration
            self._report(check_batch_norm(self.source, self.contract, self.drawn.images, samples or (), repair=repair))

    def _to_float(self) -> bytes:
        spec = self.contract.input
        images = self._scenes() if self.drawn is None else self.drawn.images[:_PARITY_IMAGES]
        if self.contract.stages is not None:
            return float_bundle(self.source, self.contract, images)
        flatbuffer = self.source.to_tflite(spec)
        check_ports(flatbuffer, self.contract, self.source.name)
        check_parity(self.source, flatbuffer, spec, images)
        return flatbuffer

    def _scenes(self) -> NDArray[np.float32]:
        """A few generated scenes as the model sees them, where no images are given."""
        preprocess = Preprocessor(self.contract.input, np.dtype(np.float32), None, None)
        scenes = SceneGenerator(seed=0)
        return np.stack([preprocess(scenes.scene(index).pixels)[0][0].copy() for index in range(_PARITY_IMAGES)])

    def _check_contract(self, flatbuffer: bytes) -> None:
        """Images that the network learned from show best whether the contract is how it was trained."""
        if self.drawn is None:
            return
        options = self.options
        for dataset in (self.calibration, self.validation):
            if dataset is not None and any(sample.box is not None for sample in dataset):
                model = file_in_memory("the float model", flatbuffer, self.contract)
                trial = try_contract(
                    model, self.contract, dataset, seed=options.seed, skip_bad=options.skip_bad, fewest=_FEWEST_LABELLED
                )
                self._report(None if trial is None else trial.suspicion)
                return

    def _open_gate(self, flatbuffer: bytes) -> None:
        if self.validation is None:
            return
        options = self.options
        kind = Gate if self.contract.finds_one else DetectorGate
        self.gate = kind(
            flatbuffer,
            self.contract,
            self.validation,
            limits=options.limits,
            max_images=options.max_images or (AUTO_IMAGES if options.recipe == AUTO else None),
            skip_bad=options.skip_bad,
        )

    def _repair_head(self, flatbuffer: bytes) -> bytes:
        if self.drawn is None or self.contract.stages is not None:
            return flatbuffer
        images = self.drawn.images
        self._report(check_range_stability(flatbuffer, images, self.options.seed))
        if not self.options.fix_head:
            self._report(*(diagnosis.finding for diagnosis in diagnose(flatbuffer, self.contract, images)))
            return flatbuffer
        flatbuffer, self.contract, done = repair_head(flatbuffer, self.contract, images)
        for sentence in done or ("the head needs no repair",):
            self._report(Finding("head-repaired" if done else "head-sound", "note", sentence))
        return flatbuffer

    def _quantize(self, flatbuffer: bytes) -> tuple[Recipe, bytes, Report | None, tuple[Trial, ...]]:
        options, spec = self.options, self.contract.input
        images = None if self.drawn is None else self.drawn.images

        def make(chosen: Recipe) -> bytes:
            keep = options.keep_float if chosen.keeps_float or options.recipe != AUTO else ()
            if self.contract.stages is not None:
                return quantize_bundle(flatbuffer, chosen, self.contract, images, keep)
            boxes = None if images is None else BoxCorrection(flatbuffer, self.contract, images, self._report)
            made = quantize(flatbuffer, chosen, spec, images, keep, boxes)
            require_precision(chosen, report_payload(made, str(self.out)), bool(keep))
            return made

        if options.recipe == AUTO:
            assert self.gate is not None  # refused without labelled images
            gate = self.gate
            choice = choose_recipe(tuple(RECIPES.values()), make, lambda made: gate.judge(made, self.contract))
            self._require_passed(choice.report)
            return choice.recipe, choice.flatbuffer, choice.report, choice.trials
        chosen = recipe(options.recipe)
        made = make(chosen)
        return chosen, made, self._judge(made), ()

    def _judge(self, quantized: bytes, engine: Engine | None = None) -> Report | None:
        """The gate's report; GateRefused, with the worst images beside the output, where it does not pass."""
        if self.gate is None:
            return None
        judged = self.gate.judge(quantized, self.contract, engine)
        self._require_passed(judged)
        return judged

    def _require_passed(self, judged: Report) -> None:
        assert self.gate is not None  # it gave the report
        self._report(*judged.findings)
        require_passed(judged, self.gate.samples, self.out, head_repaired=self.options.fix_head)

    def _write(self, chosen: Recipe, quantized: bytes, judged: Report | None, trials: tuple[Trial, ...]) -> Conversion:
        contract = self._signed(chosen.name)
        if judged is not None:
            contract = judged.written_into(contract)
        # With the threshold of the float network: the gate may have moved it to where the output still reaches.
        self._report(check_presence_range(report_payload(quantized, str(self.out)), self.contract))
        memory = file_in_memory(self.out, quantized, contract)
        golden = make_golden(Localizer(memory))
        manifest = self.drawn.manifest if self.drawn is not None and chosen.calibrated else None
        write_model(
            self.out, memory.payload, contract, calibration=manifest, golden=golden, extra=members_of(quantized)
        )
        trust(memory.digest)
        read = inspect_model(self.out)
        return Conversion(
            self.out, chosen.name, read.precision, read.file_bytes, read, judged, trials, {}, tuple(self.findings)
        )

    def _compile(self, conversion: Conversion) -> Conversion:
        from edgeloc.converters.targets.edgetpu import MIN_MAPPED, to_edgetpu

        least = MIN_MAPPED if self.options.min_mapped is None else self.options.min_mapped
        path, compilation = to_edgetpu(self.out, min_mapped=least)
        figures = {"edgetpu": compilation.to_dict()}
        return dataclasses.replace(
            conversion, path=path, size=path.stat().st_size, figures=figures, inspection=inspect_model(path)
        )

    def _signed(self, name: str) -> Contract:
        hashes = {"float_model": self.source.digest}
        if self.drawn is not None:
            hashes["calibration"] = self.drawn.digest
        tools = {"edgeloc": __version__, **self.source.tools}
        return dataclasses.replace(self.contract, recipe=name, tools=tools, hashes=hashes)

    def _write_onnx(self, flatbuffer: bytes) -> Conversion:
        from edgeloc.converters.targets.tensorrt import RECIPE, convert_tensorrt

        assert self.drawn is not None  # the target goes with the recipe int8
        judged: list[Report] = []

        def judge(model: bytes, contract: Contract, engine: Engine) -> Contract:
            found = self._judge(model, engine)
            judged.extend([] if found is None else [found])
            return contract if found is None else found.written_into(contract)

        made = convert_tensorrt(flatbuffer, self._signed(self.options.recipe), self.drawn, self.out, judge)
        logger.info("against the float model, on calibration images: %s", made.agreement)
        if self.gate is None:
            self._report(made.agreement.finding(GateLimits().min_box_iou))
        precision = f"int8 in {made.int8} of {made.weighted} convolutions and dense layers, symmetric (ONNX)"
        gate, figures = (judged[0] if judged else None), {"onnx_to_float": made.agreement.to_dict()}
        return Conversion(self.out, RECIPE, precision, made.size, None, gate, (), figures, tuple(self.findings))


def _own_or_given(source: Source, given: Contract | None) -> Contract:
    if source.contract is not None and given is not None:
        message = f"{source.name} has a contract already, inside or beside it"
        raise UsageError(message, field="contract", hint="leave {contract} out")
    contract = source.contract or given
    if contract is None:
        message = f"{source.name} carries no contract"
        raise ContractError(message, hint="describe its input and outputs with {contract} FILE.json")
    return contract
