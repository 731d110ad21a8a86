"""`edgeloc card`: the card of a model file, from its contract and from what a person states."""

from __future__ import annotations

import argparse

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "write the model's card from its contract: data, lineage, figures, limits"
EXTRA: str | None = None
NEEDS: tuple[str, ...] = ()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="the .tflite or .onnx, with its contract in it or beside it")
    add(
        "--about",
        metavar="ABOUT.json",
        help="what only a person can say: license, contact, intended_use, must_not_use, training_data, data_licenses, "
        "limits (default: not stated)",
    )
    add("--out", metavar="CARD", help="write it: Markdown, or JSON where the name ends in .json (default: print it)")
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Read the contract, and print or write the card; 0 when done."""
    from dataclasses import asdict
    from pathlib import Path

    from edgeloc._support.files import atomic_path, require_writable
    from edgeloc._support.json import print_json, to_json
    from edgeloc.benchmarks.card import make_card, read_about
    from edgeloc.benchmarks.card.page import card_page
    from edgeloc.errors import printable

    if arguments.out is not None:
        require_writable(arguments.out, arguments.model, arguments.about)
    card = make_card(arguments.model, None if arguments.about is None else read_about(arguments.about))
    if arguments.out is not None:
        text = to_json(card) if Path(arguments.out).suffix == ".json" else card_page(card)
        with atomic_path(arguments.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if arguments.json:
        print_json(asdict(card))
    elif arguments.out is None:
        print(printable(card_page(card)), end="")
    else:
        print(printable(f"wrote {arguments.out}"))
    return 0
