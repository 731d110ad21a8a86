"""`edgeloc publish`: many results of `edgeloc bench` as a static page with a sortable table and the files behind it."""

from __future__ import annotations

import argparse

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "turn a folder of results of edgeloc bench into a static page with a sortable table"
EXTRA: str | None = "bench"
NEEDS: tuple[str, ...] = ("jinja2",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("results", metavar="RESULTS", nargs="+", help="what edgeloc bench wrote: files, or folders of them")
    add("--out", metavar="SITE", default="site", help="the folder of the page (default: %(default)s)")
    add("--skip-bad", action="store_true", help="leave out files that are no results, and list them on the page")
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Read, copy and write; 0 when done."""
    from pathlib import Path

    from edgeloc._support.json import print_json
    from edgeloc.benchmarks.publish import publish
    from edgeloc.errors import printable

    site = publish(arguments.results, arguments.out, skip_bad=arguments.skip_bad)
    page = str(Path(arguments.out) / "index.html")
    held = [str(entry.source) for entry in site.entries if not entry.result.comparable]
    left_out = [str(path) for path, _ in site.left_out]
    if arguments.json:
        print_json({"page": page, "results": len(site.entries), "not_comparable": held, "left_out": left_out})
        return 0
    lines = [f"page      {page}", f"results   {len(site.entries)}"]
    lines += [f"marked    {path}: not comparable" for path in held]
    lines += [f"left out  {reason}" for _, reason in site.left_out]
    if pictures := site.pictures:
        lines.append(f"pictures  {pictures} small ones, of validation images, are in these files")
    print(printable("\n".join(lines)))
    return 0
