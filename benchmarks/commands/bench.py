"""The command `edgeloc bench`: its flags and its closing table; the measuring is in `edgeloc.benchmarks.bench`."""

from __future__ import annotations

import argparse

from edgeloc._support.numbers import at_least_one, at_least_zero

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "measure latency of each stage, energy and what quantization cost, into result.json"
EXTRA: str | None = None
NEEDS: tuple[str, ...] = ()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL.tflite", help="the quantized model")
    add("--against", metavar="FLOAT", help="the float model to compare with, .tflite or .keras")
    add("--data", metavar="DATA", help="labelled images: a folder, an annotation file, or synthetic")
    add("--split", metavar="NAME", help="which split of the data, such as val (default: all of it)")
    add("--out", metavar="RESULT.json", default="result.json", help="where the result goes (default: %(default)s)")
    add("--frames", metavar="N", type=at_least_one, default=200, help="frames to time (default: %(default)s)")
    add(
        "--warmup",
        metavar="N",
        type=at_least_zero,
        default=20,
        help="frames before them, kept apart (default: %(default)s)",
    )
    add("--camera", metavar="URI", help="time frames of this camera (default: the data's images, or made scenes)")
    add(
        "--limit",
        type=at_least_one,
        metavar="N",
        help="compare on N images, spread evenly over the groups (default: all)",
    )
    add(
        "--power",
        metavar="METER",
        default="auto",
        help="power meter: auto, none, or a URI such as pmic://, ina219://1/0x40?shunt=0.1, csv://power.csv",
    )
    add("--threads", metavar="N", type=at_least_one, help="threads of the engine (default: its own choice)")
    add(
        "--engine",
        metavar="NAME",
        default="auto",
        help="auto, litert, tflite-runtime, tensorflow, edgetpu or tensorrt, as in edgeloc run (default: auto)",
    )
    add("--contract", metavar="FILE.json", help="the contract of a model that carries none")
    add("--no-negatives", action="store_true", help="no background crops for the presence figures")
    add("--skip-bad", action="store_true", help="leave out images and rows that cannot be read, and count them")


def run(arguments: argparse.Namespace) -> int:
    """Measure, save and print; 0 when done."""
    from edgeloc.benchmarks.bench import BenchOptions, bench, closing_table

    result = bench(
        BenchOptions(
            model=arguments.model,
            out=arguments.out,
            against=arguments.against,
            data=arguments.data,
            split=arguments.split,
            camera=arguments.camera,
            frames=arguments.frames,
            warmup=arguments.warmup,
            limit=arguments.limit,
            threads=arguments.threads,
            engine=arguments.engine,
            contract=arguments.contract,
            negatives=not arguments.no_negatives,
            skip_bad=arguments.skip_bad,
            power=arguments.power,
        ),
        tell=print,
    )
    print(closing_table(result, arguments.out))
    return 0
