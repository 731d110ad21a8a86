"""Names that are looked up when they are first used: a part's public face, and back ends by name."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["lazy_face"]


def lazy_face(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose public names stand in its `__init__.pyi`.

    The stub is the only place that lists them, as `from module import name as name`; type checkers read it, and each
    module is imported when one of its names is first asked for, so that importing the package stays light.
    """
    module = sys.modules[package]
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    homes = {
        alias.name: node.module
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(homes[name]), name)
        setattr(module, name, value)
        return value

    def directory() -> list[str]:
        return sorted({*vars(module), *homes})

    return get, directory, sorted(homes)
