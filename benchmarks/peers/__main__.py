"""Measures edgeloc beside other ways to run the same model, frame by frame in one run.

    python -m edgeloc.benchmarks.peers [--onnx localizer.onnx] [--ssd detector.tflite]

The peers take turns, so that a change of the machine's speed meets all: of ten frames in a row, the first of which does
not count, so that each finds the caches as where it runs alone. The process keeps to as many cores as threads. Those on
edgeloc's engine share its loaded network. A peer that finds other objects than edgeloc is not timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edgeloc._support.lookup import import_named
from edgeloc._support.numbers import at_least_one
from edgeloc._support.terminal import quiet_stderr
from edgeloc.benchmarks import decoding
from edgeloc.benchmarks.peers import PEERS, networks
from edgeloc.benchmarks.peers.base import Case, CaseName, Edgeloc, Found, Peer, Timed
from edgeloc.errors import EdgelocError, GateFailed, UsageError, first_line
from edgeloc.localizer import Localizer
from edgeloc.model.arrangement import Asked
from edgeloc.model.families import contract_like
from edgeloc.model.file import ModelFile
from edgeloc.models import SHIPPED_INT8
from edgeloc.scenes import SceneGenerator
from edgeloc.types import Pixels

__all__ = ["MOST_BEYOND", "MOST_WHOLE", "Measured", "Row", "main", "measure", "table"]

MOST_BEYOND = {"Ultralytics": 0.3, "MediaPipe Tasks": 0.3}
MOST_WHOLE = 1.0
_FRAME_SIZE, _SCENES = (640, 480), 8
_BURST = 10
_LEAST_IOU = 0.9  # of boxes of the same model in another arithmetic


class Row(NamedTuple):
    """Medians of one peer in microseconds a frame; `invoke_us` is None where the network cannot be timed alone."""

    name: str
    engine: str
    whole_us: float
    invoke_us: float | None
    beyond_us: float | None
    differs: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class Measured:
    """One model: edgeloc's row and its peers', and why others have none.

    Parameters:
        case: what was measured.
        rows: edgeloc first.
        missing: by name, why a peer was not measured.
    """

    case: Case
    rows: tuple[Row, ...]
    missing: dict[str, str]

    def failures(self) -> Iterator[str]:
        """Each limit that does not hold, in words."""
        ours, *others = self.rows
        for row in others:
            most = MOST_BEYOND.get(row.name)
            share = _ratio(ours.beyond_us, row.beyond_us)
            if most is not None and share is not None and share > most:
                yield f"{self.case.title}: beyond invoke {share:.3f} of {row.name}'s, at most {most:g}"
        same = [row for row in others if row.whole and row.engine == ours.engine]
        if same:
            fastest = min(same, key=lambda row: row.whole_us)
            if ours.whole_us > MOST_WHOLE * fastest.whole_us:
                share = ours.whole_us / fastest.whole_us
                yield f"{self.case.title}: whole frame {share:.3f} of {fastest.name}'s, at most {MOST_WHOLE:g}"


def measure(cases: dict[CaseName, Case], frames: int, threads: int) -> list[Measured]:
    """Run edgeloc and every peer that is installed on each model."""
    return [_measure(name, case, frames, threads) for name, case in cases.items()]


def _measure(name: CaseName, case: Case, frames: int, threads: int) -> Measured:
    images = [SceneGenerator(1, _FRAME_SIZE).scene(number).pixels for number in range(_SCENES)]
    loaded, missing = _load(name, case, threads)
    ours = Edgeloc(case, threads)
    for peer_name, peer in list(loaded.items()):
        differs = _difference(ours, peer, images)
        if differs:
            missing[peer_name] = differs
            del loaded[peer_name]
    running: dict[str, Peer] = {"edgeloc": ours, **loaded}
    try:
        times = _take_turns(running, images, frames)
    finally:
        for peer in loaded.values():
            peer.close()
    rows = tuple(_row(name, peer, case, times[name]) for name, peer in running.items())
    return Measured(case, rows, missing)


def _load(name: CaseName, case: Case, threads: int) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that take this model, and why others that would do not run here."""
    loaded, missing = {}, {}
    for peer_name, where in PEERS.items():
        kind: type[Peer] = import_named(where)
        if kind.case != name:
            continue
        if kind.package and importlib.util.find_spec(kind.package) is None:
            missing[peer_name] = f"not installed: {kind.install}"
            continue
        try:
            with quiet_stderr():
                loaded[peer_name] = kind(case, threads)
        except Exception as error:  # other libraries' errors have no common base
            missing[peer_name] = f"does not load: {first_line(error)}"
    return loaded, missing


def _difference(ours: Peer, peer: Peer, images: Sequence[Pixels]) -> str:
    """What a peer finds otherwise; "" where it answers as edgeloc does, or finds nothing by design."""
    for image in images:
        expected = ours(image)
        try:
            found = peer(image)
        except Exception as error:  # other libraries' errors have no common base
            return f"does not run: {first_line(error)}"
        if not peer.whole:
            continue
        if len(found) != len(expected):
            return f"finds {len(found)} objects where edgeloc finds {len(expected)}"
        shares = [_best(one, found) for one in expected]
        if shares and min(shares) < _LEAST_IOU:
            return f"finds other boxes (IoU {min(shares):.2f})"
    return ""


def _best(one: Found, found: Sequence[Found]) -> float:
    return max((one.box.iou(other.box) for other in found if other.label == one.label), default=0.0)


def _take_turns(
    running: dict[str, Peer], images: Sequence[Pixels], frames: int
) -> dict[str, list[tuple[float, float]]]:
    """Of each peer the seconds of each frame, and of its network."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    names, rng = list(running), np.random.default_rng(0)
    for first in range(0, _BURST * (1 + math.ceil(frames / (_BURST - 1))), _BURST):
        for name in map(names.__getitem__, rng.permutation(len(names))):
            burst = [_timed(running[name], images[(first + number) % len(images)]) for number in range(_BURST)]
            times[name] += burst[1:] if first else []
    return {name: spent[:frames] for name, spent in times.items()}


def _timed(peer: Peer, image: Pixels) -> tuple[float, float]:
    """The seconds that a peer takes for an image, and those of its network."""
    before, skipped = _seconds(peer.network), _seconds(peer.left_out)
    start = time.perf_counter()
    peer(image)
    spent = time.perf_counter() - start
    return spent - _seconds(peer.left_out) + skipped, _seconds(peer.network) - before


def _seconds(timed: Timed | None) -> float:
    return 0.0 if timed is None else timed.seconds


def _row(name: str, peer: Peer, case: Case, times: Sequence[tuple[float, float]]) -> Row:
    spent = np.array(times) * 1e6
    series = (spent[:, 0], spent[:, 1], spent[:, 0] - spent[:, 1])
    whole, invoke, beyond = (float(np.median(values)) for values in series)
    if peer.network is None:
        # A network that answers at once leaves nothing to separate.
        return Row(name, peer.engine, whole, None, whole if case.prepared else None, peer.differs, peer.whole)
    return Row(name, peer.engine, whole, invoke, beyond if peer.whole else None, peer.differs, peer.whole)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs


def table(measured: Measured) -> str:
    """What was measured on one model, as text."""
    ours = measured.rows[0]
    head = f"{'median, us':<21}{'engine':<12}{'whole':>9}{'invoke':>9}{'beyond':>9}{'edgeloc whole':>15}{'beyond':>8}"
    lines = [measured.case.title, head]
    for row in measured.rows:
        figures = (row.whole_us, row.invoke_us, row.beyond_us)
        shares = (_ratio(ours.whole_us, row.whole_us), _ratio(ours.beyond_us, row.beyond_us))
        cells = [f"{row.name:<21}{row.engine:<12}", *(_cell(value, 9, 0) for value in figures)]
        if row is not ours:
            cells += [_cell(shares[0] if row.whole else None, 15, 3), _cell(shares[1], 8, 3)]
        notes = f"  {', '.join(row.differs)}" if row.differs else ""
        lines.append("".join(cells) + notes)
    return "\n".join([*lines, *(f"{name}: {why}" for name, why in measured.missing.items())])


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"


def cases(onnx: str | None, ssd: str | None, threads: int, engine: str = "litert") -> dict[CaseName, Case]:
    """The models: the localizer that ships, its ONNX form where there is one, and two prepared detectors."""
    made: dict[CaseName, Case] = {
        "localizer": Case("the shipped localizer, int8 .tflite", Localizer(SHIPPED_INT8, engine, threads))
    }
    if onnx is not None:
        made["onnx"] = Case(f"{onnx}, ONNX", Localizer(onnx, "onnxruntime", threads))
    yolo = networks.yolo(decoding.output(), decoding.contract().input.width, decoding.LEVELS)
    network = ModelFile(Path("yolo"), yolo, "tflite", contract=decoding.contract(), trusted=True)
    title = "a YOLOv8 of 80 classes, int8 .tflite that answers at once: its invoke means nothing"
    made["yolo"] = Case(title, Localizer(network, engine, threads), prepared=True)
    made["ssd"] = _ssd(engine, threads) if ssd is None else Case(f"{ssd}, SSD", _detector(ssd, engine, threads))
    return made


def _detector(path: str, engine: str, threads: int) -> Localizer:
    found = Localizer(path, engine, threads)
    if found.contract.detector is None:
        raise UsageError(field="ssd", value=path, allowed="a detector: this one finds a known number of objects")
    return found


def _ssd(engine: str, threads: int) -> Case:
    labels = tuple(map(str, range(networks.SSD_CLASSES)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ssd.tflite"
        path.write_bytes(networks.ssd())
        contract = contract_like("ssd-postprocess", path, Asked(labels=labels))
        network = ModelFile(path, path.read_bytes(), "tflite", contract=contract, trusted=True)
    title = "an SSD with its own suppression, .tflite that answers at once: its invoke means nothing"
    return Case(title, Localizer(network, engine, threads), prepared=True)


def _keep_to(threads: int) -> None:
    """As many cores as threads, so that no runtime has more than another."""
    cv2.setNumThreads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when a ratio is over its limit."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeloc.benchmarks.peers", description="Time edgeloc beside other runtimes and programs."
    )
    add = parser.add_argument
    add("--onnx", metavar="FILE", help="the localizer as ONNX with its contract, for ONNX's runtimes")
    add("--ssd", metavar="FILE", help="a uint8 SSD with its contract (default: one that answers at once)")
    add("--frames", type=at_least_one, default=300, help="frames for each (default: %(default)s)")
    add("--threads", type=at_least_one, default=1, help="threads of each (default: %(default)s)")
    arguments = parser.parse_args(argv)
    _keep_to(arguments.threads)
    failures: list[str] = []
    try:
        models = cases(arguments.onnx, arguments.ssd, arguments.threads)
        print(
            f"{arguments.frames} frames of 640x480 for each, ten in a row in turns, on as many cores as threads: "
            f"{arguments.threads}"
        )
        for measured in measure(models, arguments.frames, arguments.threads):
            print(f"\n{table(measured)}")
            failures += measured.failures()
    except EdgelocError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return error.exit_status
    if arguments.onnx is None:
        print("\nONNX Runtime, OpenCV DNN and ncnn: give the model as ONNX with --onnx")
    for failure in failures:
        print(f"over the limit: {failure}")
    return GateFailed.exit_status if failures else 0


if __name__ == "__main__":
    sys.exit(main())
