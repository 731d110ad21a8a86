"""From a trained network to one model file that carries its contract, checked at every step before it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import require_writable
from edgeloc._version import __version__
from edgeloc.converters.batch_norm import check_batch_norm
from edgeloc.converters.calibration import Calibration, calibrate, judge_halves, judge_images, refuse_leak
from edgeloc.converters.checks import (
    check_ports,
    check_same,
    make_golden,
    presence_warning,
    refuse_what_is_not,
    suspect_contract,
)
from edgeloc.converters.gate import DEFAULT_MAX_IOU_DROP, Gate, GateReport
from edgeloc.converters.gate.auto import AUTO_LIMIT, choose_recipe
from edgeloc.converters.gate.report import report_lines
from edgeloc.converters.output_heads.diagnosis import diagnose
from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.converters.quantization.quantize import AUTO, RECIPES, Recipe, quantize, recipe
from edgeloc.converters.sources import Source, open_source
from edgeloc.data import Dataset
from edgeloc.engines import Engine
from edgeloc.errors import ContractError, UsageError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, write_model
from edgeloc.model.inspection import inspect_model, report_flatbuffer
from edgeloc.preprocess import Preprocessor
from edgeloc.scenes import SceneGenerator

__all__ = ["TARGETS", "ConvertOptions", "Target", "convert"]

Target = Literal["tflite", "edgetpu", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert; see `edgeloc convert --help` for each.

    `recipe` is a name in RECIPES or "auto"; `calibration_images` are drawn by `seed`;
    `keep_float` are regular expressions of operators that stay in float; `weights` is the file of
    a PyTorch factory's weights. `max_iou_drop` (None: 0.005) and `max_images` are the gate's;
    `min_mapped` (None: 0.9) is the least share of operators on the Edge TPU.
    """

    recipe: str = "int8"
    target: Target = "tflite"
    calibration_images: int = 200
    seed: int = 0
    keep_float: tuple[str, ...] = ()
    fix_head: bool = False
    repair_batch_norm: bool = False
    weights: str | None = None
    max_iou_drop: float | None = None
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
        for name in ("max_iou_drop", "min_mapped"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(field=name, value=value, allowed="0 to 1")

    @property
    def calibrated(self) -> bool:
        """Whether images to calibrate on are needed."""
        return self.recipe == AUTO or recipe(self.recipe).calibrated


_PARITY_IMAGES = 4


def convert(
    model: str | Path,
    out: str | Path,
    options: ConvertOptions | None = None,
    *,
    calibration: Dataset | None = None,
    validation: Dataset | None = None,
    contract: Contract | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Convert the trained network `model` and write `out`, a `.tflite` (or `.onnx` for TensorRT), all behind it.

    `model` is whatever `edgeloc.converters.sources.open_source` reads. `calibration` are images for
    a recipe that becomes integer; `validation`, labelled and other images than those, is what the
    gate measures on, and without it nothing is gated. `contract` is only for a model that carries
    none. `tell` is called with each finding that a user should see. Returns the file that goes to
    the device: `out`, or for the Edge TPU the compiled one beside it.

    Raises UsageError when something that is needed is not given, ContractError when there is no
    contract or it does not fit, DataError for bad images or ones on both sides, OutputError when
    `out` cannot be written, ModelError when the result is not what the recipe promises, and
    GateFailed; then nothing is written but the gate's pictures, and where it is the Edge TPU's
    compilation that fails, `out` for the CPU.
    """
    return _Conversion(
        str(model), Path(out), options or ConvertOptions(), calibration, validation, contract, tell
    ).run()


class _Conversion:
    """One conversion from its inputs to the written file; each step is a method, in the order of the calls in `run`."""

    def __init__(
        self,
        model: str,
        out: Path,
        options: ConvertOptions,
        calibration: Dataset | None,
        validation: Dataset | None,
        contract: Contract | None,
        tell: Callable[[str], None],
    ) -> None:
        self.options, self.out, self.tell = options, out, tell
        self.calibration, self.validation = calibration, validation
        self._require_data()
        require_writable(out, model)
        self.source = open_source(model, weights=options.weights)
        self.contract = _own_or_given(self.source, contract)
        self.drawn: Calibration | None = None
        self.gate: Gate | None = None

    def _require_data(self) -> None:
        """Raise UsageError where an option asks for images that were not given."""
        options = self.options
        if options.calibrated and self.calibration is None:
            message = f"the recipe {options.recipe} needs images to calibrate on"
            raise UsageError(message, field="calibration", hint="give {calibration}")
        if options.recipe == AUTO and self.validation is None:
            message = "the recipe auto needs labelled images to choose by"
            raise UsageError(message, field="validation", hint="give {validation}")
        for name in ("max_iou_drop", "max_images"):
            if getattr(options, name) is not None and self.validation is None:
                message = f"{name} is for the gate on labelled images"
                raise UsageError(message, field="validation", hint="give {validation}")
        for name, reason in (
            ("fix_head", "the head is repaired by what the outputs are on images"),
            ("repair_batch_norm", "batch-norm statistics are re-estimated from images"),
        ):
            if getattr(options, name) and self.calibration is None:
                raise UsageError(reason, field="calibration", hint=f"give {{calibration}}, or leave {{{name}}} out")

    def run(self) -> Path:
        """All of it."""
        self.drawn = self._draw()
        self._check_batch_norm()
        flatbuffer = self._to_float()
        self._check_contract(flatbuffer)
        float_contract = self.contract
        if self.validation is not None:
            limit = self.options.max_images or (AUTO_LIMIT if self.options.recipe == AUTO else None)
            maximum = DEFAULT_MAX_IOU_DROP if self.options.max_iou_drop is None else self.options.max_iou_drop
            self.gate = Gate(
                flatbuffer,
                float_contract,
                self.validation,
                max_iou_drop=maximum,
                limit=limit,
                skip_bad=self.options.skip_bad,
            )
        flatbuffer = self._mend_head(flatbuffer)
        if self.options.target == "tensorrt":
            return self._write_onnx(flatbuffer)
        chosen, quantized, report = self._quantize(flatbuffer)
        self._write(chosen, quantized, report)
        return self._compile() if self.options.target == "edgetpu" else self.out

    def _draw(self) -> Calibration | None:
        dataset, options = self.calibration, self.options
        if dataset is None:
            return None
        if not (options.calibrated or options.repair_batch_norm or options.fix_head):
            self.tell(f"the recipe {options.recipe} needs no calibration: {dataset.name} is not used")
            return None
        drawn = calibrate(dataset, self.contract.input, options.calibration_images, options.seed, options.skip_bad)
        self.tell(f"calibrating on {drawn.manifest['count']} images of {dataset.name} (seed {options.seed})")
        if drawn.manifest["skipped"]:
            self.tell(f"left out {len(drawn.manifest['skipped'])} damaged images")
        for doubt in judge_images(drawn, self.contract.input):
            self.tell(doubt)
        if self.validation is not None:
            for doubt in refuse_leak(drawn, self.validation, skip_bad=options.skip_bad):
                self.tell(doubt)
        return drawn

    def _check_batch_norm(self) -> None:
        from edgeloc.converters.sources.tensorflow import KerasSource

        repair = self.options.repair_batch_norm
        if repair and not isinstance(self.source, KerasSource):
            raise UsageError(f"--repair-batch-norm is for Keras networks: leave it out, {self.source.name} is none")
        if self.drawn is not None and isinstance(self.source, KerasSource):
            samples = self.validation if self.validation is not None else self.calibration
            check_batch_norm(self.source, self.contract, self.drawn.images, samples or (), repair, self.tell)

    def _to_float(self) -> bytes:
        spec = self.contract.input
        flatbuffer = self.source.to_tflite(spec)
        check_ports(flatbuffer, self.contract, self.source.name)
        images = self._scenes() if self.drawn is None else self.drawn.images[:_PARITY_IMAGES]
        check_same(self.source, flatbuffer, spec, images)
        return flatbuffer

    def _scenes(self) -> NDArray[np.float32]:
        """A few generated scenes as the model sees them, where no images are given."""
        preprocess = Preprocessor(self.contract.input, np.dtype(np.float32), None, None)
        scenes = SceneGenerator(seed=0)
        return np.stack([preprocess(scenes.scene(index).pixels)[0][0].copy() for index in range(_PARITY_IMAGES)])

    def _check_contract(self, flatbuffer: bytes) -> None:
        """Images that the network learned from tell best whether the contract is how it was trained."""
        if self.drawn is None:
            return
        for dataset in (self.calibration, self.validation):
            if dataset is not None and any(sample.box is not None for sample in dataset):
                doubt = suspect_contract(
                    flatbuffer, self.contract, dataset, seed=self.options.seed, skip_bad=self.options.skip_bad
                )
                if doubt is not None:
                    self.tell(doubt)
                return

    def _mend_head(self, flatbuffer: bytes) -> bytes:
        if self.drawn is None:
            return flatbuffer
        images = self.drawn.images
        halves = judge_halves(flatbuffer, images, self.options.seed)
        if halves is not None:
            self.tell(halves)
        if not self.options.fix_head:
            for finding in diagnose(flatbuffer, self.contract, images):
                self.tell(f"warning: {finding.sentence}")
            return flatbuffer
        flatbuffer, self.contract, done = repair_head(flatbuffer, self.contract, images)
        for sentence in done or ("--fix-head found nothing to repair",):
            self.tell(sentence)
        return flatbuffer

    def _quantize(self, flatbuffer: bytes) -> tuple[Recipe, bytes, GateReport | None]:
        options, spec = self.options, self.contract.input
        images = None if self.drawn is None else self.drawn.images

        def make(chosen: Recipe) -> bytes:
            keep = options.keep_float if chosen.keeps_float or options.recipe != AUTO else ()
            made = quantize(flatbuffer, chosen, spec, images, keep)
            refuse_what_is_not(chosen, report_flatbuffer(made, str(self.out)), bool(keep))
            return made

        if options.recipe == AUTO:
            assert self.gate is not None  # refused without labelled images
            gate = self.gate
            choice = choose_recipe(
                tuple(RECIPES.values()), make, lambda made: gate.judge(made, self.contract), tell=self.tell
            )
            self._tell_verdict(choice.report)
            return choice.recipe, choice.flatbuffer, choice.report
        chosen = recipe(options.recipe)
        made = make(chosen)
        return chosen, made, self._judge(made)

    def _judge(self, quantized: bytes, engine: Engine | None = None) -> GateReport | None:
        """The gate's report; GateFailed, with the worst images beside the output, where it does not pass."""
        if self.gate is None:
            return None
        report = self.gate.judge(quantized, self.contract, engine)
        self._tell_verdict(report)
        return report

    def _tell_verdict(self, report: GateReport) -> None:
        assert self.gate is not None  # it gave the report
        for line in report_lines(report):
            self.tell(line)
        self.gate.require(report, self.out)

    def _write(self, chosen: Recipe, quantized: bytes, judged: GateReport | None) -> None:
        contract = self._signed(chosen.name)
        if judged is not None:
            contract = judged.written_into(contract)
        doubt = presence_warning(report_flatbuffer(quantized, str(self.out)), contract)
        if doubt is not None:
            self.tell(doubt)
        memory = ModelFile(self.out, quantized, "tflite", contract=contract, verified=True)
        golden = make_golden(Localizer(memory))
        manifest = self.drawn.manifest if self.drawn is not None and chosen.calibrated else None
        write_model(self.out, quantized, contract, calibration=manifest, golden=golden)
        report = inspect_model(self.out)
        megabytes, macs = report.file_bytes / 1e6, report.macs / 1e6
        self.tell(f"wrote {self.out}: {report.precision}, {megabytes:.2f} MB, {macs:.0f} million MACs")

    def _compile(self) -> Path:
        from edgeloc.converters.targets.edgetpu.compiler import MIN_MAPPED, to_edgetpu

        least = MIN_MAPPED if self.options.min_mapped is None else self.options.min_mapped
        return to_edgetpu(self.out, min_mapped=least, tell=self.tell)

    def _signed(self, name: str) -> Contract:
        hashes = {"float_model": self.source.digest}
        if self.drawn is not None:
            hashes["calibration"] = self.drawn.digest
        tools = {"edgeloc": __version__, **self.source.tools}
        return dataclasses.replace(self.contract, recipe=name, tools=tools, hashes=hashes)

    def _write_onnx(self, flatbuffer: bytes) -> Path:
        from edgeloc.converters.targets.tensorrt.convert import convert_tensorrt

        assert self.drawn is not None  # the target goes with the recipe int8

        def judge(model: bytes, contract: Contract, engine: Engine) -> Contract:
            judged = self._judge(model, engine)
            return contract if judged is None else judged.written_into(contract)

        report = convert_tensorrt(flatbuffer, self._signed(self.options.recipe), self.drawn, self.out, judge)
        self.tell(f"wrote {report}")
        return self.out


def _own_or_given(source: Source, given: Contract | None) -> Contract:
    if source.contract is not None and given is not None:
        raise UsageError(f"{source.name} has a contract already, inside or beside it: leave --contract out")
    contract = source.contract or given
    if contract is None:
        raise ContractError(
            f"{source.name} carries no contract: say what its input and outputs mean with --contract FILE.json"
        )
    return contract
