"""Measures how often the identities of two objects are confused that cross, with and without association.

    python -m edgeloc.benchmarks.crossing [LABELS.json ...]

Without labels the objects are two boxes on straight ways. With labels, see `edgeloc.benchmarks.tracking`, the boxes of
each two clips of one size are laid over each other, those of the second moved so that the objects meet in the middle:
the motions are real, their crossing is not.

The detector is simulated there: the truth with Gaussian noise, a share of the box's sides, that misses a tenth of the
boxes and sees less of what is behind the other object: its score falls with the share that is hidden, and of two boxes
that overlap by more than 0.45 suppression leaves the better one. Both are of one class, or of two, of which a tenth are
wrong. On drawn clips of two objects of two classes, one before the other where they cross, it is the one that ships.

A true box has the identity of the answer that overlaps it by 0.5 or more, that of the frame before where it still does
(the CLEAR MOT metrics, Bernardin and Stiefelhagen 2008).
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from edgeloc.benchmarks.tracking import FPS, Boxes, Clip, read_clips
from edgeloc.errors import EdgelocError
from edgeloc.localizer import Localizer
from edgeloc.loop.tracking import Tracker
from edgeloc.models import SHIPPED_DETECTOR_INT8
from edgeloc.scenes import SceneGenerator
from edgeloc.types import Box, Detection, Frame, Result

__all__ = ["Crossing", "Score", "cost_us", "drawn", "main", "meetings", "score", "score_seen", "see", "straight"]

_THRESHOLD, _LOWEST = 0.5, 0.1
_MISSED, _SUPPRESSED = 0.1, 0.45
_COVERS, _WRONG_CLASS = 0.5, 0.1
_SEEN_SCORE, _SCORE_NOISE = 0.9, 0.05
_SYNTHETIC = 100
_FRAMES, _SIDE = 90, 40.0
_CLIPS, _CLIP_FRAMES, _CLIP_SEED = 30, 130, 41
_SIZE = 640, 480

# The identities that a method gives in each frame, and where.
Answers = Iterator[dict[int, Box]]
Method = Callable[[Iterator[Result]], Answers]


class Crossing(NamedTuple):
    """Two objects, the first in front of the second: the true boxes of each frame, the frame in which they meet, and
    their classes.
    """

    objects: tuple[Boxes, Boxes]
    meets: int
    classes: tuple[str, str] = ("object", "object")


class Score(NamedTuple):
    """Of crossings: switches of an identity each; the share in which both kept theirs; the share of boxes covered."""

    switches: float
    kept: float
    covered: float

    def __str__(self) -> str:
        return f"{self.switches:.2f} / {self.kept:.0%} / {self.covered:.3f}"


def straight(seed: int) -> Crossing:
    """Two boxes on straight ways that meet in the middle of the picture, at any angle, passing within a half side."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 2 * math.pi) + np.array([0, rng.uniform(math.pi / 6, math.pi)])
    speeds = rng.uniform(2, 5, 2)
    middle = _FRAMES // 2
    off = rng.uniform(-_SIDE / 2, _SIDE / 2, (2, 2)) / 2
    ways = [
        tuple(
            _around(
                _SIZE[0] / 2 + x + speed * (frame - middle) * math.cos(angle),
                _SIZE[1] / 2 + y + speed * (frame - middle) * math.sin(angle),
                _SIDE,
                _SIDE,
            )
            for frame in range(_FRAMES)
        )
        for angle, speed, (x, y) in zip(angles, speeds, off.tolist(), strict=True)
    ]
    return Crossing((ways[0], ways[1]), middle)


def meetings(clips: Sequence[Clip]) -> Iterator[Crossing]:
    """Each labelled object with each other of another clip of its size: as long as both are there, three seconds.

    Those that overlap at the beginning or the end do not cross.
    """
    ways = [(clip, way) for clip in clips for way in _ways(clip)]
    for (one, front), (other, behind) in itertools.permutations(ways, 2):
        if one is other or (one.width, one.height) != (other.width, other.height):
            continue
        frames = min(len(front), len(behind))
        across, down = (a - b for a, b in zip(front[frames // 2].center, behind[frames // 2].center, strict=True))
        moved = [_shifted(box, across, down) for box in behind[:frames]]
        if front[0].iou(moved[0]) == front[frames - 1].iou(moved[-1]) == 0:
            yield Crossing((front[:frames], moved), frames // 2)


def _ways(clip: Clip) -> Iterator[list[Box]]:
    """The first three seconds of each way that an object of a clip goes, without those below two seconds.

    A label that leaps by more than a side is that of another object.
    """
    way: list[Box] = []
    for box in (*clip.boxes, None):
        if box is not None and (not way or math.dist(box.center, way[-1].center) < math.sqrt(way[-1].area)):
            way.append(box)
            continue
        if len(way) >= _FRAMES * 2 // 3:
            yield way[:_FRAMES]
        way = [] if box is None else [box]


def see(crossing: Crossing, noise: float, seed: int) -> Iterator[Result]:
    """What the detector answers in each frame; the objects' classes are theirs, but for one in ten."""
    rng, classes = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    for front, behind in zip(*crossing.objects, strict=True):
        found = []
        for which, box, before in ((0, front, None), (1, behind, front)):
            if box is None or rng.random() < _MISSED:
                continue
            shown = 1 - _hidden(box, before)
            value = _SEEN_SCORE * shown + rng.normal(0, _SCORE_NOISE)
            x, y, width, height = rng.normal(0, noise, 4) * (box.width, box.height, box.width, box.height)
            seen = _around(box.center[0] + x, box.center[1] + y, box.width + width, box.height + height)
            label = crossing.classes[which if classes.random() > _WRONG_CLASS else 1 - which]
            found.append(Detection(seen, float(min(max(value, 0.0), 1.0)), label))
        found.sort(key=lambda one: -one.score)
        if len(found) == 2 and _iou(*found) > _SUPPRESSED:
            del found[1]
        yield Result(
            tuple(one for one in found if one.score >= _THRESHOLD),
            candidates=tuple(one for one in found if _LOWEST <= one.score < _THRESHOLD),
        )


def drawn(clips: int) -> Iterator[tuple[Crossing, list[Result]]]:
    """Of so many generated clips of two objects those whose objects are of two classes and overlap: the objects, and
    what the detector that ships answers in each frame.
    """
    generator = SceneGenerator(_CLIP_SEED, _SIZE, objects=2)
    localizer = Localizer(SHIPPED_DETECTOR_INT8, candidates_from=_LOWEST)
    for index in range(clips):
        scenes = list(generator.clip(index, _CLIP_FRAMES))
        truths = [{one.label or "": one.box for one in scene.objects} for scene in scenes]
        labels = sorted({label for truth in truths for label in truth})
        if len(labels) != 2:
            continue
        first, second = ([truth.get(label) for truth in truths] for label in labels)
        overlaps = [0.0 if a is None or b is None else a.iou(b) for a, b in zip(first, second, strict=True)]
        if max(overlaps) > 0:
            crossing = Crossing((first, second), overlaps.index(max(overlaps)), (labels[0], labels[1]))
            yield crossing, [localizer(scene.pixels) for scene in scenes]


def by_score(results: Iterator[Result]) -> Answers:
    """Without association: an object's number is its place among the objects, best first."""
    for result in results:
        yield {number: one.box for number, one in enumerate(result.objects) if one.box is not None}


def by_last_box(results: Iterator[Result]) -> Answers:
    """With the simplest association: the number of the last box that overlaps most, else another number."""
    last, numbers = dict[int, Box](), itertools.count()
    for result in results:
        answer: dict[int, Box] = {}
        for box in (one.box for one in result.objects if one.box is not None):
            free = [number for number in last if number not in answer and last[number].iou(box) > 0]
            best = max(free, key=lambda number: last[number].iou(box), default=None)
            answer[next(numbers) if best is None else best] = box
        last.update(answer)
        yield answer


def tracked(noise: float | None, *, second_step: bool = True) -> Method:
    """A method: the tracker, with or without what is below the threshold."""

    def method(results: Iterator[Result]) -> Answers:
        tracker, pixels = Tracker(noise=noise), np.broadcast_to(np.uint8(0), (_SIZE[1], _SIZE[0], 3))
        for number, result in enumerate(results):
            given = result if second_step else Result(result.objects)
            track = tracker(Frame(pixels, number / FPS, number), given)
            tracks = (track, *track.others)
            yield {one.id: one.box for one in tracks if one.id is not None and one.box is not None}

    return method


def score(crossings: Sequence[Crossing], method: Method, noise: float) -> Score:
    """The means over crossings."""
    return score_seen([(one, see(one, noise, seed)) for seed, one in enumerate(crossings)], method)


def score_seen(seen: Sequence[tuple[Crossing, Iterable[Result]]], method: Method) -> Score:
    """The means over crossings, each with what a detector answers in its frames."""
    scores = [_score(crossing, method(iter(results))) for crossing, results in seen]
    return Score(*(float(mean) for mean in np.mean(scores, axis=0)))


def _score(crossing: Crossing, answers: Answers) -> Score:
    identities: list[list[int | None]] = [[], []]
    before: list[int | None] = [None, None]
    boxes = covered = switches = 0
    for truths, answer in zip(zip(*crossing.objects, strict=True), answers, strict=True):
        now = _identities(truths, answer, before)
        for which, identity in enumerate(now):
            identities[which].append(identity)
            boxes += truths[which] is not None
            if identity is not None:
                covered += 1
                switches += before[which] not in (None, identity)
                before[which] = identity
    kept = all(_usual(one[: crossing.meets]) == _usual(one[crossing.meets :]) for one in identities)
    return Score(switches, kept, covered / boxes)


def _identities(truths: Sequence[Box | None], answer: dict[int, Box], before: Sequence[int | None]) -> list[int | None]:
    """The identity of each true box in a frame: the one it had before if that still covers it, else the best left."""
    now: list[int | None] = [None] * len(truths)
    for keep in (True, False):
        for which, truth in enumerate(truths):
            if truth is None or now[which] is not None:
                continue
            free = [one for one in answer if one not in now and (one == before[which] or not keep)]
            best = max(free, key=lambda one: answer[one].iou(truth), default=None)
            if best is not None and answer[best].iou(truth) >= _COVERS:
                now[which] = best
    return now


def _usual(identities: Sequence[int | None]) -> int | None:
    known = [one for one in identities if one is not None]
    return max(known, key=known.count, default=None)


def _hidden(box: Box, before: Box | None) -> float:
    """The share of a box that another covers."""
    if before is None:
        return 0.0
    width = min(box.x2, before.x2) - max(box.x1, before.x1)
    height = min(box.y2, before.y2) - max(box.y1, before.y1)
    return max(width, 0.0) * max(height, 0.0) / box.area


def _iou(one: Detection, other: Detection) -> float:
    return one.box.iou(other.box) if one.box is not None and other.box is not None else 0.0


def _around(x: float, y: float, width: float, height: float) -> Box:
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _shifted(box: Box, across: float, down: float) -> Box:
    return Box(box.x1 + across, box.y1 + down, box.x2 + across, box.y2 + down)


def cost_us(objects: int) -> float:
    """Median microseconds a frame of the tracker with so many objects, of which each frame shows nine in ten."""
    rng = np.random.default_rng(0)
    places, speeds = rng.uniform((0, 0), _SIZE, (objects, 2)), rng.normal(0, 2, (objects, 2))
    tracker, pixels, times = Tracker(noise=0.06), np.broadcast_to(np.uint8(0), (_SIZE[1], _SIZE[0], 3)), []
    for number in range(200):
        centers = places + speeds * number + rng.normal(0, 2, (objects, 2))
        boxes = (_around(x, y, _SIDE, _SIDE) for x, y in centers.tolist() if rng.random() > _MISSED)
        result = Result(tuple(Detection(box, _SEEN_SCORE, "object") for box in boxes))
        frame = Frame(pixels, number / FPS, number)
        began_at = time.perf_counter()
        tracker(frame, result)
        times.append(time.perf_counter() - began_at)
    return float(np.median(times)) * 1e6


def _row(crossings: str, noise: float | None, scored: Callable[[Method], Score]) -> str:
    """Each method's score on these crossings; `noise` is None where it is the model's."""
    methods = by_score, by_last_box, tracked(noise, second_step=False), tracked(noise)
    cells = [crossings, "the model's" if noise is None else f"{noise:.0%}", *map(str, map(scored, methods))]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the cost; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgeloc.benchmarks.crossing", description="measure identities")
    parser.add_argument("labels", metavar="LABELS.json", nargs="*", help="clips with a box for each frame")
    args = parser.parse_args(argv)
    try:
        clips = [clip for path in args.labels for clip in read_clips(path)]
    except EdgelocError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    sets = {"straight": [straight(seed) for seed in range(_SYNTHETIC)], "labelled": list(meetings(clips))}
    for name, crossings in list(sets.items()):
        sets[f"{name}, two classes"] = [one._replace(classes=("one", "other")) for one in crossings]
    print("| crossings | noise | by score | last box | tracker, first step | tracker |\n|---|---|---|---|---|---|")
    for name, crossings in sets.items():
        for noise in (0.03, 0.06, 0.10) if crossings else ():
            print(_row(f"{name}, {len(crossings)}", noise, partial(score, crossings, noise=noise)), flush=True)
    seen = list(drawn(_CLIPS))
    print(_row(f"drawn, {len(seen)}", None, partial(score_seen, seen)))
    print(", ".join(f"{cost_us(objects):.0f} us a frame with {objects}" for objects in (1, 10, 50)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
