"""Measures what `pipeline` gains in results a second over a video file, and what it does to the age of results.

    python -m edgeloc.benchmarks.pipeline [VIDEO ...]

Both loops take turns, run by run over the same frames, so that a change of the machine's speed meets both. Without a
video, scenes are drawn and written to one (640x480, Motion JPEG). The ages of a live camera are measured with a made-up
camera of 30 fps and a network that sleeps 60 ms, so that they are those of the loop and the preprocessing alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc import Frame, GateFailed, ModelFile, Result, RunSummary, SceneGenerator, run
from edgeloc.engines import Engine
from edgeloc.errors import EdgelocError
from edgeloc.localizer import Localizer
from edgeloc.loop.slot import Mode
from edgeloc.models import SHIPPED_INT8

__all__ = ["Way", "main", "measure", "measure_live"]

LEAST_RATIO = 1.15
"""Results a second over a file, as a multiple of the plain loop's."""

_SIZE, _SCENES, _FPS, _INVOKE_S = (640, 480), 60, 30, 0.06
_LIVE = f"synthetic://?seed=1&size=640x480&fps={_FPS}"

Localize = Callable[[Frame], Result]


class _Sleeping(Engine):
    """Another engine's answer to nothing, each time after a while."""

    name = "sleeping"

    def __init__(self, real: Engine) -> None:
        self.inputs, self.outputs = real.inputs, real.outputs
        ((_, image),) = real.inputs.items()
        self._answer = real.invoke(np.zeros(image.shape, image.dtype))

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> Engine:
        raise NotImplementedError

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        time.sleep(_INVOKE_S)
        return dict(self._answer)


class Way(NamedTuple):
    """What both loops gave over one source: medians over the rounds, the plain loop's first.

    `rates` are results a second, `p50_ms` and `p99_ms` percentiles of the results' ages in ms, `ratio` is the median
    over the rounds of the pipeline's rate as a multiple of the plain loop's.
    """

    name: str
    rates: Sequence[float]
    p50_ms: Sequence[float]
    p99_ms: Sequence[float]
    ratio: float

    def __str__(self) -> str:
        """One row of the table."""
        pairs = "".join(f"{value:>8.1f}" for pair in (self.rates, self.p50_ms, self.p99_ms) for value in pair)
        return f"{self.name:<28.28}{pairs}{self.ratio:>8.3f}"


HEAD = f"{'':<28}{'results a second':>16}{'age p50, ms':>16}{'age p99, ms':>16}\n{'':<28}" + (
    f"{'plain':>8}{'ahead':>8}" * 3 + f"{'ratio':>8}"
)


def measure(camera: str, localizer: Localize, rounds: int, frames: int, mode: Mode = "newest", name: str = "") -> Way:
    """Run both loops in turn over the same frames.

    Parameters:
        camera: a video, or the URI of a camera.
        localizer: what both run.
        rounds: how often each of them runs.
        frames: the results of one run.
        mode: of a live camera.
        name: the row's; the camera's without one.
    """
    summaries: tuple[list[RunSummary], list[RunSummary]] = ([], [])
    for number in range(rounds):
        for ahead in (False, True) if number % 2 else (True, False):
            summaries[ahead].append(run(camera, localizer, mode=mode, pipeline=ahead, frames=frames))
    rates, p50_ms, p99_ms = (
        [statistics.median(getattr(one, field) for one in each) for each in summaries]
        for field in ("fps", "age_ms_p50", "age_ms_p99")
    )
    ratio = statistics.median(ahead.fps / plain.fps for plain, ahead in zip(*summaries, strict=True))
    return Way(name or os.path.basename(camera), rates, p50_ms, p99_ms, ratio)


def measure_live(rounds: int, frames: int) -> list[Way]:
    """The same in each mode of a live camera, with a network that sleeps."""
    real = Localizer(SHIPPED_INT8)
    localizer = Localizer(real.model, engine=_Sleeping(real.engine))
    modes: tuple[Mode, ...] = ("newest", "fresh")
    return [measure(_LIVE, localizer, rounds, frames, mode, f"live, {mode}") for mode in modes]


@contextmanager
def _videos(given: Sequence[str]) -> Iterator[Sequence[str]]:
    """Those given, or one of drawn scenes that is gone afterwards."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scenes 640x480.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), _FPS, _SIZE)
        scenes = SceneGenerator(0, _SIZE)
        pictures = [scenes.scene(number).pixels for number in range(_SCENES)]
        for picture in pictures * 5:
            writer.write(picture)
        writer.release()
        yield [path]


def check(measured: Sequence[Way]) -> None:
    """GateFailed where a file gained too little."""
    for way in measured:
        if way.ratio < LEAST_RATIO:
            raise GateFailed(f"{way.name}: {way.ratio:.3f} times the plain loop's results a second, not {LEAST_RATIO}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where a file gains too little."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeloc.benchmarks.pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="video files (default: drawn scenes)")
    parser.add_argument("--model", default=str(SHIPPED_INT8), help="the model over the files (default: the shipped)")
    parser.add_argument("--threads", type=int, help="threads of the engine (default: the runtime's)")
    parser.add_argument("--rounds", type=int, default=10, help="runs of each loop (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=150, help="results of a run (default: %(default)s)")
    parser.add_argument("--no-live", action="store_true", help="leave the live camera out")
    args = parser.parse_args(argv)
    try:
        localizer = Localizer(args.model, threads=args.threads)
        print(f"{args.rounds} runs of {args.frames} frames each on {localizer.engine.name} {localizer.engine.version}")
        print(HEAD, flush=True)
        measured = []
        with _videos(args.videos) as videos:
            for camera in videos:
                measured.append(measure(camera, localizer, args.rounds, args.frames))
                print(measured[-1], flush=True)
        for way in [] if args.no_live else measure_live(max(1, args.rounds // 5), args.frames):
            print(way, flush=True)
        check(measured)
    except EdgelocError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
