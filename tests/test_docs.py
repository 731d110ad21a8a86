"""What README and docs/ show: their Python runs, their links lead somewhere, their commands exist."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeloc.models import SHIPPED_INT8

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "sdk" / "models" / "MODEL_CARD.md"]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_python_shown_runs(block: str, tmp_path: Path) -> None:
    if "SHIPPED" in block and not SHIPPED_INT8.is_file():
        pytest.skip("the shipped model is not there")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_shown_exist(page: Path) -> None:
    known = {entry.name for entry in importlib.metadata.entry_points(group="edgeloc.commands")}
    shown = set(re.findall(r"^edgeloc ([\w-]+)", page.read_text(), re.MULTILINE))
    shown |= set(re.findall(r"`edgeloc ([\w-]+)[ `]", page.read_text()))
    assert shown <= known
