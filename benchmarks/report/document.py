"""A page of figures: the parts that it is made of, and its rendering as HTML or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Any, NamedTuple

from edgeloc.benchmarks.result import BenchResult
from edgeloc.errors import MissingExtra

__all__ = [
    "Cell",
    "Page",
    "Pair",
    "Plot",
    "Row",
    "Section",
    "Side",
    "Table",
    "Tile",
    "escaped",
    "figure",
    "format_time",
    "render",
    "to_markdown",
    "value_at",
]

_TEMPLATES = "edgeloc.benchmarks.report"
# A table of more columns than the first is stacked on a phone, one of more than the second everywhere.
_NARROW, _WIDE = 4, 8


class Cell(NamedTuple):
    """A text, and where in `result.json` its figure stands, such as `latency.invoke.p50_ms`; "" where nowhere."""

    text: str
    key: str = ""


Row = Sequence[Cell | str]
"""The cells of a table's row, its name first."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under an optional head; the cells of a `text` table are prose, not numbers."""

    head: Sequence[str]
    rows: Sequence[Row]
    text: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows with every cell as a Cell."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    @property
    def layout(self) -> str:
        """How it fits: `few` columns always do, `some` are stacked on a phone, `many` everywhere."""
        columns = max((len(row) for row in self.rows), default=0)
        return "few" if columns <= _NARROW else "some" if columns <= _WIDE else "many"


@dataclass(frozen=True, slots=True)
class Plot:
    """An SVG and its caption."""

    svg: str
    caption: str


class Side(NamedTuple):
    """One of two pictures of an image: its title, what it shows, and its data URI; None where it cannot be read."""

    title: str
    shows: str
    picture: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """An image twice, with the boxes of one model each."""

    left: Side
    right: Side
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A title, what to know, and what is shown: tables, then plots, then pairs of pictures, then a command line."""

    title: str
    words: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    pairs: Sequence[Pair] = ()
    command: str = ""


class Tile(NamedTuple):
    """One figure in large print."""

    name: str
    value: Cell
    note: str


@dataclass(frozen=True, slots=True)
class Page:
    """A document: what was measured (`over` the headline), the headline, when and where, what to know, the figures."""

    title: str
    over: str
    headline: str
    subtitle: str
    warnings: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = field(default_factory=list)


def value_at(result: BenchResult, *path: str) -> Any:
    """What stands at `path` in the result; None where there is nothing."""
    value: Any = result
    for name in path:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value


def figure(result: BenchResult, form: Callable[[Any], str], *path: str) -> Cell:
    """The figure at `path` in the result, formatted; a dash where there is none."""
    value = value_at(result, *path)
    return Cell("-") if value is None else Cell(form(value), ".".join(path))


def format_time(moment: str) -> str:
    """A moment of ISO 8601, as in 2025-12-31 23:59 UTC where it is one in UTC."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)?(\+00:00|Z)", moment)
    return f"{match[1]} {match[2]} UTC" if match else moment


def render(template: str, package: str = _TEMPLATES, **values: Any) -> str:
    """Fill a template of `package`, which may extend those of the report; MissingExtra without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2", "bench", "the report") from error
    loader = jinja2.ChoiceLoader([jinja2.FunctionLoader(partial(_read, one)) for one in (package, _TEMPLATES)])
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=loader, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def _read(package: str, name: str) -> str | None:
    found = files(package).joinpath(name)
    return found.read_text(encoding="utf-8") if found.is_file() else None


def to_markdown(page: Page) -> str:
    """The page's words and tables as Markdown; of the plots and pictures, the names of the images."""
    return "\n".join(_lines(page)).rstrip() + "\n"


def _lines(page: Page) -> Iterator[str]:
    yield from (f"# {escaped(page.headline)}", "", escaped(f"{page.over}. {page.subtitle}"), "")
    yield from (f"> **Note:** {escaped(warning)}\n" for warning in page.warnings)
    if page.tiles:
        rows = [[tile.name, tile.value.text, tile.note] for tile in page.tiles]
        yield from _table_lines(Table(["", "", ""], rows))
    for section in page.sections:
        yield from (f"## {escaped(section.title)}", "")
        if section.words:
            yield from (escaped(section.words), "")
        for table in section.tables:
            yield from _table_lines(table)
        if section.pairs:
            yield from (_pair_line(pair) for pair in section.pairs)
            yield ""
        if section.command:
            yield from ("```sh", section.command, "```", "")


def _table_lines(table: Table) -> Iterator[str]:
    columns = max(len(row) for row in table.cells)
    numbers = "---" if table.text else "---:"
    yield _row_line(table.head or [""] * columns)
    yield _row_line(["---", *[numbers] * (columns - 1)], escape=False)
    yield from (_row_line([cell.text for cell in row]) for row in table.cells)
    yield ""


def _row_line(cells: Sequence[str], *, escape: bool = True) -> str:
    return "| " + " | ".join(escaped(cell) if escape else cell for cell in cells) + " |"


def _pair_line(pair: Pair) -> str:
    return f"- {escaped(f'{pair.caption} ({pair.left.title}, {pair.right.title})')}"


def escaped(text: str) -> str:
    """Text as Markdown shows it, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
