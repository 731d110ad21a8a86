"""Runs the shipped model on vivid, unbinds the driver in the middle and binds it again; checks what the results say."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from pathlib import Path

import cv2
import numpy as np

import edgeloc
from edgeloc.cameras import open_camera
from edgeloc.models import SHIPPED_INT8

DRIVER = Path("/sys/bus/platform/drivers/vivid")
CAMERA = "v4l2:///dev/video0?size=320x180"
FRAMES = 40
AWAY_S = 3.0


def rate_of_v4l2_ctl() -> float:
    """What vivid gives on this machine to a program that only takes buffers, in frames a second."""
    command = "v4l2-ctl -d /dev/video0 --set-fmt-video width=320,height=180 --stream-mmap --stream-count=150"
    said = subprocess.run(command.split(), capture_output=True, text=True, check=True)
    return float(re.findall(r"([\d.]+) fps", said.stdout + said.stderr)[-1])


def full_rate() -> None:
    """Without a model: vivid's own rate, the driver's time stamps, every frame another."""
    possible = rate_of_v4l2_ctl()
    with open_camera(CAMERA) as camera:
        for _ in range(10):  # the first ones wait for the emulated machine to warm up
            camera.read()
        frames = []
        for _ in range(100):
            frames.append(camera.read())
            driver_s = camera._camera._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            assert frames[-1].captured_at == driver_s, "this is not the driver's time stamp"
        times = np.array([frame.captured_at for frame in frames])
        numbers = [frame.sequence for frame in frames]
        pixels = {frame.pixels.tobytes() for frame in frames}
    steps = np.diff(times)
    came = len(steps) / (times[-1] - times[0])
    print(f"frames a second: {camera.fps:.2f} promised, {possible:.2f} to v4l2-ctl, {came:.2f} to the camera")
    print(f"steps between time stamps: median {np.median(steps) * 1e3:.3f} ms, longest {steps.max() * 1e3:.3f} ms")
    assert came > 0.9 * possible, "not the full rate"
    assert (steps > 0).all() and numbers == list(range(10, 110)) and len(pixels) == 100


def unplug(camera: edgeloc.Camera) -> None:
    """Take the driver away after two seconds and bring it back three seconds later."""
    time.sleep(2)
    (DRIVER / "unbind").write_text("vivid.0")
    print("unplugged; /dev/video0 is there:", Path("/dev/video0").exists())
    time.sleep(AWAY_S)
    (DRIVER / "bind").write_text("vivid.0")
    print("plugged in; nodes:", sorted(str(path) for path in Path("/dev").glob("video*")))


def run_through_a_gap() -> None:
    """The run goes on; the gap is in the summary and in the results, and nothing is stale, repeated or made up."""
    localizer = edgeloc.Localizer(SHIPPED_INT8)
    seen: list[bytes] = []

    def localize(frame: edgeloc.Frame) -> edgeloc.Result:
        seen.append(frame.pixels.tobytes())
        return localizer(frame)

    with open_camera(CAMERA) as camera:
        hand = threading.Thread(target=unplug, args=(camera,))
        hand.start()
        summary = edgeloc.run(camera, localize, "run.jsonl", frames=FRAMES)
        hand.join()
        gaps = camera.gaps
    print(summary)
    rows = [json.loads(line) for line in Path("run.jsonl").read_text().splitlines()]
    times = np.array([row["captured_at"] for row in rows])
    print(f"gaps: {[round(gap.seconds, 2) for gap in gaps]}; longest step between results {np.diff(times).max():.2f} s")
    print("rows that tell the gap:", [row for row in rows if row.get("gap_s")])
    assert len(rows) == FRAMES and len(gaps) == 1 and AWAY_S <= gaps[0].seconds < AWAY_S + 5
    assert abs(np.diff(times).max() - gaps[0].seconds) < 0.5
    assert (np.diff(times) > 0).all() and (np.diff([row["sequence"] for row in rows]) > 0).all()
    assert len(set(seen)) == len(seen), "a frame was given twice"
    assert not any(gaps[0].began_at + 1e-5 < at < gaps[0].ended_at - 1e-5 for at in times), (
        "a frame was captured in the gap"
    )
    assert [row["gap_s"] > 0 for row in rows if "gap_s" in row] == [True]
    assert [finding.code for finding in summary.findings] == ["camera-gaps"]


def unplugged_for_good() -> None:
    """Without a return the run ends with an error after the limit, and what was written is kept."""
    threading.Timer(2, lambda: (DRIVER / "unbind").write_text("vivid.0")).start()
    try:
        edgeloc.run(CAMERA + "&reconnect=3", edgeloc.Localizer(SHIPPED_INT8), "lost.jsonl")
    except edgeloc.errors.CameraError as error:
        print("lost:", error)
        assert "did not come back in 3 s" in str(error) and error.exit_status == 3
    else:
        raise AssertionError("the run did not end")
    assert Path("lost.jsonl").read_text().splitlines()


full_rate()
run_through_a_gap()
unplugged_for_good()
print("PASSED")
