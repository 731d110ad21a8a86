"""The public table: a static page of many results, with the conditions and the file behind each row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeloc._support.files import atomic_path, require_writable
from edgeloc.benchmarks.energy import format_digits
from edgeloc.benchmarks.report.cost import format_ms
from edgeloc.benchmarks.report.document import Cell, Table, figure, format_time, render, value_at
from edgeloc.benchmarks.report.facts import condition_rows, model_name
from edgeloc.benchmarks.report.page import answer_ms, notes
from edgeloc.benchmarks.result import LOCALIZE, BenchResult, is_result_name, machine, obstacles, read_result
from edgeloc.errors import DataError, UsageError
from edgeloc.evaluation.figures import format_share

__all__ = ["Entry", "Site", "publish"]

_FILES = "results"
# A name has at most 255 bytes on most file systems.
_LONGEST_STEM = 200
# What a published file is called: its own name, and the beginning of its SHA-256.
_PUBLISHED = re.compile(r"-[0-9a-f]{12}(\.json(?:\.gz)?)$")
_COLUMNS = (
    "board", "model", "recipe", "engine", "frame p50, ms", "p90, ms", "float p50, ms", "quality", "drop",
    "energy, mJ", "status",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One result, and its file: the name that it is published under, relative to the page, and its bytes."""

    result: BenchResult
    source: Path
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Site:
    """What was published, and which files were left out, each with the reason."""

    entries: tuple[Entry, ...]
    left_out: tuple[tuple[Path, str], ...]

    @property
    def pictures(self) -> int:
        """How many pictures of validation images the files hold."""
        parts = (part for entry in self.entries for part in (entry.result.regression, entry.result.detection) if part)
        return sum(image.preview is not None for part in parts for image in part.worst)


def publish(sources: Sequence[str | Path], out: str | Path, *, skip_bad: bool = False) -> Site:
    """Write the page `index.html` of all results in `sources` into the folder `out`, and their files beside it.

    `sources` are results, or folders of them, which are searched to their depth. The page takes its place last and
    whole: until then an older one stays as it is, with the files that it refers to. What an earlier page had and this
    one has not is removed then.

    Raises DataError for a file that is no result, which `skip_bad` leaves out and lists on the page; UsageError without
    any result, or where the results lie in `out`; OutputError where `out` cannot be written; MissingExtra without
    jinja2.
    """
    folder = Path(out)
    site = _read(list(_files(sources, folder)), skip_bad)
    page = render("site.html", __name__, **_values(site))
    require_writable(folder / "index.html")
    new = [entry for entry in site.entries if not (folder / entry.name).exists()]
    try:
        for entry in new:
            with atomic_path(folder / entry.name) as temporary:
                temporary.write_bytes(entry.data)
        with atomic_path(folder / "index.html") as temporary:
            temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    except BaseException:
        for entry in new:
            (folder / entry.name).unlink(missing_ok=True)
        raise
    _remove_stale(folder, {entry.name for entry in site.entries})
    return site


def _files(sources: Sequence[str | Path], out: Path) -> Iterator[Path]:
    """The files of results that are named, or lie in a folder that is."""
    for source in map(Path, sources):
        found = [source]
        if source.is_dir():
            every = (path for path in source.rglob("*") if is_result_name(path.name) and path.is_file())
            # A page that was published within the folder is not a source of the next.
            found = sorted(path for path in every if not (_within(out, source) and _within(path, out)))
            if not found:
                raise UsageError(f"{source} holds no result", hint="give a folder with files of `edgeloc bench`")
        for path in found:
            if _within(path, out):
                raise UsageError(f"{path} lies in {out}, which is written", hint="give {out} a folder of its own")
            yield path


def _within(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _read(paths: Sequence[Path], skip_bad: bool) -> Site:
    """Every result once, sorted by board, model, recipe and time of a frame."""
    entries: dict[str, Entry] = {}
    left_out: list[tuple[Path, str]] = []
    for path in paths:
        try:
            result = read_result(path)
        except DataError as error:
            if not skip_bad:
                raise DataError(str(error), hint="leave it out with {skip_bad}") from error
            left_out.append((path, str(error)))
            continue
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        entries.setdefault(digest, Entry(result, path, _published_name(path, digest), data))
    if not entries:
        raise UsageError("there is no result to publish", hint="give files of `edgeloc bench`")
    return Site(tuple(sorted(entries.values(), key=_order)), tuple(left_out))


def _order(entry: Entry) -> tuple[Any, ...]:
    result = entry.result
    return machine(result), model_name(result), result.model.recipe, answer_ms(result) or 0.0, entry.name


def _published_name(path: Path, digest: str) -> str:
    suffix = ".json.gz" if path.name.endswith(".gz") else ".json"
    stem = re.sub(r"[^\w.-]+", "-", path.name.removesuffix(suffix), flags=re.ASCII).strip(".-") or "result"
    # A copy of what was published before keeps its name.
    stem = stem.removesuffix(f"-{digest[:12]}")[:_LONGEST_STEM]
    return f"{_FILES}/{stem}-{digest[:12]}{suffix}"


def _remove_stale(folder: Path, wanted: set[str]) -> None:
    for path in (folder / _FILES).iterdir():
        if _PUBLISHED.search(path.name) and f"{_FILES}/{path.name}" not in wanted:
            path.unlink()


def _values(site: Site) -> dict[str, Any]:
    """What the template is filled with."""
    results = [entry.result for entry in site.entries]
    return {
        "headline": f"{_number(len(results), 'result')} on {_number(len({machine(one) for one in results}), 'board')}",
        "models": _number(len({one.model.sha256 for one in results}), "model"),
        "held": sum(not one.comparable for one in results),
        "columns": _COLUMNS,
        "rows": [_row(entry) for entry in site.entries],
        "left_out": [(str(path), reason) for path, reason in site.left_out],
    }


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _row(entry: Entry) -> dict[str, Any]:
    result = entry.result
    rows = [["model", result.model.path], ["its SHA-256", result.model.sha256], *condition_rows(result)]
    return {
        "cells": list(_cells(result)),
        "comparable": result.comparable,
        "notes": notes(result),
        "conditions": Table([], rows, text=True),
        "command": result.command,
        "file": entry.name,
        "when": format_time(result.created_at),
    }


def _cells(result: BenchResult) -> Iterator[tuple[Cell, Any]]:
    """Each cell, and what its column is sorted by; None comes last."""
    engine = result.model.engine
    threads = result.latency_run.threads if result.latency_run else None
    words = (machine(result), model_name(result), result.model.recipe or result.model.precision)
    yield from ((Cell(word), word) for word in words)
    yield Cell(f"{engine}, {_number(threads, 'thread')}" if threads else engine), engine
    for part, name in (("latency", "p50_ms"), ("latency", "p90_ms"), ("latency_against", "p50_ms")):
        path = (part, LOCALIZE, name)
        yield figure(result, format_ms, *path), value_at(result, *path)
    yield from _quality_cells(result)
    yield figure(result, format_digits, "energy", "per_frame_mj"), value_at(result, "energy", "per_frame_mj")
    status = _status(result)
    yield Cell(status), status


def _quality_cells(result: BenchResult) -> Iterator[tuple[Cell, Any]]:
    """Mean IoU, or of a detector average precision; and what quantization took of it."""
    for name, path in (
        ("IoU", ("regression", "mean_iou_quantized")),
        ("IoU", ("accuracy", "mean_iou")),
        ("mAP", ("detection", "precision_quantized", "ap")),
    ):
        value = value_at(result, *path)
        if value is not None:
            yield Cell(f"{name} {format_share(value)}", ".".join(path)), value
            break
    else:
        yield Cell("-"), None
    lost = _drop(result)
    yield Cell("-" if lost is None else f"{round(lost, 4) + 0.0:.4f}"), lost


def _drop(result: BenchResult) -> float | None:
    if result.regression is not None:
        return result.regression.mean_iou_drop
    return result.detection.drop if result.detection is not None and result.against is not None else None


def _status(result: BenchResult) -> str:
    if not result.complete:
        return "partial"
    against = obstacles(result)
    return ", ".join(finding.code.replace("-", " ") for finding in against) if against else "comparable"
