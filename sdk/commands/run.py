"""`edgeloc run`: the command line of the run loop."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from edgeloc._support.interrupt import EXIT_INTERRUPTED, EXIT_TERMINATED, sure_end
from edgeloc._support.json import print_json
from edgeloc._support.numbers import above_zero, at_least_one, for_flag, number, threads_or_auto
from edgeloc.errors import UsageError, printable

if TYPE_CHECKING:
    from edgeloc.geometry import CameraGeometry
    from edgeloc.localizer import Localizer
    from edgeloc.loop.follow import Follower
    from edgeloc.loop.own import OwnLocalizer
    from edgeloc.loop.summary import RunSummary
    from edgeloc.loop.tracking import Tracker
    from edgeloc.model.contract import Contract
    from edgeloc.sinks import Sink

HELP = "find the object in what a camera sees, live, and show or record it"
EXTRA: str | None = None
NEEDS = ("cv2", "numpy")

# How a run over a file that was not done ended.
_STATUSES = {"interrupt": EXIT_INTERRUPTED, "terminated": EXIT_TERMINATED}
# Of a source whose frames may differ.
_USUAL_SIZE = (640, 480)
# ByteTrack's: from which score a detection may continue a track.
_CANDIDATES_FROM = 0.1
# The arguments that name a file to be read.
FILES = ("model", "cpu_model", "contract", "calibration")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags, in groups."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="the model, .tflite or .onnx, which carries its contract; or your own function from a frame to a result, "
        "as package.module:name or path/to/file.py:name",
    )
    add(
        "--camera",
        metavar="URI",
        required=True,
        help="v4l2:///dev/video0?size=640x480&fps=30&format=MJPG, picamera://0, csi://0, gst://PIPELINE, "
        "rtsp://HOST/STREAM, a video file, a folder of images, data://PATH?split=val, synthetic://?seed=1 or "
        "fake://?disconnect=60:2; or @FILE, whose first line is the URI",
    )
    _add_output(parser.add_argument_group("results"))
    _add_engine(parser.add_argument_group("the model and what runs it"))
    _add_frames(parser.add_argument_group("frames"))
    _add_tracks(parser.add_argument_group("following objects"))
    _add_direction(parser.add_argument_group("where objects are seen from the camera"))


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--sink",
        metavar="URI",
        action="append",
        default=[],
        help="window, - (standard output), http://127.0.0.1:8080, mqtt://HOST, mavlink://HOST:PORT, ros2://, "
        "udp://HOST:PORT, tcp://HOST:PORT, unix:///run/edgeloc.sock, shm://NAME, or a path ending in .mp4, .avi, "
        ".jsonl or .mcap, with {time} in its name if you like; may be given more than once",
    )
    add("--overwrite", action="store_true", help="empty the files of sinks that are there already")
    add(
        "--blur",
        choices=("inside", "outside"),
        help="blur what is inside or outside of the boxes beyond recognition, in all that is shown, stored or sent",
    )
    add("--json", action="store_true", help="print the summary as one JSON object instead of text")


def _add_engine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--contract", metavar="FILE.json", help="the contract of a model that carries none")
    add(
        "--engine",
        default="auto",
        metavar="NAME",
        help="auto, litert, tflite-runtime, tensorflow, edgetpu (edgetpu://usb:1 for one of several), tensorrt, "
        "onnxruntime, or fastest: of those installed, the fastest that passes the self-test (default: auto)",
    )
    add(
        "--cpu-model",
        metavar="FILE.tflite",
        help="with --engine auto and a model compiled for the Edge TPU: the model to fall back to on the CPU",
    )
    add(
        "--threads",
        type=threads_or_auto,
        metavar="N",
        help="threads of the engine; auto measures once how many are the fastest here (default: its own choice)",
    )
    add(
        "--deadline-ms",
        type=above_zero,
        metavar="MS",
        help="run the engine in a process of its own, and end and restart it when an inference takes longer "
        "(default: no limit; 5000 on the Edge TPU)",
    )
    add(
        "--cores",
        metavar="CORES",
        help="CPU cores to run on: big (the fast ones), all, or numbers such as 4-7 (default: all)",
    )


def _add_frames(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--skip-bad", action="store_true", help="of a folder or data set: leave bad images and rows out and count them")
    add(
        "--mode",
        choices=("newest", "fresh"),
        default="newest",
        help="live cameras: the newest frame there is, or one exposed after the last result (default: newest)",
    )
    add(
        "--pipeline",
        action="store_true",
        help="capture and preprocess the next frame while the network is busy with this one: more results a second "
        "where a core is free",
    )
    add("--budget-ms", type=above_zero, metavar="MS", help="mark results as stale above this frame age")
    add("--frames", type=at_least_one, metavar="N", help="end after this many results (default: with the source)")


def _add_tracks(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--track",
        action="store_true",
        help="follow objects between frames: number them, smooth their boxes, bridge up to a second without them",
    )
    add(
        "--follow",
        action="store_true",
        help="--track, and once a small object is found, look closer at where it will be instead of at the whole frame",
    )
    add(
        "--predict-ms",
        type=for_flag(number(0)),
        metavar="MS",
        help="with --track: the track's box is where the object will be this long after the result is ready",
    )


def _add_direction(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--hfov",
        type=for_flag(number(0, 180, above=True)),
        metavar="DEG",
        help="give each result its direction: the camera's horizontal field of view, of a lens without distortion",
    )
    add("--calibration", metavar="FILE.yml", help="the same by OpenCV's or ROS's calibration file of the camera")
    add(
        "--mounting",
        type=for_flag(_angles),
        metavar="ROLL,PITCH,YAW",
        help="with either: how the camera sits in the body, in degrees; 0,-90,0 looks down (default: 0,0,0)",
    )
    add(
        "--object-width-m",
        type=above_zero,
        metavar="M",
        help="with either: how wide the object is in metres, which gives its distance",
    )


def run(args: argparse.Namespace) -> int:
    """Run until the source, the user or --frames ends it, and print the summary.

    A signal is the usual end of a live camera's run: exit status 0. A file's run that is interrupted is not done: 130
    after Ctrl-C, 143 after SIGTERM or SIGHUP. Where the reader behind `-` went away nothing is printed: 141.
    """
    from edgeloc._support.backend import uri_of
    from edgeloc.loop.run import keep_apart
    from edgeloc.sinks import open_sink

    args.camera, args.sink = uri_of(args.camera), [uri_of(sink) for sink in args.sink]
    args.track = args.track or args.follow
    if args.predict_ms is not None and not args.track:
        raise UsageError("only a track can be predicted", hint="give {track}")
    if args.hfov and args.calibration:
        raise UsageError("the camera's geometry is given twice", hint="give {hfov} or {calibration}")
    if (args.mounting or args.object_width_m) and not (args.hfov or args.calibration):
        raise UsageError("a direction needs the camera's geometry", hint="give {hfov} or {calibration}")
    sinks = [open_sink(uri, overwrite=args.overwrite) for uri in args.sink] + _service_manager()
    keep_apart(args.camera, sinks)
    with sure_end(partial(_last_words, sinks)):
        summary = _run(args, sinks)
    piped = [sink for sink in sinks if sink.name == "-"]
    if any(sink.ended for sink in piped):
        raise BrokenPipeError
    # A video without a frame is not kept.
    written = [sink.name for sink in sinks if os.path.exists(sink.name)]
    # Standard output is for the results where one sink is `-`.
    out = sys.stderr if piped else sys.stdout
    if args.json:
        findings = [finding.to_dict() for finding in summary.findings]
        print_json({**dataclasses.asdict(summary), "findings": findings, "written": written}, out)
    else:
        print(printable(_as_text(summary, written)), file=out)
    return 0 if summary.live else _STATUSES.get(summary.ended_by or "", 0)


def _run(args: argparse.Namespace, sinks: list[Sink]) -> RunSummary:
    from edgeloc.cameras import open_camera
    from edgeloc.loop.run import run as run_loop

    if args.cores:
        # edgeloc.device knows the board's cores; the SDK may not import it.
        importlib.import_module("edgeloc.device.cpu").use_cores(args.cores)
    localizer = _localizer(args)
    contract = localizer.contract
    wanted = None if contract is None else (contract.input.width, contract.input.height)
    with open_camera(args.camera, size=wanted, skip_bad=args.skip_bad) as camera:
        tracker = _tracker(args, contract) if args.track else None
        return run_loop(
            camera,
            _follower(localizer, tracker) if args.follow and tracker is not None else localizer,
            *sinks,
            mode=args.mode,
            pipeline=args.pipeline,
            budget_ms=args.budget_ms,
            frames=args.frames,
            tracker=tracker,
            geometry=_geometry(args, camera.size) if args.hfov or args.calibration else None,
            object_width_m=args.object_width_m,
            blur=args.blur,
        )


def _localizer(args: argparse.Namespace) -> Localizer | OwnLocalizer:
    """Of a model file, or the user's own."""
    from edgeloc.loop.own import OwnLocalizer, is_own_code, require_no_options

    if is_own_code(args.model):
        require_no_options(args.model, vars(args))
        return OwnLocalizer(args.model)
    from edgeloc.localizer import Localizer

    candidates_from = _CANDIDATES_FROM if args.track else None
    return Localizer(
        args.model, args.engine, args.threads, args.contract, args.cpu_model, args.deadline_ms, candidates_from
    )


def _tracker(args: argparse.Namespace, contract: Contract | None) -> Tracker:
    # A run without it starts sooner.
    from edgeloc.loop.tracking import Tracker

    return Tracker(contract, predict_ms=args.predict_ms)


def _follower(localizer: Localizer | OwnLocalizer, tracker: Tracker) -> Follower:
    from edgeloc.loop.follow import Follower

    return Follower(localizer, tracker)


def _geometry(args: argparse.Namespace, size: tuple[int, int] | None) -> CameraGeometry:
    from edgeloc.geometry import CameraGeometry

    mounting = args.mounting or (0.0, 0.0, 0.0)
    if args.calibration:
        return CameraGeometry.from_calibration(args.calibration, mounting_deg=mounting)
    return CameraGeometry.from_hfov(args.hfov, size or _USUAL_SIZE, mounting_deg=mounting)


def _angles(text: str) -> tuple[float, float, float]:
    try:
        roll, pitch, yaw = (number(-360, 360)(part) for part in text.split(","))
    except ValueError:
        raise ValueError("three angles in degrees such as 0,-90,0") from None
    return roll, pitch, yaw


def _last_words(sinks: list[Sink], doing: str) -> str:
    """Close the sinks but the one that hangs, and name what was written."""
    for sink in sinks:
        if doing.removeprefix("closing ") != sink.name:
            with suppress(Exception):  # there is no time left to say so
                sink.close()
    written = [sink.name for sink in sinks if os.path.exists(sink.name)]
    return f"what was written is kept: {', '.join(written)}" if written else "nothing was written"


def _as_text(summary: RunSummary, written: list[str]) -> str:
    return f"{summary}\nWrote {', '.join(written)}." if written else str(summary)


def _service_manager() -> list[Sink]:
    """Under systemd, the sink that reports progress to it; last, so that it reports what the others have written."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return []
    progress: Sink = importlib.import_module("edgeloc.device.service.notify").ProgressSink.from_environment()
    return [progress]
