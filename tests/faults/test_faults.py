"""Real runs in processes of their own that are interrupted, killed, or run out of disk: nothing recorded is lost.

`make test` interrupts a few, `make faults` EDGELOC_FAULT_RUNS of them; the same number gives the same faults.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest

from edgeloc.models import SHIPPED_INT8

# Half as many are killed.
_RUNS = int(os.environ.get("EDGELOC_FAULT_RUNS", "3"))
_PATIENCE_S = 60
# How much of the 3 MB is taken before, so that each kind of file finds it full after a few seconds.
_FILLER = {".jsonl": 3_100_000, ".avi": 0, ".mp4": 1_900_000}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


def start(camera: str, sinks: Sequence[Path], *options: str) -> subprocess.Popen[str]:
    """`edgeloc run` of the shipped model, once the first of the sinks holds a result."""
    line = [sys.executable, "-m", "edgeloc", "run", str(SHIPPED_INT8), "--camera", camera, "--json", *options]
    for sink in sinks:
        line += ["--sink", str(sink)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + _PATIENCE_S
    while process.poll() is None and not (sinks[0].exists() and sinks[0].stat().st_size):
        if time.monotonic() > until:
            process.kill()
            pytest.fail(f"no result in {_PATIENCE_S} s: {process.communicate()}")
        time.sleep(0.01)
    return process


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl, each of which must be whole."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def picture_times(path: Path) -> list[float]:
    """When each picture of a video is shown, in seconds from its beginning; it is decoded to the end."""
    capture, times = cv2.VideoCapture(str(path)), []
    while capture.read()[0]:
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return times


@pytest.mark.parametrize("seed", range(_RUNS))
def test_signals_lose_no_result(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    live = chance.random() < 0.5
    lines, video = tmp_path / "out.jsonl", tmp_path / f"out{chance.choice(['.mp4', '.avi'])}"
    camera = f"synthetic://?seed={seed}&size=160x120&live={int(live)}"
    # A third of the runs may end by itself while the signals come.
    ends = ["--frames", str(chance.randint(10, 60))] if chance.random() < 0.3 else []
    process = start(camera, [lines, video], *ends)
    time.sleep(chance.uniform(0, 0.5))
    seen = len(lines.read_text().splitlines())
    sent = [chance.choice(_SIGNALS) for _ in range(chance.randint(1, 4))]
    for number in sent:
        process.send_signal(number)
        time.sleep(chance.uniform(0.01, 0.2))
    out, err = process.communicate(timeout=30)
    assert process.returncode in {0, _STATUSES[sent[0]]}, (sent, err)
    assert "Traceback" not in err and "internal error" not in err
    found = records(lines)
    assert len(found) >= seen
    if not live:
        assert [record["sequence"] for record in found] == list(range(len(found)))
        assert len(picture_times(video)) == len(found)
    if out:
        summary = json.loads(out)
        assert summary["frames"] == len(found)
        by_itself = summary["ended_by"] == "frames"
        assert process.returncode == (0 if live or by_itself else _STATUSES[sent[0]])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([lines.name, video.name])


@pytest.mark.parametrize("seed", range(-(-_RUNS // 2)))
def test_a_killed_run_leaves_whole_lines_and_a_video_that_plays(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    size = chance.choice(["320x240", "640x480"])
    lines, video = tmp_path / "out.jsonl", tmp_path / f"out{'.avi' if seed % 2 else '.mp4'}"
    process = start(f"synthetic://?seed={seed}&size={size}&fps=30", [lines, video])
    time.sleep(chance.uniform(1, 4))
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -9
    found = records(lines)
    recorded_s = found[-1]["captured_at"] - found[0]["captured_at"]
    times = picture_times(video)
    assert len(times) > 1
    assert times[-1] - times[0] >= recorded_s - 2
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([lines.name, video.name])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a file system can be mounted by root alone: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check(path: Path) -> None:
    """What was written before the disk was full is whole."""
    assert records(path) if path.suffix == ".jsonl" else len(picture_times(path)) > 1, path


@pytest.mark.parametrize("suffix", [".jsonl", ".avi", ".mp4"])
def test_a_full_disk_in_the_middle_ends_one_sink(small_disk: Path, tmp_path: Path, suffix: str) -> None:
    """The other goes on to the end, and the summary says which sink ended, and when."""
    full, other = small_disk / f"full{suffix}", tmp_path / "out.jsonl"
    (small_disk / "filler").write_bytes(bytes(_FILLER[suffix]))
    process = start("synthetic://?size=640x480&live=0", [other, full], "--frames", "200")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert len(records(other)) == 200
    summary = json.loads(out)
    (lost,) = [sink for sink in summary["sinks"] if sink["state"] == "lost"]
    assert lost["name"] == str(full)
    assert 0 < lost["delivered"] < 200 and lost["failed_s"] > 0
    assert err.count("[sink-lost]") == 1
    check(full)


@pytest.mark.parametrize("suffix", [".jsonl", ".avi", ".mp4"])
def test_a_full_disk_of_the_only_sink_is_a_failure_that_a_service_restarts_after(small_disk: Path, suffix: str) -> None:
    full = small_disk / f"full{suffix}"
    (small_disk / "filler").write_bytes(bytes(_FILLER[suffix]))
    process = start("synthetic://?size=640x480&live=0", [full], "--frames", "200")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "full" in err and "results before that are kept" in err
    check(full)


def test_a_live_run_that_gets_room_on_its_disk_again_loses_no_line(small_disk: Path, tmp_path: Path) -> None:
    full, other, filler = small_disk / "full.jsonl", tmp_path / "out.jsonl", small_disk / "filler"
    filler.write_bytes(bytes(3_100_000))
    process = start("synthetic://?size=64x48&fps=60", [other, full])
    assert process.stderr is not None
    until = time.monotonic() + _PATIENCE_S
    said = ""
    while "[sink-down]" not in said and time.monotonic() < until:
        said += process.stderr.readline()
    filler.unlink()
    while "takes results again" not in said and time.monotonic() < until:
        said += process.stderr.readline()
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, said + err
    assert "disk is full" in said
    assert [record["sequence"] for record in records(full)] == [record["sequence"] for record in records(other)]
    summary = json.loads(out)
    assert [(sink["state"], sink["skipped"]) for sink in summary["sinks"]] == [("open", 0), ("open", 0)]
