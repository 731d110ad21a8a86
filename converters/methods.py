"""Measures what each method of quantization keeps of the box, for each head of the reference localizer.

    python -m edgeloc.converters.methods --data DATA --backbone-weights WEIGHTS --out FOLDER

Each head is trained into FOLDER unless FOLDER/HEAD.keras is there already, fine-tuned with fake
quantization into FOLDER/HEAD-qat.keras likewise, quantized by every method from the same calibration images, and
compared with its float network on the validation split. The table goes to FOLDER/methods.md, its figures
to FOLDER/methods.json. Latencies are those of this machine: read their ratio alone.

    python -m edgeloc.converters.methods --data DATA --model localizer.keras --draws 3 --out FOLDER

does so for a network of yours, localizer or detector, with and without each of the steps before int8, on several draws
of calibration images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeloc._support.files import atomic_path
from edgeloc._support.terminal import progress
from edgeloc.converters.calibration import calibrate
from edgeloc.converters.gate import DetectorGate
from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.converters.quantization.bias_correction import correct_biases
from edgeloc.converters.quantization.box_correction import BoxCorrection
from edgeloc.converters.quantization.equalization import equalize
from edgeloc.converters.quantization.quantize import BIAS_IMAGES, RECIPES, quantize, to_integers
from edgeloc.converters.sources import open_source
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.data import Dataset, open_dataset
from edgeloc.data.sample import spread
from edgeloc.engines import open_engine
from edgeloc.errors import ContractError, EdgelocError, UsageError
from edgeloc.evaluation.detection import DetectionRegression
from edgeloc.evaluation.figures import Regression, format_drop, format_interval, format_share, regression_figures
from edgeloc.evaluation.pairing import RegressionRecorder, side_in_memory
from edgeloc.model.contract import Contract, OutputSpec, read_contract

__all__ = ["Measured", "main", "measure_network"]

HEADS = ("vector", "distribution", "grid")
_ROUNDS = 60
_WARM_UP = 5
_COLUMNS = (
    "network", "method", "mean IoU float", "drop", "95 % interval", "IoU(f,q)", "small", "class agreement",
    "MB", "latency to float", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A name for the table, the model that the method gives, the contract that this one goes by, and what it took."""

    name: str
    flatbuffer: bytes
    contract: Contract
    seconds: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One row: a method on a network, its figures, size in MB, median latency relative to float, and seconds."""

    network: str
    method: str
    regression: Regression | DetectionRegression
    megabytes: float
    latency_ratio: float
    seconds: float = 0.0

    def cells(self) -> tuple[str, ...]:
        """The row as text; of a detector the mAP stands for the mean IoU."""
        return (
            self.network, self.method, *_figures(self.regression),
            f"{self.megabytes:.2f}", f"{self.latency_ratio:.2f}", f"{self.seconds:.0f}",
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images."""
        figures = {key: value for key, value in asdict(self.regression).items() if key not in ("rows", "worst")}
        measured = {"megabytes": self.megabytes, "latency_ratio": self.latency_ratio, "seconds": self.seconds}
        rounded = {key: round(value, 3) for key, value in measured.items()}
        return {"network": self.network, "method": self.method, **rounded, **figures}


def _figures(figures: Regression | DetectionRegression) -> tuple[str, ...]:
    if isinstance(figures, DetectionRegression):
        before, after = figures.precision_float.ap, figures.precision_quantized.ap
        near, small = figures.all.box_iou, figures.by_size["small"].box_iou
        agreement = figures.agreement
    else:
        before, after = figures.mean_iou_float, figures.mean_iou_quantized
        near, small = figures.mean_iou_float_to_quantized, figures.by_size["small"].mean_iou_float_to_quantized
        agreement = figures.classes.agreement
    return (
        format_share(before), format_drop(before, after), f"{format_interval(figures.drop_ci95)} by {figures.ci_by}",
        format_share(near), format_share(small), format_share(agreement),
    )  # fmt: skip


def measure_network(
    name: str, flatbuffer: bytes, contract: Contract, methods: Sequence[Method], samples: Sequence[Any]
) -> Iterator[Measured]:
    """Compare each method's model with the float one on the same samples, and time all of them in turns."""
    ratios = _latency_ratios(flatbuffer, [method.flatbuffer for method in methods])
    if not contract.finds_one:
        gate = DetectorGate(flatbuffer, contract, Dataset(name, name, contract.labels, tuple(samples)))
        for method, ratio in zip(methods, ratios, strict=True):
            found = gate.judge(method.flatbuffer, method.contract).regression
            yield Measured(name, method.name, found, len(method.flatbuffer) / 1e6, ratio, method.seconds)
        return
    before = side_in_memory(name, flatbuffer, contract, remember=True)
    for method, ratio in zip(methods, ratios, strict=True):
        after = side_in_memory(f"{name}, {method.name}", method.flatbuffer, method.contract)
        recorder = RegressionRecorder(before, after, negatives=False)
        recorder.record(progress(samples, label=f"{name}, {method.name}"))
        figures = regression_figures(
            recorder.rows,
            threshold_float=before.threshold,
            threshold_quantized=after.threshold,
            labels=contract.labels,
        )
        yield Measured(name, method.name, figures, len(method.flatbuffer) / 1e6, ratio, method.seconds)


def _latency_ratios(flatbuffer: bytes, others: Sequence[bytes]) -> list[float]:
    """The median invoke of each on one thread as a multiple of the float model's; they take turns."""
    engines = [open_engine("auto", model, threads=1) for model in (flatbuffer, *others)]
    inputs = [np.zeros(port.shape, port.dtype) for engine in engines for port in engine.inputs.values()]
    times: list[list[float]] = [[] for _ in engines]
    for round_number in range(_WARM_UP + _ROUNDS):
        for engine, tensor, kept in zip(engines, inputs, times, strict=True):
            start = time.perf_counter()
            engine.invoke(tensor)
            if round_number >= _WARM_UP:
                kept.append(time.perf_counter() - start)
    first, *rest = (float(np.median(kept)) for kept in times)
    return [median / first for median in rest]


def _methods(flatbuffer: bytes, contract: Contract, images: Any) -> list[Method]:
    """Every method that `edgeloc convert` offers, and int8 without the steps before it."""
    spec = contract.input
    found = [Method("int8, biases as they are", to_integers(flatbuffer, RECIPES["int8"], spec, images), contract)]
    found += [
        Method(name, quantize(flatbuffer, recipe, spec, images, boxes=_boxes(flatbuffer, contract, images)), contract)
        for name, recipe in RECIPES.items()
        if recipe.weights != "float32"
    ]
    return found


def _boxes(flatbuffer: bytes, contract: Contract, images: Any) -> BoxCorrection:
    return BoxCorrection(flatbuffer, contract, images, lambda finding: print(finding, file=sys.stderr))


def _steps(flatbuffer: bytes, contract: Contract, images: Any) -> list[Method]:
    """Int8 with bias correction, with and without equalization before it and box correction behind it."""
    boxes, methods = _boxes(flatbuffer, contract, images), []

    def make(model: bytes) -> bytes:
        return to_integers(model, RECIPES["int8"], contract.input, images)

    for name in ("", ", equalization"):
        start = time.perf_counter()
        corrected = correct_biases(equalize(flatbuffer, images) if name else flatbuffer, images[:BIAS_IMAGES])
        made, middle = make(corrected), time.perf_counter()
        methods.append(Method(f"int8{name}", made, contract, middle - start))
        nearer = boxes(corrected, make)
        methods.append(Method(f"int8{name}, box correction", nearer, contract, time.perf_counter() - start))
    return methods


def _plain_int8(flatbuffer: bytes, contract: Contract, images: Any) -> list[Method]:
    boxes = _boxes(flatbuffer, contract, images)
    return [Method("int8", quantize(flatbuffer, RECIPES["int8"], contract.input, images, boxes=boxes), contract)]


def _joined(path: Path, contract: Contract, images: Any) -> tuple[bytes, Contract, list[Method]]:
    """The vector head with all of its numbers in one tensor, as the textbook has it; then with its head repaired."""
    import keras

    source = KerasSource(path)
    outputs, box = source.network.output, contract.output("box")
    if box is None:
        raise UsageError(f"{path} has no output for the box alone: it is no vector head")
    order = {"presence": ("presence",), box.tensor: ("cx", "cy", "w", "h")}
    order["class"] = tuple(f"class:{index}" for index in range(len(contract.labels)))
    together = keras.layers.Concatenate(name="vector")([outputs[name] for name in order])
    source.network = keras.Model(source.network.inputs, {"vector": together})
    slots = tuple(slot for slots in order.values() for slot in slots)
    vector = OutputSpec("vector", "vector", "sigmoid", slots, class_activation="softmax")
    joined = dataclasses.replace(contract, outputs=(vector,))
    flatbuffer = source.to_tflite(contract.input)
    fixed, apart, _ = repair_head(flatbuffer, joined, images)
    (repaired,) = _plain_int8(fixed, apart, images)
    methods = [*_plain_int8(flatbuffer, joined, images), dataclasses.replace(repaired, name="int8, head repaired")]
    return flatbuffer, joined, methods


def _trained(head: str, args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The head's network and the one tuned for int8, trained by the command where the files are not there."""
    network, tuned = args.out / f"{head}.keras", args.out / f"{head}-qat.keras"
    data = ["--training", args.data]
    if not network.exists():
        size, epochs = str(args.input_size), str(args.epochs)
        more = ["--backbone-weights", args.backbone_weights, "--head", head, "--input-size", size, "--epochs", epochs]
        _command(["train", *data, *more, "--out", str(network)])
    if args.qat and not tuned.exists():
        _command(["train", *data, "--resume", str(network), "--qat", "--out", str(tuned)])
    return network, tuned if tuned.exists() else None


def _command(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-I", "-m", "edgeloc", *arguments], check=True)


def _measure_model(args: argparse.Namespace) -> Iterator[Measured]:
    source = open_source(args.model)
    contract = source.contract or (read_contract(args.contract) if args.contract else None)
    if contract is None:
        raise ContractError(f"{args.model} carries no contract", hint="describe it with {contract} FILE.json")
    contract = source.adopt(contract)
    flatbuffer = source.to_tflite(contract.input)
    validation = open_dataset(args.data, split=None if args.calibration else "val")
    labelled = [sample for sample in validation if sample.labelled]
    samples = spread(labelled or list(validation), args.max_images)
    calibration = open_dataset(args.calibration) if args.calibration else open_dataset(args.data, split="train")
    for seed in range(args.draws):
        images = calibrate(calibration, contract.input, args.calibration_images, seed).images
        fixed, apart, _ = repair_head(flatbuffer, contract, images) if args.fix_head else (flatbuffer, contract, ())
        yield from measure_network(
            f"{Path(args.model).stem}, draw {seed}", flatbuffer, contract, _steps(fixed, apart, images), samples
        )


def _measure_all(args: argparse.Namespace) -> Iterator[Measured]:
    if args.model:
        yield from _measure_model(args)
        return
    samples = spread([s for s in open_dataset(args.data, split="val") if s.labelled], args.max_images)
    calibration = open_dataset(args.data, split="train")
    for head in args.heads:
        path, tuned = _trained(head, args)
        source = KerasSource(path)
        if source.contract is None:
            raise ContractError(f"{path} carries no contract: train it with edgeloc train")
        contract, flatbuffer = source.contract, source.to_tflite(source.contract.input)
        images = calibrate(calibration, contract.input, args.calibration_images, 0).images
        yield from measure_network(head, flatbuffer, contract, _methods(flatbuffer, contract, images), samples)
        if tuned is not None:
            further = KerasSource(tuned).to_tflite(contract.input)
            yield from measure_network(
                f"{head} after QAT", further, contract, _plain_int8(further, contract, images), samples
            )
        if head == "vector":
            one, joined, methods = _joined(path, contract, images)
            yield from measure_network("vector, one output", one, joined, methods, samples)


def table(rows: Sequence[Measured]) -> str:
    """The rows in Markdown."""
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, measure, write the table and print it."""
    parser = argparse.ArgumentParser(prog="edgeloc.converters.methods", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, help="a labelled data set with the splits train and val")
    add("--model", help="measure this network, of any source, instead of the heads")
    add("--contract", help="the model's, where it carries none")
    add("--calibration", help="images to calibrate the model on (default: the split train of the data)")
    add("--draws", type=int, default=1, help="of the model's calibration images (default: 1)")
    add("--fix-head", action="store_true", help="repair the model's head first")
    add("--out", required=True, type=Path, metavar="FOLDER", help="networks, table and figures")
    add("--heads", nargs="+", choices=HEADS, default=HEADS, help="default: all three")
    add("--backbone-weights", default="imagenet", help="the backbone's, as for edgeloc train")
    add("--input-size", type=int, default=160, help="side of the input of a head that is trained (default: 160)")
    add("--epochs", type=int, default=10, help="of a head that is trained (default: 10)")
    add("--calibration-images", type=int, default=200, help="images to calibrate on (default: 200)")
    add("--max-images", type=int, help="measure on so many images, spread over the groups (default: all)")
    add("--qat", action="store_true", help="quantization-aware training too")
    args = parser.parse_args(argv)
    rows: list[Measured] = []
    try:
        for row in _measure_all(args):
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    except EdgelocError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    finally:
        # Nothing measured is lost.
        if rows:
            _write(args.out, rows)
    return 0


def _write(folder: Path, rows: Sequence[Measured]) -> None:
    texts = {"methods.md": table(rows), "methods.json": json.dumps([row.to_dict() for row in rows], indent=2)}
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
