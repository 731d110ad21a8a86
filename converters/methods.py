"""Measures what each method of quantization keeps of the box, for each head of the reference localizer.

    python -m edgeloc.converters.methods --data DATA --backbone-weights WEIGHTS --out FOLDER

Each head is trained into FOLDER unless FOLDER/HEAD.keras is there already, fine-tuned with fake
quantization into FOLDER/HEAD-qat.keras likewise, quantized by every method from the same calibration images, and
compared with its float network on the validation split. The table goes to FOLDER/methods.md, its figures
to FOLDER/methods.json. Latencies are those of this machine: read their ratio alone.
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
from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.converters.quantization.quantize import RECIPES, quantize, to_integers
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.data import open_dataset
from edgeloc.data.sample import spread
from edgeloc.engines import open_engine
from edgeloc.errors import ContractError, EdgelocError, UsageError
from edgeloc.evaluation.figures import Regression, format_drop, format_interval, format_share, regression_figures
from edgeloc.evaluation.pairing import RegressionRecorder, side_in_memory
from edgeloc.model.contract import Contract, OutputSpec

__all__ = ["Measured", "main", "measure_network"]

HEADS = ("vector", "distribution", "grid")
_ROUNDS = 60
_WARM_UP = 5
_COLUMNS = (
    "network", "method", "mean IoU float", "drop", "95 % interval", "IoU(f,q)", "small", "class agreement",
    "MB", "latency to float",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A name for the table, the model that the method gives, and the contract that this one goes by."""

    name: str
    flatbuffer: bytes
    contract: Contract


@dataclass(frozen=True)
class Measured:
    """One row: a method on a network, its figures, its size in MB and its median latency relative to float."""

    network: str
    method: str
    regression: Regression
    megabytes: float
    latency_ratio: float

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        figures = self.regression
        return (
            self.network, self.method, format_share(figures.mean_iou_float),
            format_drop(figures.mean_iou_float, figures.mean_iou_quantized),
            f"{format_interval(figures.drop_ci95)} by {figures.ci_by}",
            format_share(figures.mean_iou_float_to_quantized),
            format_share(figures.by_size["small"].mean_iou_float_to_quantized),
            format_share(figures.classes.agreement), f"{self.megabytes:.2f}", f"{self.latency_ratio:.2f}",
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images."""
        figures = {key: value for key, value in asdict(self.regression).items() if key not in ("rows", "worst")}
        return {"network": self.network, "method": self.method, "megabytes": round(self.megabytes, 3),
                "latency_ratio": round(self.latency_ratio, 3), **figures}  # fmt: skip


def measure_network(
    name: str, flatbuffer: bytes, contract: Contract, methods: Sequence[Method], samples: Sequence[Any]
) -> Iterator[Measured]:
    """Compare each method's model with the float one on the same samples, and time all of them in turns."""
    ratios = _latency_ratios(flatbuffer, [method.flatbuffer for method in methods])
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
        yield Measured(name, method.name, figures, len(method.flatbuffer) / 1e6, ratio)


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
    """Every method that `edgeloc convert` offers, and int8 without bias correction."""
    spec = contract.input
    found = [Method("int8, biases as they are", to_integers(flatbuffer, RECIPES["int8"], spec, images), contract)]
    found += [
        Method(name, quantize(flatbuffer, recipe, spec, images), contract)
        for name, recipe in RECIPES.items()
        if recipe.weights != "float32"
    ]
    return found


def _plain_int8(flatbuffer: bytes, contract: Contract, images: Any) -> list[Method]:
    return [Method("int8", quantize(flatbuffer, RECIPES["int8"], contract.input, images), contract)]


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
    int8 = RECIPES["int8"]
    fixed, apart, _ = repair_head(flatbuffer, joined, images)
    methods = [
        Method("int8", quantize(flatbuffer, int8, contract.input, images), joined),
        Method("int8, head repaired", quantize(fixed, int8, contract.input, images), apart),
    ]
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


def _measure_all(args: argparse.Namespace) -> Iterator[Measured]:
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
