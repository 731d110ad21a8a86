"""Shared memory: the newest result and its picture, never half of either, whatever happens to the writer."""

from __future__ import annotations

import errno
import json
import mmap
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.errors import OutputError, UsageError
from edgeloc.models import SHIPPED_INT8
from edgeloc.sinks import Sink, open_sink
from edgeloc.testing import SinkSuite, example_frame, example_observation
from edgeloc.types import Box, Frame, Pixels

FOLDER = Path("/dev/shm")
PATIENCE_S = 30

Latest = Callable[[str], "tuple[dict[str, Any], Pixels] | None"]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="this system has no /dev/shm")


@pytest.fixture
def name() -> Iterator[str]:
    """One that no other test has."""
    name = f"edgeloc-test-{os.getpid()}"
    yield name
    for path in FOLDER.glob(f"{name}*"):
        path.unlink()


@pytest.fixture(scope="module")
def latest(repository: Path) -> Latest:
    """The reader that the documentation shows."""
    source = (repository / "docs" / "examples" / "neighbour_memory.py").read_text(encoding="utf-8")
    space: dict[str, Any] = {}
    exec(source.partition("\nif __name__")[0], space)
    function: Latest = space["newest"]
    return function


class TestShmSink(SinkSuite):
    @pytest.fixture
    def sink(self, name: str) -> Sink:
        return open_sink(f"shm://{name}")


def write(sink: Sink, frame: Frame, boxes: int = 1) -> None:
    sink.write(example_observation(frame, *[Box(1, 2, 3, 4)] * boxes), lambda: pytest.fail("drawn"))


def test_a_reader_gets_the_newest_result_and_its_picture(name: str, latest: Latest) -> None:
    sink = open_sink(f"shm://{name}")
    sink.open(live=True)
    assert latest(name) is None
    for number in range(3):
        write(sink, example_frame(number))
        found = latest(name)
        assert found is not None
        record, picture = found
        assert (record["sequence"], record["box"]) == (number, [1, 2, 3, 4])
        assert picture.shape == (48, 64, 3) and (picture == 20 + 10 * number).all()
    sink.close()
    assert list(FOLDER.glob(f"{name}*")) == []


def test_it_grows_with_its_pictures_and_its_results(name: str, latest: Latest) -> None:
    sink = open_sink(f"shm://{name}")
    sink.open(live=True)
    for number, (size, boxes) in enumerate([((8, 8), 1), ((640, 480), 1), ((1, 1), 1000), ((33, 7), 2)]):
        write(sink, example_frame(number, size=size), boxes)
        found = latest(name)
        assert found is not None
        assert found[1].shape == (size[1], size[0], 3) and len(found[0]["objects"]) == boxes
    sink.close()


def test_the_layout_is_the_one_documented(name: str) -> None:
    """By the bytes: a change of the layout needs another magic."""
    sink = open_sink(f"shm://{name}")
    sink.open()
    path = FOLDER / name
    assert path.read_bytes() == b"EDGELOC1" + bytes(56)
    write(sink, example_frame(0, size=(5, 3)))
    write(sink, example_frame(1, size=(5, 3)))
    data = path.read_bytes()
    head = np.frombuffer(data, "<u8", 8).tolist()
    room = head[3]
    assert head == [int.from_bytes(b"EDGELOC1", "little"), 2, 2, room, 0, 0, 0, 0]
    assert room % 64 == 0 and len(data) == 64 + 2 * room
    for number, level in ((1, 20), (2, 30)):
        slot = data[64 + number % 2 * room :]
        height, width, length = np.frombuffer(slot, "<u4", 3).tolist()
        assert (height, width) == (3, 5) and slot[12:64] == bytes(52)
        assert slot[64 : 64 + 45] == bytes([level]) * 45
        assert json.loads(slot[109 : 109 + length])["sequence"] == number - 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    sink.close()


def test_a_picture_in_another_order_of_memory_comes_out_right(name: str, latest: Latest) -> None:
    sink = open_sink(f"shm://{name}")
    sink.open()
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)[::-1, ::2]
    write(sink, Frame(pixels, 0.0, 0))
    found = latest(name)
    assert found is not None and np.array_equal(found[1], pixels)
    sink.close()


def test_readers_are_told_when_to_open_it_again(name: str) -> None:
    sink = open_sink(f"shm://{name}")
    sink.open()
    write(sink, example_frame(0))
    with (FOLDER / name).open("rb") as file:
        old = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), "<u8", 8)
    assert old[4] == 0
    write(sink, example_frame(1, size=(640, 480)))
    assert old[4] == 1
    with (FOLDER / name).open("rb") as file:
        new = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), "<u8", 8)
    assert new[4] == 0
    sink.close()
    assert new[4] == 1


WRITER = """
import sys
import numpy as np
from edgeloc.sinks import open_sink
from edgeloc.observation import Observation
from edgeloc.types import Box, Detection, Frame, Result
sink = open_sink(sys.argv[1])
sink.open(live=True)
pixels = [np.full((480, 640, 3), level, np.uint8) for level in range(256)]
print("ready", flush=True)
number = 0
while True:
    # The length of the line changes with the number.
    box = Box(number, 0, number, 0)
    result = Result((Detection(box, 1.0),) * (1 + number % 7))
    sink.write(Observation(Frame(pixels[number % 256], 0.0, number), result), None)
    number += 1
"""


@pytest.fixture
def writer(name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes as fast as it can; in picture `N`, all pixels are N % 256."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, f"shm://{name}"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def check(found: tuple[dict[str, Any], Pixels]) -> int:
    """The number of the frame, once result and picture were found to belong together."""
    record, picture = found
    number = int(record["sequence"])
    assert len(record["objects"]) == 1 + number % 7
    assert {tuple(one["box"]) for one in record["objects"]} == {(number, 0, number, 0)}
    assert picture.shape == (480, 640, 3) and (picture == number % 256).all()
    return number


@pytest.mark.usefixtures("writer")
def test_a_reader_never_sees_half_of_one(name: str, latest: Latest) -> None:
    numbers = []
    until = time.monotonic() + PATIENCE_S
    while len(set(numbers)) < 300 and time.monotonic() < until:
        found = latest(name)
        if found is not None:
            numbers.append(check(found))
    assert numbers == sorted(numbers) and len(set(numbers)) == 300


def test_what_a_killed_writer_left_is_whole_and_the_next_one_replaces_it(
    name: str, latest: Latest, writer: subprocess.Popen[str]
) -> None:
    while latest(name) is None:
        assert writer.poll() is None
    sink = open_sink(f"shm://{name}")
    with pytest.raises(OutputError, match=rf"/dev/shm/{name} is being written by another run"):
        sink.open()
    writer.kill()
    writer.wait()
    found = latest(name)
    assert found is not None
    check(found)
    with (FOLDER / name).open("rb") as file:
        old = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), "<u8", 8)
    sink.open()
    assert old[4] == 1
    assert latest(name) is None
    write(sink, example_frame(0))
    found = latest(name)
    assert found is not None and found[0]["sequence"] == 0
    sink.close()
    assert list(FOLDER.glob(f"{name}*")) == []


def test_a_run_that_was_killed_while_it_made_one_is_no_obstacle(name: str, latest: Latest) -> None:
    (FOLDER / f"{name}.new").write_bytes(b"half")
    sink = open_sink(f"shm://{name}")
    sink.open()
    write(sink, example_frame(0))
    assert latest(name) is not None
    sink.close()
    assert list(FOLDER.glob(f"{name}*")) == []


@pytest.mark.parametrize("content", [b"", b"another program's", b"EDGELOC1"])
def test_memory_of_another_program_is_refused_and_kept(name: str, content: bytes) -> None:
    (FOLDER / name).write_bytes(content)
    with pytest.raises(UsageError, match="is there already, and is not of edgeloc"):
        open_sink(f"shm://{name}").open()
    assert (FOLDER / name).read_bytes() == content
    assert [path.name for path in FOLDER.glob(f"{name}*")] == [name]


def test_without_room_the_last_result_stays_and_it_heals(
    name: str, latest: Latest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(f"shm://{name}")
    sink.open()
    write(sink, example_frame(0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as without_room:
        without_room.setattr(os, "posix_fallocate", full)
        with pytest.raises(OutputError, match=r"no shared memory can be made at .*: No space left"):
            write(sink, example_frame(1, size=(640, 480)))
    found = latest(name)
    assert found is not None and found[0]["sequence"] == 0
    write(sink, example_frame(2, size=(640, 480)))
    found = latest(name)
    assert found is not None and found[0]["sequence"] == 2
    sink.close()


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "a b", "x" * 101, "a?b=c"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"write shm://NAME|no option 'b'"):
        open_sink(f"shm://{name}")


def test_a_run_keeps_its_memory_up_to_date(name: str, latest: Latest) -> None:
    line = [sys.executable, "-m", "edgeloc", "run", str(SHIPPED_INT8), "--camera", "synthetic://?size=64x48"]
    process = subprocess.Popen([*line, "--sink", f"shm://{name}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until, seen = time.monotonic() + PATIENCE_S, set()
    while len(seen) < 3 and time.monotonic() < until:
        found = latest(name) if (FOLDER / name).exists() else None
        if found is not None:
            seen.add(found[0]["sequence"])
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert len(seen) == 3 and process.returncode == 0, err
    assert list(FOLDER.glob(f"{name}*")) == []
