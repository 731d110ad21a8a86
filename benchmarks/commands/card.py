"""`edgeloc card`: the card of a model file as JSON, or as Markdown with the front matter of the Hugging Face Hub."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeloc.benchmarks.card import Card
    from edgeloc.benchmarks.card.figures import Figure, Measurement

__all__ = ["EXTRA", "HELP", "NEEDS", "card_page", "configure", "run"]

HELP = "write the model's card from its contract: data, lineage, figures, limits"
EXTRA: str | None = None
NEEDS: tuple[str, ...] = ()

_UNKNOWN = "unknown"
_CODE = re.compile(r"`[0-9a-f]+`")
# What the Hub has as `license`: one word in small letters; others go by `license_name`.
_ONE_WORD = re.compile(r"[\w.+-]+")


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
    from edgeloc.errors import printable
    from edgeloc.model.file import contract_file

    if arguments.out is not None:
        require_writable(arguments.out, arguments.model, contract_file(arguments.model), arguments.about)
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


def card_page(card: Card) -> str:
    """The card as Markdown.

    The front matter follows https://huggingface.co/docs/hub/model-cards: license, tags, pipeline_tag, and the figures
    of the quantized model as `model-index`, but of an adapted one. Its values are JSON, which YAML includes.
    """
    parts = [_front_matter(card), _title(card), _use(card), _data(card), _lineage(card), _training(card)]
    return "\n".join("\n".join(part) + "\n" for part in [*parts, _figures(card), _limits(card), _end(card)])


def _front_matter(card: Card) -> Iterator[str]:
    values: dict[str, Any] = {
        **_license(card.about.license),
        "library_name": card.network.format,
        "pipeline_tag": "object-detection",
        "tags": ["edgeloc", "object-localization", *([card.network.recipe] if card.network.recipe else [])],
    }
    # The figures that an adapted file carries are those of the file before.
    own = not any(origin.name == "adapted_from" for origin in card.lineage)
    if own and card.measurement is not None and (metrics := list(_metrics(card.measurement.figures))):
        measured = card.measurement
        data = {"name": measured.data or _UNKNOWN, "type": measured.data or _UNKNOWN, "split": measured.split}
        dataset = {name: value for name, value in data.items() if value is not None}
        result = {"task": {"type": "object-detection"}, "dataset": dataset, "metrics": metrics}
        values["model-index"] = [{"name": card.name, "results": [result]}]
    return iter(["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()), "---"])


def _license(stated: str) -> dict[str, str]:
    from edgeloc.benchmarks.card import NOT_STATED

    if stated == NOT_STATED:
        return {"license": _UNKNOWN}
    if _ONE_WORD.fullmatch(stated):
        return {"license": stated.lower()}
    return {"license": "other", "license_name": stated}


def _metrics(figures: Iterable[Figure]) -> Iterator[dict[str, Any]]:
    for figure in figures:
        if figure.of == "all" and figure.quantized is not None:
            kind = re.sub(r"\W+", "_", figure.name.lower()).strip("_")
            # YAML takes an exponent without a point, as in 5e-05, for a text.
            value = figure.quantized if figure.quantized >= 1e-4 else round(figure.quantized, 4)
            yield {"type": kind, "name": figure.name, "value": value}


def _title(card: Card) -> Iterator[str]:
    network = card.network
    yield f"# {_text(card.name)}"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("finds", card.task),
            ("labels", ", ".join(card.labels) or "none"),
            ("input", network.input),
            ("counts from", f"presence {card.thresholds.presence:g}, label {card.thresholds.label:g}"),
            ("format", f"{network.format}, {network.precision}, {network.file_bytes:,} bytes"),
            ("recipe", network.recipe or _UNKNOWN),
            ("network", f"{network.parameters:,} parameters, {network.macs:,} multiply-accumulates"),
            ("licence", card.about.license),
            ("contact", card.about.contact),
        ],
    )


def _use(card: Card) -> Iterator[str]:
    from edgeloc.benchmarks.card import NOT_STATED

    yield "## Use"
    yield ""
    yield f"Intended: {_text(card.about.intended_use)}"
    yield ""
    yield "It must not be used for:" + ("" if card.about.must_not_use else f" {NOT_STATED}")
    yield from ["", *(f"- {_text(one)}" for one in card.about.must_not_use)] if card.about.must_not_use else []


def _data(card: Card) -> Iterator[str]:
    yield "## Data"
    yield ""
    rows = [(use.role, use.name, use.split, use.images, use.license, _digest(use.sha256)) for use in card.data]
    yield from _table(("for", "data", "split", "images", "licence", "SHA-256"), rows)


def _lineage(card: Card) -> Iterator[str]:
    yield "## Lineage"
    yield ""
    rows = [(origin.name, origin.what, _digest(origin.sha256)) for origin in card.lineage]
    yield from _table(("", "what", "SHA-256"), [*rows, ("file", "this file", _digest(card.network.file_sha256))])
    yield ""
    made = ", ".join(f"{name} {version}" for name, version in card.tools.items())
    yield f"Made with: {_text(made or _UNKNOWN)}."


def _training(card: Card) -> Iterator[str]:
    yield "## Training"
    yield ""
    if card.training is None:
        yield f"{_UNKNOWN.capitalize()}: the contract records nothing of it."
        return
    for title, values in (("settings", card.training.settings), ("on validation images", card.training.validation)):
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        yield f"- {title}: {_text(shown or _UNKNOWN)}"


def _figures(card: Card) -> Iterator[str]:
    yield "## Figures"
    yield ""
    measured = card.measurement
    if measured is None:
        yield f"{_UNKNOWN.capitalize()}: nothing was measured when the file was made."
    else:
        yield from _measured(measured)
    if card.also_recorded:
        yield ""
        yield f"The contract also records {_text(', '.join(card.also_recorded))}: see `edgeloc inspect --json`."


def _measured(measured: Measurement) -> Iterator[str]:
    from edgeloc.evaluation.figures import describe_sizes

    where = measured.data or "data of unknown name"
    split = "" if measured.split is None else f", split {measured.split}"
    taken = _text(f"Measured at the conversion on {where}{split}: {_or_unknown(measured.images)} images.")
    yield f"{taken} {_verdict(measured)}"
    titles = {
        "all": "",
        "size": f"By size, the root of the share of the image ({describe_sizes()})",
        "class": "By class",
    }
    for of, title in titles.items():
        figures = [figure for figure in measured.figures if figure.of == of]
        yield ""
        if title:
            yield f"{title}:" + ("" if figures else f" {_UNKNOWN}")
        if figures:
            yield ""
            yield from _table(
                ("", "over", "float", "quantized", "float - quantized", "95 % interval"), map(_row, figures)
            )


def _row(figure: Figure) -> tuple[object, ...]:
    from edgeloc.evaluation.figures import format_drop, format_interval, format_share

    return (
        f"{figure.name}, {figure.which}" if figure.which else figure.name,
        figure.count,
        format_share(figure.float_model),
        format_share(figure.quantized),
        "-" if figure.drop is None else format_drop(figure.drop, 0.0),
        format_interval(figure.drop_ci95),
    )


def _verdict(measured: Measurement) -> str:
    passed = {True: "All limits of the conversion were kept.", False: "A limit of the conversion was broken."}
    kept = _UNKNOWN if measured.passed is None else passed[measured.passed]
    by = measured.interval_by
    return kept if by is None else f"{kept} The interval resamples {_or_unknown(measured.interval_groups)} {by}s."


def _limits(card: Card) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield from (f"- {_text(one)}" for one in (*card.limits, *card.about.limits))


def _end(card: Card) -> Iterator[str]:
    from edgeloc.benchmarks.card import NOT_STATED

    yield f"*Written by `edgeloc card` {card.written_by} from the file's own contract. `{_UNKNOWN}` is what that does"
    yield f"not record, `{NOT_STATED}` what no person has said.*"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield _line(head)
    yield "|" + "---|" * len(head)
    yield from (_line([_or_unknown(value) for value in row]) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell if _CODE.fullmatch(cell) else _text(cell) for cell in cells) + " |"


def _digest(sha256: str | None) -> str | None:
    return None if sha256 is None else f"`{sha256}`"


def _or_unknown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else _UNKNOWN)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _or_unknown(value)


def _text(text: str) -> str:
    from edgeloc.benchmarks.report.document import escaped

    return escaped(text)
