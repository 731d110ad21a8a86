"""Measures the tracker on labelled video clips, with a simulated detector or with a model.

    python -m edgeloc.benchmarks.tracking LABELS.json
    python -m edgeloc.benchmarks.tracking LABELS.json --model MODEL.tflite

The detector is the truth with Gaussian noise, a share of the box's sides, and misses a third of the frames: each by
itself, or in bursts. Scored is the share of frames whose box has an IoU of 0.5 or more with the truth, now and 200 ms
later; no answer is a miss. LABELS.json is a list of clips, each with `boxes`: [x, y, w, h] in pixels or null a frame,
at 30 frames a second, and `w` and `h`, the size of a frame.

With a model the clips themselves are read, from the file `video` in the folder of LABELS.json, and it is also measured
what `--follow` gains. Scored in addition, by the object's side as a share of the frame's (the roots of the areas): a
centre within the true box, and a box that does not touch it. Several files of labels, each with a `--model` of its own,
make one table, for networks that were trained on the other files' clips.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeloc._support.json import parse_json
from edgeloc.cameras import open_camera
from edgeloc.errors import DataError, EdgelocError, UsageError
from edgeloc.localizer import Localizer
from edgeloc.loop.follow import Follower
from edgeloc.loop.tracking import Tracker
from edgeloc.types import Box, Detection, Frame, Result

__all__ = ["Clip", "Detector", "Share", "cost_us", "last_box", "main", "read_clips", "score", "tracked", "untracked"]

FPS = 30.0
LEAD_FRAMES = 6
SEEDS = (200, 201, 202)
_MISSED = 1 / 3
# Of bursts: to begin in a frame, and to go on in the next; a third of the time in all, 6.7 frames long.
_BEGINS, _GOES_ON = 0.075, 0.85

MODES = ("no tracking", "tracker", "following")
# Sides from which a follower looks no closer than a frame of 4:3 shows anyway, and half of that; a clip with fewer
# frames of a size does not count for it.
_SIZES = {
    "any": (0.0, math.inf),
    "below 0.05": (0.0, 0.05),
    "0.05 to 0.08": (0.05, 0.08),
    "from 0.08": (0.08, math.inf),
}
_FEW = 15

Boxes = Sequence[Box | None]
Answers = list[tuple[Box | None, Box | None]]


@dataclass(frozen=True)
class Clip:
    """A labelled clip: its frame's width and height in pixels, the box of each frame, and its file."""

    width: int
    height: int
    boxes: tuple[Box | None, ...]
    video: Path | None = None


Method = Callable[[Clip, Boxes], Answers]


@dataclass(frozen=True)
class Detector:
    """A simulated detector.

    Parameters:
        noise: the standard deviation on centre and size, as a share of the sides.
        bursts: whether misses come in bursts.
        correlation: that of the noise from one detection to the next.
    """

    noise: float
    bursts: bool = False
    correlation: float = 0.0

    def __call__(self, boxes: Boxes, seed: int) -> list[Box | None]:
        """What it sees of the true boxes."""
        rng = np.random.default_rng(seed)
        missed, noise, seen = False, None, list[Box | None]()
        for box in boxes:
            missed = rng.random() < ((_GOES_ON if missed else _BEGINS) if self.bursts else _MISSED)
            if box is None or missed:
                seen.append(None)
                continue
            white = rng.normal(0, self.noise, 4) * (box.width, box.height, box.width, box.height)
            held = self.correlation
            noise = white if noise is None else held * noise + np.sqrt(1 - held**2) * white
            x, y, width, height = (float(value) for value in _centre_and_size(box) + noise)
            width, height = max(width, 1.0), max(height, 1.0)
            seen.append(Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        return seen


@dataclass(frozen=True)
class Share:
    """The share of frames with an IoU of 0.5 or more, now and 200 ms later."""

    now: float
    later: float

    def __str__(self) -> str:
        return f"{self.now:.3f} / {self.later:.3f}"


def read_clips(path: str | Path) -> list[Clip]:
    """The clips of a file of labels; DataError where it is none."""
    try:
        return [_clip(entry, Path(path).parent) for entry in parse_json(Path(path).read_text(encoding="utf-8"))]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is no list of clips with `w`, `h` and `boxes`: {error!r}") from error


def _clip(entry: Any, folder: Path) -> Clip:
    boxes: list[Box | None] = []
    for box in entry["boxes"]:
        x, y, width, height = box or (0, 0, 0, 0)
        boxes.append(Box(x, y, x + width, y + height) if box else None)
    video = folder / Path(entry["video"]).name if "video" in entry else None
    return Clip(int(entry["w"]), int(entry["h"]), tuple(boxes), video)


def _centre_and_size(box: Box) -> Any:
    return np.array([*box.center, box.width, box.height])


def untracked(clip: Clip, seen: Boxes) -> Answers:
    """Each frame's own detection, or nothing."""
    return [(box, box) for box in seen]


def last_box(clip: Clip, seen: Boxes) -> Answers:
    """The last detection there was."""
    answers: Answers = []
    last = None
    for box in seen:
        last = last if box is None else box
        answers.append((last, last))
    return answers


def tracked(noise: float | None) -> Method:
    """What a new tracker says of each frame."""

    def method(clip: Clip, seen: Boxes) -> Answers:
        tracker = Tracker(noise=noise, predict_ms=LEAD_FRAMES / FPS * 1000)
        tracks = [(frame, tracker(frame, result, seconds=frame.captured_at)) for frame, result in _frames(clip, seen)]
        return [(track.box_at(frame.captured_at), track.box) for frame, track in tracks]

    return method


def _frames(clip: Clip, seen: Boxes) -> Iterator[tuple[Frame, Result]]:
    pixels = np.broadcast_to(np.uint8(0), (clip.height, clip.width, 3))
    for number, box in enumerate(seen):
        yield Frame(pixels, number / FPS, number), Result() if box is None else Result((Detection(box, 1.0),))


def score(clips: Sequence[Clip], method: Method, detector: Detector) -> Share:
    """The mean share over clips and seeds."""
    now, later = [], []
    for clip in clips:
        truth = clip.boxes
        after = [later if box else None for box, later in zip(truth, truth[LEAD_FRAMES:], strict=False)]
        for seed in SEEDS:
            answers = method(clip, detector(truth, seed))
            now.append(_share(truth, [answer for answer, _ in answers]))
            later.append(_share(after, [answer for _, answer in answers]))
    return Share(float(np.mean(now)), float(np.mean(later)))


def _overlaps(box: Box, answer: Box) -> bool:
    return box.iou(answer) >= 0.5


def _share(truth: Boxes, answers: Boxes, hits: Callable[[Box, Box], bool] = _overlaps) -> float:
    pairs = [(box, answer) for box, answer in zip(truth, answers, strict=False) if box is not None]
    return float(np.mean([answer is not None and hits(box, answer) for box, answer in pairs]))


def cost_us(clip: Clip, seen: Boxes) -> float:
    """Median microseconds a frame of the tracker."""
    track, times = Tracker(predict_ms=0), []
    for frame, result in _frames(clip, seen):
        began_at = time.perf_counter()
        track(frame, result)
        times.append(time.perf_counter() - began_at)
    return float(np.median(times)) * 1e6


def watch(clip: Clip, localizer: Localizer, mode: str) -> Answers:
    """What a model says of each frame of a clip's video, in one of MODES; DataError for a clip without a video."""
    if clip.video is None:
        raise DataError("the labels name no `video` for a model to see")
    tracker = Tracker(localizer.contract, predict_ms=LEAD_FRAMES / FPS * 1000)
    look = Follower(localizer, tracker) if mode == "following" else localizer
    answers: Answers = []
    with open_camera(str(clip.video)) as camera:
        for frame in camera:
            result = look(frame)
            track = tracker(frame, result, seconds=frame.sequence / FPS)
            now = track.box_at(frame.captured_at)
            answers.append((result.box, result.box) if mode == "no tracking" else (now, track.box))
    return answers


def model_rows(clips: Sequence[Clip], answers: Mapping[str, Sequence[Answers]]) -> Iterator[list[str]]:
    """The table of a model: for each size of object and each mode the means over the clips that show such objects."""
    for size, (low, high) in _SIZES.items():
        for mode, seen in answers.items():
            every = (_shares(clip, _of_size(clip, low, high), one) for clip, one in zip(clips, seen, strict=True))
            shares = [share for share in every if share is not None]
            if not shares:
                continue
            means = [float(share) for share in np.mean(shares, axis=0)]
            pairs = [f"{now:.3f} / {later:.3f}" for now, later in (means[:2], means[2:4])]
            yield [size, str(len(shares)), mode, *pairs, f"{means[4]:.3f}"]


def _of_size(clip: Clip, low: float, high: float) -> list[Box | None]:
    """The clip's boxes whose side, as a share of the frame's, is in a range."""
    area = clip.width * clip.height
    return [box if box is not None and low <= math.sqrt(box.area / area) < high else None for box in clip.boxes]


def _shares(clip: Clip, truth: Boxes, answers: Answers) -> tuple[float, ...] | None:
    """For the frames with a `truth`: overlap now and later, centre now and later, false now; None for a few frames."""
    after = [later if box else None for box, later in zip(truth, clip.boxes[LEAD_FRAMES:], strict=False)]
    if sum(box is not None for box in after) < _FEW:
        return None
    now, later = ([pair[which] for pair in answers] for which in (0, 1))
    return (
        _share(truth, now),
        _share(after, later),
        _share(truth, now, _holds_center),
        _share(after, later, _holds_center),
        _share(truth, now, lambda box, answer: box.iou(answer) == 0),
    )


def _holds_center(box: Box, answer: Box) -> bool:
    x, y = answer.center
    return box.x1 <= x <= box.x2 and box.y1 <= y <= box.y2


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the cost; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgeloc.benchmarks.tracking", description="measure the tracker")
    parser.add_argument("labels", metavar="LABELS.json", nargs="+", help="clips with a box for each frame")
    parser.add_argument("--model", action="append", default=[], help="the model that sees them; as many as LABELS.json")
    args = parser.parse_args(argv)
    try:
        sets = [read_clips(path) for path in args.labels]
        if args.model:
            _print_model(sets, args.model)
        else:
            _print_simulated([clip for clips in sets for clip in clips])
    except EdgelocError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _print_model(sets: Sequence[Sequence[Clip]], models: Sequence[str]) -> None:
    if len(models) != len(sets):
        raise UsageError(f"{len(models)} --model for {len(sets)} files of labels", hint="give one for each")
    answers: dict[str, list[Answers]] = {mode: [] for mode in MODES}
    for clips, model in zip(sets, models, strict=True):
        localizer = Localizer(model)
        for mode in MODES:
            answers[mode] += [watch(clip, localizer, mode) for clip in clips]
    print("| object's side | clips | | IoU of 0.5 | centre in the true box | false |\n|---|---|---|---|---|---|")
    for cells in model_rows([clip for clips in sets for clip in clips], answers):
        print(f"| {' | '.join(cells)} |")


def _print_simulated(clips: Sequence[Clip]) -> None:
    print("| noise | misses | no tracking | last box | tracker | tracker, noise unknown |\n|---|---|---|---|---|---|")
    for noise, correlation in ((0.03, 0.0), (0.06, 0.0), (0.10, 0.0), (0.06, 0.8)):
        for bursts in (False, True):
            detector = Detector(noise, bursts, correlation)
            methods = (untracked, last_box, tracked(noise), tracked(None))
            name = f"{noise:.0%}" + (", correlated" if correlation else "")
            cells = [name, "bursts" if bursts else "single", *(str(score(clips, one, detector)) for one in methods)]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"{cost_us(clips[0], Detector(0.06)(clips[0].boxes, SEEDS[0])):.0f} us a frame")


if __name__ == "__main__":
    sys.exit(main())
