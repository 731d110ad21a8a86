"""`edgeloc adapt`: a class more for an int8 localizer, or its presence head again, on the device; and the way back."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeloc._support.json import print_json
from edgeloc.errors import UsageError, printable

if TYPE_CHECKING:
    from edgeloc.adaptation import Adapted, AdaptedPresence

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "teach an int8 localizer a new class, or what is an object, from a few photos, on the device, or undo it"
EXTRA = None
NEEDS = ("cv2", "numpy")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="the .tflite to adapt; with --undo, the adapted one")
    add("--out", metavar="NEW", required=True, help="the file to write")
    add("--data", metavar="PHOTOS", help="photos: a labelled data set, or a folder of images with --label")
    add(
        "--head",
        choices=("class", "presence"),
        default="class",
        help="what learns: class, for new classes, or presence, for objects that are missed and false alarms "
        "(default: class)",
    )
    add("--label", metavar="NAME", help="the class of photos that carry no label")
    add("--split", metavar="NAME", help="which split of the data (default: all of it)")
    add("--undo", action="store_true", help="write the file that MODEL was adapted from, byte for byte")
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Adapt, or undo; 0 when the file is written."""
    from dataclasses import asdict

    from edgeloc.adaptation import adapt, adapt_presence, undo

    if args.undo:
        given = next((name for name in ("data", "label", "split") if getattr(args, name) is not None), None)
        given = given or ("head" if args.head != "class" else None)
        if given:
            raise UsageError(f"--{given} does not go with --undo, which only gives back the file before")
        digest = undo(args.model, args.out)
        text = f"wrote {args.out}, the file before, SHA-256 {digest}"
        print_json({"path": args.out, "sha256": digest}) if args.json else print(printable(text))
        return 0
    if args.data is None:
        raise UsageError("give the photos to learn from with --data PHOTOS, or --undo")
    done: Adapted | AdaptedPresence
    if args.head == "presence":
        if args.label is not None:
            raise UsageError("--label names a class, which the presence head does not learn: leave it out")
        done = adapt_presence(args.model, args.data, args.out, split=args.split)
        lines = _presence_lines(done)
    else:
        done = adapt(args.model, args.data, args.out, label=args.label, split=args.split)
        lines = _lines(done)
    if args.json:
        print_json({**asdict(done), "path": str(done.path)})
    else:
        for line in lines:
            print(printable(line))
    return 0


def _lines(done: Adapted) -> Iterator[str]:
    for one in done.learned:
        yield f"learned   {one.label}: {one.photos} photos, {one.right:.3f} right when held out, {one.found:.3f} found"
    yield f"in file   {done.in_file:.3f} of these photos get their label"
    if done.old_before is None or done.old_after is None:
        yield "old       the data shows no class that the model knew: what they lost is known of scenes alone"
    else:
        lost = done.old_before - done.old_after
        yield (
            f"old       {done.old_photos} photos, right {done.old_before:.3f} before, {done.old_after:.3f} after "
            f"(lost {lost:.3f})"
        )
    yield f"scenes    {done.taken:.3f} of generated scenes get a new label"
    yield f"wrote     {done.path}"


def _presence_lines(done: AdaptedPresence) -> Iterator[str]:
    for name, count, what, before, after in (
        ("found", done.photos, "photos with an object", done.found_before, done.found_after),
        ("alarms", done.empty, "photos and crops without", done.false_alarms_before, done.false_alarms_after),
    ):
        if before is None or after is None:
            yield f"{name:<9} the data has no {what}"
        else:
            yield f"{name:<9} {count} {what}: an object seen in {before:.3f} before, {after:.3f} after (held out)"
    yield f"scenes    {done.scenes_before:.3f} of generated scenes judged rightly before, {done.scenes_after:.3f} after"
    yield f"in file   {done.in_file:.3f} of these photos and crops judged rightly"
    yield f"wrote     {done.path}"
