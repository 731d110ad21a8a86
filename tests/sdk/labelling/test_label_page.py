"""The labelling page in a real browser: by mouse, finger and keys, and through three kills of its server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from edgeloc.data import open_dataset
from edgeloc.scenes import SceneGenerator
from edgeloc.types import Box, LabelledBox

pytest.importorskip("tornado", reason="tornado is not installed (extra web)")

WIDTH, HEIGHT = 160, 120
CLASSES = ("one", "two", "three")
# A point of the image as one of the window.
WHERE = """
const m = document.getElementById("board").getScreenCTM();
return [m.a, m.e, m.f];
"""


def wait_for(ready: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Server:
    """`edgeloc label` in a process of its own, on a port that stays the same."""

    def __init__(self, folder: Path, *more: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._words = [sys.executable, "-m", "edgeloc.cli", "label", str(folder), "--page", self.url, *more]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        assert self.url in self.first_line

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def interrupt(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return self._wait()

    def _wait(self) -> str:
        left = self.process.communicate(timeout=20)[0]
        return str(left)


class Hand:
    """A user at the page."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    def text(self, id_: str) -> str:
        return str(self._browser.execute_script(f"return document.getElementById('{id_}').textContent"))

    def is_saved(self, name: str) -> bool:
        return self.text("status") in (f"saved {name}", "all is labelled and saved")

    @property
    def name(self) -> str:
        return self.text("place").partition(": ")[2]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return list(self._browser.execute_script("return current.objects"))

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self._browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, "key": key, **text})

    def press(self, *points: tuple[float, float], finger: bool = False) -> None:
        """Down at the first point of the image, along the others, up at the last."""
        scale, left, top = self._browser.execute_script(WHERE)
        places = [{"x": left + x * scale, "y": top + y * scale} for x, y in points]
        steps = [("touchStart" if finger else "mousePressed", places[0])]
        steps += [("touchMove" if finger else "mouseMoved", place) for place in places[1:]]
        steps += [("touchEnd" if finger else "mouseReleased", places[-1])]
        for kind, place in steps:
            if finger:
                touched = [] if kind == "touchEnd" else [place]
                self._browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})
            else:
                event = {"type": kind, "button": "left", "buttons": 1, "clickCount": 1, **place}
                self._browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def clear(self) -> None:
        """Delete every box that is proposed."""
        for _ in self.objects:
            self.key("Delete")
        assert self.objects == []

    def draw(self, box: Box, *, finger: bool = False) -> None:
        self.press((box.x1, box.y1), (box.x1 + 5, box.y1 + 9), (box.x2, box.y2), finger=finger)


@pytest.fixture
def hand(chromium: Any) -> Iterator[Hand]:
    chromium.get_log("browser"), chromium.get_log("performance")
    yield Hand(chromium)
    # A page with corrections that are not saved asks before it goes.
    chromium.execute_script("changed.clear()")
    chromium.get("about:blank")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fifty small photos."""
    scenes = SceneGenerator(4, (WIDTH, HEIGHT))
    for number in range(50):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), scenes.scene(number).pixels)
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[Server]:
    server = Server(folder, "--classes", ",".join(CLASSES))
    yield server
    server.kill()


def boxes_of(name: str) -> list[LabelledBox]:
    """What is to be labelled in a photo: none, one or two boxes, by its number."""
    number = int(name[:2])
    first = LabelledBox(Box(10 + number, 20, 70 + number, 80), CLASSES[number % 3])
    return [first, LabelledBox(Box(5, 90, 45, 115), CLASSES[0])][: number % 3]


def on_disk(folder: Path) -> dict[str, list[LabelledBox]]:
    path = folder / "labels.json"
    return {sample.name: list(sample.objects) for sample in open_dataset(path)} if path.exists() else {}


def require(found: dict[str, list[LabelledBox]], names: set[str]) -> None:
    """Each of these has its boxes to a pixel or so of the screen."""
    for name in names:
        wanted = boxes_of(name)
        assert [one.label for one in found[name]] == [one.label for one in wanted]
        for one, other in zip(found[name], wanted, strict=True):
            assert max(abs(a - b) for a, b in zip(one.box, other.box, strict=True)) < 1.5


def correct(hand: Hand) -> str:
    """Correct the photo that the page shows, up to the key that accepts it; the photo's name."""
    name, number = hand.name, int(hand.name[:2])
    hand.clear()
    for box, label in boxes_of(name):
        hand.draw(box, finger=number % 2 == 1)
        hand.key(str(CLASSES.index(label or "") + 1))
    return name


@pytest.mark.slow
def test_fifty_photos_through_three_kills(chromium: Any, hand: Hand, served: Server, folder: Path) -> None:
    chromium.get(served.url)
    wait_for(lambda: "0 of 50" in hand.text("count"))
    done: set[str] = set()
    for step in range(50):
        name = correct(hand)
        if step == 11:  # with boxes that are not accepted yet
            served.kill()
        hand.key("Enter")
        if step == 23:  # while it is being saved
            served.kill()
        if step in (11, 23):
            require(on_disk(folder), done)
            wait_for(lambda: "does not answer" in hand.text("status") or hand.is_saved(name))  # noqa: B023
            served.start()
        wait_for(lambda: hand.is_saved(name))  # noqa: B023
        done.add(name)
        if step == 35:  # when it has just been called saved
            served.kill()
            require(on_disk(folder), done)
            served.start()
            assert served.first_line.startswith("36 of 50")
            chromium.refresh()
            wait_for(lambda: "36 of 50" in hand.text("count"))
    assert len(done) == 50
    require(on_disk(folder), done)
    assert set(on_disk(folder)) == done
    assert f"edgeloc train --training {folder / 'labels.json'}" in served.interrupt()
    assert served.process.returncode == 0


def test_a_photo_that_is_gone_is_passed_over(chromium: Any, hand: Hand, served: Server, folder: Path) -> None:
    chromium.get(served.url)
    wait_for(lambda: "0 of 50" in hand.text("count"))
    names = chromium.execute_script("return images.map(one => one.name)")
    for name in names[1:3]:
        (folder / name).unlink()
    hand.key("ArrowRight")
    wait_for(lambda: hand.name == names[3])
    hand.key("ArrowLeft")
    wait_for(lambda: hand.name == names[0])
    hand.key("0")
    wait_for(lambda: hand.name == names[3])
    assert set(on_disk(folder)) == {names[0]}


def test_a_button_waits_for_the_finger_that_draws(chromium: Any, hand: Hand, served: Server, folder: Path) -> None:
    chromium.get(served.url)
    wait_for(lambda: "0 of 50" in hand.text("count"))
    hand.clear()
    name = hand.name
    scale, left, top = chromium.execute_script(WHERE)

    def mouse(kind: str, x: float, y: float) -> None:
        event = {
            "type": kind,
            "button": "left",
            "buttons": 1,
            "clickCount": 1,
            "x": left + x * scale,
            "y": top + y * scale,
        }
        chromium.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    mouse("mousePressed", 20, 20)
    mouse("mouseMoved", 60, 60)
    for id_ in ("next", "delete", "none", "accept"):
        chromium.execute_script(f"document.getElementById('{id_}').click()")
    mouse("mouseMoved", 80, 70)
    mouse("mouseReleased", 80, 70)
    assert hand.name == name and on_disk(folder) == {}
    (drawn,) = hand.objects
    assert max(abs(a - b) for a, b in zip(drawn["box"], (20, 20, 80, 70), strict=True)) < 1.5


def test_boxes_are_drawn_moved_resized_and_deleted(chromium: Any, hand: Hand, served: Server, folder: Path) -> None:
    chromium.get(served.url)
    wait_for(lambda: "0 of 50" in hand.text("count"))
    inside, wide = chromium.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert inside == 390 and wide <= inside
    hand.clear()
    name = hand.name
    for finger in (False, True):
        hand.draw(Box(20, 20, 80, 80), finger=finger)
        hand.press((50, 50), (60, 55), (70, 60), finger=finger)  # moved by 20, 10
        hand.press((100, 90), (90, 85), finger=finger)  # its lower right corner
        hand.press((40, 57), (30, 57), finger=finger)  # its left edge
        box = hand.objects[-1]["box"]
        assert max(abs(a - b) for a, b in zip(box, (30, 30, 90, 85), strict=True)) < 1.5
        hand.press((60, 60), (500, 60), finger=finger)  # no further than the edge
        assert abs(hand.objects[-1]["box"][2] - WIDTH) < 0.1
        hand.key("Delete")
        assert hand.objects == []
    hand.press((20, 20), (20.2, 20.2))  # no box, but a slip
    assert hand.objects == []
    hand.draw(Box(10, 10, 50, 50))
    assert hand.text("status") == "changed, not saved"
    # What was corrected stays while the user looks at others, and comes back by itself.
    hand.key("ArrowRight")
    wait_for(lambda: hand.name != name)
    hand.key("ArrowLeft")
    wait_for(lambda: hand.name == name)
    assert len(hand.objects) == 1 and hand.text("status") == "changed, not saved"
    hand.key("0")
    wait_for(lambda: hand.text("status") == f"saved {name}")
    assert on_disk(folder) == {name: []}
    hand.key("ArrowLeft")
    wait_for(lambda: hand.name == name)
    assert hand.objects == [] and hand.text("status") == "saved"


def test_the_page_asks_nothing_of_others_and_logs_no_error(chromium: Any, hand: Hand, served: Server) -> None:
    chromium.get(served.url)
    wait_for(lambda: "0 of 50" in hand.text("count"))
    hand.clear()
    hand.draw(Box(20, 20, 80, 80))
    hand.key("Enter")
    wait_for(lambda: "1 of 50" in hand.text("count"))
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith(("data:", "chrome", f"{served.url}/"))} == set()


def test_a_page_elsewhere_cannot_save(chromium: Any, hand: Hand, served: Server, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "elsewhere.html"
    page.write_text("<script>const changed = new Map();</script>")
    chromium.get(page.as_uri())
    for kind in ("text/plain", "application/json"):
        chromium.execute_async_script(
            "fetch(arguments[0], {method: 'POST', headers: {'Content-Type': arguments[1]}, "
            "body: JSON.stringify({name: '00.png', objects: []})}).then(arguments[2], arguments[2])",
            f"{served.url}/save",
            kind,
        )
    assert on_disk(folder) == {}
