"""`edgeloc label`: boxes proposed by a model, corrected by hand in a page of this machine, saved as COCO."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.interrupt import EXIT_TERMINATED, Terminated
from edgeloc._support.numbers import at_least_one
from edgeloc.errors import UsageError, printable

if TYPE_CHECKING:
    from edgeloc.labelling.session import LabelSession
    from edgeloc.sinks.web.address import WebAddress

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "label images by hand in a local page, where a model proposes the boxes"
EXTRA = "web"
NEEDS = ("tornado", "cv2", "numpy")

_PAGE = "http://127.0.0.1:8080"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add = parser.add_argument
    add("source", metavar="FOLDER", help="a folder of images, or a video, whose labelled frames become images")
    add("--model", metavar="MODEL", help="what proposes boxes, .tflite or .onnx (default: the localizer that ships)")
    add(
        "--run",
        dest="run_file",
        metavar="RUN.jsonl",
        help="take the boxes from a run over FOLDER instead, as --sink RUN.jsonl wrote them",
    )
    add(
        "--classes",
        metavar="NAMES",
        help="the names of the classes, with commas between (default: those of LABELS.json, or of the model)",
    )
    add(
        "--out",
        metavar="LABELS.json",
        help="the COCO file to write, or to go on with (default: FOLDER/labels.json, VIDEO-labels/labels.json)",
    )
    add(
        "--frames",
        type=at_least_one,
        metavar="N",
        help="at most so many images, spread evenly (default: all of a folder, 200 of a video)",
    )
    add(
        "--page",
        default=_PAGE,
        metavar="URI",
        help="where the page is; beyond this machine it demands a token: http://0.0.0.0:8080?token_file=FILE "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, which is how a session ends; the exit status is 143 after SIGTERM."""
    address, session = _address(args.page), _session(args)
    from edgeloc.labelling.site import ROUTES

    server = address.listen(ROUTES, session)
    status = 0
    try:
        done, count = session.counts
        print(f"{done} of {count} images are labelled. Open {_shown(address, server.port)} (Ctrl-C ends)", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt as error:
        status = EXIT_TERMINATED if isinstance(error, Terminated) else 0
    finally:
        server.close()
    print(printable(_summary(session)))
    return status


def _address(page: str) -> WebAddress:
    from edgeloc._support.backend import split_uri, uri_of
    from edgeloc.sinks.web.address import WebAddress

    return WebAddress.from_uri(split_uri(uri_of(page), "page"))


def _session(args: argparse.Namespace) -> LabelSession:
    from edgeloc.labelling.images import images_of, labels_beside
    from edgeloc.labelling.labels import LabelFile
    from edgeloc.labelling.proposals import ModelProposals, RunProposals
    from edgeloc.labelling.session import LabelSession
    from edgeloc.models import SHIPPED_INT8

    if args.model and args.run_file:
        raise UsageError("a model and a run would both propose boxes", hint="give {model} or {run_file}")
    source = Path(args.source)
    out = Path(args.out) if args.out else labels_beside(source)
    propose = RunProposals(Path(args.run_file)) if args.run_file else ModelProposals(args.model or SHIPPED_INT8)
    images = images_of(source, out, args.frames)
    return LabelSession(LabelFile(out, _names(args.classes)), images, propose, propose.classes)


def _names(text: str | None) -> list[str]:
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise UsageError(field="classes", value=text, allowed="names with commas between, none empty and none twice")
    return names


def _shown(address: WebAddress, port: int) -> str:
    import dataclasses

    url = dataclasses.replace(address, port=port).url
    return f"{url}/?token=... with your token" if address.token else url


def _summary(session: LabelSession) -> str:
    done, count = session.counts
    if not done:
        return "No image was labelled."
    path = session.labels.path
    return f"{done} of {count} images are labelled in {path}; train with: edgeloc train --training {path}"
