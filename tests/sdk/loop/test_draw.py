"""What is drawn on a frame, on every size of frame, and that the frame itself stays as it was."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from edgeloc.errors import UsageError
from edgeloc.loop.draw import QUANTIZED_COLOR, STALE_COLOR, TRACK_COLOR, TRUTH_COLOR, blur, draw, draw_boxes
from edgeloc.loop.run import run
from edgeloc.observation import Observation, Track
from edgeloc.types import Box, Detection, Frame, Pixels, Result

SIZES = [(320, 240), (640, 480), (1920, 1080), (192, 192)]


def ground(width: int, height: int, value: int = 90) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def result(*boxes: Box) -> Result:
    scores = np.array([0.1, 0.9], np.float32)
    return Result(tuple(Detection(box, 0.9, "bolt", scores) for box in boxes))


def differs(image: Pixels, pixels: Pixels) -> Pixels:
    return np.asarray((image != pixels).any(axis=2))


def like(image: Pixels, x: float, y: float, color: tuple[int, int, int]) -> bool:
    """Whether the pixel has the colour, but for the soft edge of a line."""
    row, column = min(round(y), image.shape[0] - 1), min(round(x), image.shape[1] - 1)
    return int(np.abs(image[row, column].astype(int) - color).max()) < 40


@pytest.mark.parametrize("size", SIZES)
def test_the_box_is_drawn_on_its_edges_and_not_inside(size: tuple[int, int]) -> None:
    width, height = size
    box = Box(0.3 * width, 0.4 * height, 0.7 * width, 0.9 * height)
    image = draw(ground(*size), result(box))
    middle = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
    assert like(image, box.x1, middle[1], QUANTIZED_COLOR)
    assert like(image, box.x2, middle[1], QUANTIZED_COLOR)
    assert like(image, middle[0], box.y2, QUANTIZED_COLOR)
    assert like(image, *middle, (90, 90, 90))


@pytest.mark.parametrize("size", SIZES)
def test_text_grows_with_the_frame_and_stays_a_small_part_of_it(size: tuple[int, int]) -> None:
    pixels = ground(*size)
    rows = np.flatnonzero(differs(draw(pixels, result(), fps=24.9, age_ms=45), pixels).any(axis=1))
    assert 10 <= rows.size <= 0.12 * size[1]


def test_the_frame_is_not_modified_and_memory_is_not_shared() -> None:
    pixels = ground(320, 240)
    pixels.flags.writeable = False
    image = draw(pixels, result(Box(10, 10, 100, 100)), fps=10.0)
    assert (pixels == 90).all()
    assert not np.shares_memory(image, pixels)


def test_a_view_that_is_not_contiguous_can_be_drawn_on() -> None:
    pixels = ground(640, 480)[:, ::-1]
    assert draw(pixels, result(Box(10, 10, 100, 100))).shape == pixels.shape


def test_the_track_is_drawn_beside_the_answer() -> None:
    track = Track("predicted", 0.0, Box(150, 100, 250, 200), unseen_s=0.3, id=2)
    image = draw(ground(320, 240), result(Box(20, 20, 100, 100)), track=track)
    assert like(image, 250, 150, TRACK_COLOR) and like(image, 100, 60, QUANTIZED_COLOR)
    assert like(draw(ground(320, 240), result(), track=track), 150, 150, TRACK_COLOR)


def test_a_lost_track_is_words_in_the_line() -> None:
    lost, none = (draw(ground(640, 480), result(), track=track) for track in (Track("lost", 0.0), None))
    assert differs(lost, none)[440:].any() and not differs(lost, none)[:440].any()


def test_staleness_changes_the_colour() -> None:
    box = Box(100, 100, 200, 200)
    assert like(draw(ground(320, 240), result(box), stale=True), 200, 150, STALE_COLOR)


@pytest.mark.parametrize("box", [Box(-50, -50, 2000, 2000), Box(0, 0, 0, 0), Box(319, 239, 320, 240)])
def test_boxes_at_or_over_the_border_are_drawn_inside(box: Box) -> None:
    image = draw(ground(320, 240), result(box))
    assert image.shape == (240, 320, 3)
    assert differs(image, ground(320, 240)).any()


@pytest.mark.parametrize("size", [(8, 8), (40, 300), (300, 12)])
def test_tiny_and_narrow_frames_do_not_fail(size: tuple[int, int]) -> None:
    assert draw(ground(*size), result(Box(1, 1, 6, 6)), fps=10).shape == (size[1], size[0], 3)


def test_several_boxes_with_titles_in_their_colours() -> None:
    boxes = [(Box(20, 60, 80, 120), "truth", TRUTH_COLOR), (Box(150, 60, 250, 160), "", QUANTIZED_COLOR)]
    image = draw_boxes(ground(320, 240), boxes)
    assert like(image, 20, 90, TRUTH_COLOR)
    assert like(image, 250, 110, QUANTIZED_COLOR)
    above_first, above_second = image[40:57, 20:80], image[40:57, 150:250]
    assert differs(above_first, ground(60, 17)).any()
    assert not differs(above_second, ground(100, 17)).any()


def test_every_object_of_a_model_for_several_is_drawn() -> None:
    image = draw(ground(320, 240), result(Box(20, 100, 80, 160), Box(200, 100, 260, 160)))
    assert like(image, 80, 130, QUANTIZED_COLOR) and like(image, 260, 130, QUANTIZED_COLOR)


def test_titles_of_boxes_that_nearly_coincide_do_not_cover_each_other() -> None:
    box = Box(100, 100, 220, 200)
    alone = [draw_boxes(ground(320, 240), [(box, title, TRUTH_COLOR)]) for title in ("truth", "")]
    plate = differs(*alone)
    both = draw_boxes(ground(320, 240), [(box, "truth", TRUTH_COLOR), (box, "float 0.81", QUANTIZED_COLOR)])
    assert plate.any()
    assert (both[plate] == alone[0][plate]).all()


def test_an_object_without_a_box_is_named_in_the_status_line() -> None:
    pixels = ground(320, 240)
    nothing, classified = draw(pixels, Result()), draw(pixels, Result((Detection(None, 1.0, "cat"),)))
    assert differs(nothing, classified).any()
    assert (draw(pixels, result(Box(0, 0, 9, 9)))[-5:] == 90).all()


@pytest.mark.parametrize("label", ["\ud800", "\x00", "a" * 1_000_000, "雪"])
def test_any_label_can_be_drawn(label: str) -> None:
    """OpenCV ends the process when it gets half of a surrogate pair."""
    image = draw_boxes(np.zeros((48, 64, 3), np.uint8), [(Box(10, 20, 40, 40), label, QUANTIZED_COLOR)])
    assert image.any()


def detail(pixels: Pixels) -> float:
    """How much a picture differs from pixel to pixel."""
    return float(np.abs(np.diff(pixels.astype(np.int32), axis=1)).mean())


@pytest.fixture
def noise() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)


def test_blurring_inside_leaves_the_rest_and_nothing_of_the_object(noise: Pixels) -> None:
    blurred = blur(noise, [Box(100, 50, 200, 150)], "inside")
    assert detail(blurred[50:150, 100:200]) < 0.05 * detail(noise)
    outside = np.ones(noise.shape[:2], bool)
    outside[40:160, 90:210] = False
    assert (blurred[outside] == noise[outside]).all()
    # Two objects that differ in every pixel become nearly the same.
    other = noise.copy()
    other[40:160, 90:210] = 255 - noise[40:160, 90:210]
    difference = blur(other, [Box(100, 50, 200, 150)], "inside").astype(int) - blurred
    assert np.abs(difference).mean() < 2


def test_blurring_outside_leaves_the_object_alone(noise: Pixels) -> None:
    blurred = blur(noise, [Box(100, 50, 200, 150), Box(-50, -50, 20, 20)], "outside")
    assert (blurred[50:150, 100:200] == noise[50:150, 100:200]).all()
    assert (blurred[:20, :20] == noise[:20, :20]).all()
    assert detail(blurred[160:]) < 0.1 * detail(noise)
    assert detail(blur(noise, [], "outside")) < 0.1 * detail(noise)


def test_blurring_changes_no_frame_of_the_callers_and_takes_any_box(noise: Pixels) -> None:
    before = noise.copy()
    for box in (Box(5, 5, 5, 5), Box(-9, -9, -1, -1), Box(900, 900, 950, 950), Box(0, 0, 1, 1), Box(0, 0, 320, 240)):
        assert blur(noise, [box], "inside").shape == blur(noise, [box], "outside").shape == noise.shape
    assert (noise == before).all()


def test_a_large_frame_is_blurred_as_much(noise: Pixels) -> None:
    """Only some pixels of a large block are looked at: what is left may show none of them by itself."""
    large = np.random.default_rng(1).integers(0, 256, (1080, 1920, 3), np.uint8)
    assert detail(blur(large, [], "outside")) < 0.02 * detail(large)
    assert detail(blur(large, [Box(200, 100, 1400, 900)], "inside")[100:900, 200:1400]) < 0.02 * detail(large)


def delivered(
    shown: Pixels, answer: Result, where: Literal["inside", "outside"], tracker: object = None
) -> list[Pixels]:
    """What a sink gets of a frame that shows this."""

    def localize(frame: Frame) -> Result:
        frame.pixels[:] = shown
        return answer

    seen: list[Observation] = []
    camera = "synthetic://?size=320x240&frames=1&live=0"
    run(camera, localize, seen.append, tracker=tracker, blur=where)  # type: ignore[arg-type]
    return [one.frame.pixels for one in seen]


class Followed:
    """A tracker that reports where the object will be in 0.2 s: 100 pixels to the right."""

    def __call__(self, frame: Frame, result: Result, *, seconds: float | None = None) -> Track:
        return Track("predicted", frame.captured_at + 0.2, Box(200, 100, 280, 180), (500.0, 0.0), 0.1, 1)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_track_hides_what_it_covers_in_this_picture(noise: Pixels, where: Literal["inside", "outside"]) -> None:
    """And not where it is predicted to be later, with the object in the open."""
    (pixels,) = delivered(noise, Result(), where, Followed())
    now, later = np.s_[110:170, 110:170], np.s_[110:170, 220:270]
    gone, kept = (now, later) if where == "inside" else (later, now)
    assert (pixels[kept] == noise[kept]).all()
    assert detail(pixels[gone]) < 0.1 * detail(noise)


def test_an_object_without_a_box_may_be_anywhere(noise: Pixels) -> None:
    (pixels,) = delivered(noise, Result((Detection(None, 0.9, "face"),)), "inside")
    assert detail(pixels) < 0.1 * detail(noise)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_every_sink_of_a_run_gets_blurred_frames(where: Literal["inside", "outside"]) -> None:
    frames: list[Pixels] = []

    def localize(frame: Frame) -> Result:
        frames.append(frame.pixels.copy())
        return Result((Detection(Box(100, 100, 200, 200), 0.9),))

    seen: list[Observation] = []
    run("synthetic://?seed=1&size=320x240&frames=3&live=0", localize, seen.append, blur=where)
    for original, one in zip(frames, seen, strict=True):
        inside, outside = np.s_[110:190, 110:190], np.s_[:80, :]
        gone, kept = (inside, outside) if where == "inside" else (outside, inside)
        assert (one.frame.pixels[kept] == original[kept]).all()
        assert detail(one.frame.pixels[gone]) < 0.3 * detail(original[gone])
    with pytest.raises(UsageError, match="blur"):
        run("synthetic://?frames=1", localize, blur="around")  # type: ignore[arg-type]
