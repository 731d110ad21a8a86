"""A folder that looks like the sysfs of a board we do not own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgeloc.testing.power import write_tree

Tree = Callable[[Mapping[str, object]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes files under one root: paths below it to what they hold."""
    (tmp_path / "root").mkdir()
    return lambda files: write_tree(tmp_path / "root", files)
