"""The house keeps its order: packages are listed, imports point one way, faces are whole, the wheel is complete."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "sdk": "edgeloc",
    "device": "edgeloc.device",
    "benchmarks": "edgeloc.benchmarks",
    "converters": "edgeloc.converters",
}
# The fakes and contract suites stand on top: they may import every part, and no part imports them.
TESTING = "testing"
# What each part may import of the others; `"module:name"` strings count as imports.
ALLOWED = {
    "sdk": {"sdk"},
    "device": {"device", "sdk"},
    "benchmarks": {"benchmarks", "sdk", "device"},
    "converters": {"converters", "sdk"},
    TESTING: {TESTING, "sdk", "device", "converters"},
}
# Tables that find back ends by name, and the few other strings that may point against the arrows.
ALLOWED_STRINGS = {
    "sdk/cameras/__init__.py": {"device", TESTING},
    "sdk/engines/__init__.py": {"device", TESTING},
    "sdk/commands/run.py": {"device"},
}
FACES = ("edgeloc", "edgeloc.converters", "edgeloc.benchmarks", "edgeloc.device", "edgeloc.testing")
LONGEST_FILE = 450
MEDIAN_FUNCTION = 10
MOST_MODULES = 300
# Modules of fewer lines than this, with exactly one importer, are slices of their neighbour.
SLICE_LINES, MOST_SLICES = 130, 15
TEXT_SUFFIXES = {".py", ".md", ".cfg", ".toml", ".yaml", ".yml", ".html", ".txt", ".json", ".sh", ""}
# Paths of one person's machine: they work nowhere else.
MACHINE_PATHS = re.compile(r"(?<![\w.:/])/(?:home|Users|root|work|mnt|tmp)/\w")


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def all_sources() -> list[Path]:
    return [path for part in PARTS for path in sources(part)]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def import_name(path: Path) -> str:
    """The name a file is imported by: sdk/cameras/base.py is edgeloc.cameras.base."""
    part, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PARTS[part], *rest]).removesuffix(".__init__")


def part_of(module: str) -> str:
    """The part that an edgeloc module belongs to."""
    second = [*module.split("."), ""][1]
    return second if second in (*PARTS, TESTING) else "sdk"


def own_part(path: Path) -> str:
    return part_of(import_name(path))


def imported(path: Path) -> Iterator[str]:
    """Every edgeloc module or name a file imports, in functions too; `from edgeloc import device` is edgeloc.device."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "edgeloc")


def named_in_strings(path: Path) -> Iterator[str]:
    """Every edgeloc module that a string of the code names; docstrings may speak of anything."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield from re.findall(r"\bedgeloc(?:\.\w+)+", node.value)


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def listed_packages() -> list[str]:
    return setup()["options"]["packages"].split()


def test_every_folder_with_code_is_a_listed_package() -> None:
    on_disk = {import_name(path.parent / "__init__.py") for path in all_sources()}
    assert set(listed_packages()) == on_disk


def test_every_package_has_its_init_file() -> None:
    folders = {path.parent for path in all_sources()}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def wrong_imports(path: Path) -> list[str]:
    return [
        f"{relative(path)} imports {name}" for name in imported(path) if part_of(name) not in ALLOWED[own_part(path)]
    ]


def wrong_strings(path: Path) -> list[str]:
    allowed = ALLOWED[own_part(path)] | ALLOWED_STRINGS.get(relative(path), set())
    return [f"{relative(path)} names {name}" for name in named_in_strings(path) if part_of(name) not in allowed]


@pytest.mark.parametrize("part", PARTS)
def test_imports_point_one_way(part: str) -> None:
    assert [wrong for path in sources(part) for wrong in wrong_imports(path)] == []


@pytest.mark.parametrize("part", PARTS)
def test_strings_that_name_modules_point_the_same_way(part: str) -> None:
    assert [wrong for path in sources(part) for wrong in wrong_strings(path)] == []


def test_a_forbidden_import_is_found_as_statement_and_as_string(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = tmp_path / "sdk" / "bad.py"
    bad.parent.mkdir()
    bad.write_text('from edgeloc.device.board import read_board\nTABLE = {"x": "edgeloc.converters.convert:convert"}\n')
    assert wrong_imports(bad) == ["sdk/bad.py imports edgeloc.device.board.read_board"]
    assert wrong_strings(bad) == ["sdk/bad.py names edgeloc.converters.convert"]


def import_graph() -> dict[str, set[str]]:
    """Which modules each module imports, importing for type checkers alone included."""
    modules = {import_name(path): path for path in all_sources()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = {name if name in modules else name.rpartition(".")[0] for name in imported(path)}
        graph[module] = (found & set(modules)) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle, by removing what imports nothing that is left."""
    left = {module: set(targets) for module, targets in graph.items()}
    for _ in range(2):  # once from either end of the arrows
        while free := [module for module, targets in left.items() if not targets]:
            left = {module: targets - set(free) for module, targets in left.items() if module not in free}
        turned: dict[str, set[str]] = {module: set() for module in left}
        for module, targets in left.items():
            for target in targets:
                turned[target].add(module)
        left = turned
    return [sorted(left)] if left else []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles(import_graph()) == []


@pytest.mark.parametrize("part", PARTS)
def test_no_file_imports_a_folder_by_its_own_name(part: str) -> None:
    pattern = re.compile(r"^\s*(?:from|import)\s+(?:sdk|device|benchmarks|converters)\b", re.MULTILINE)
    assert [relative(path) for path in sources(part) if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_commands_are_modules_that_exist() -> None:
    entries = setup()["options.entry_points"]["edgeloc.commands"].strip().splitlines()
    modules = {line.split("=")[1].strip() for line in entries}
    assert all(":" not in module for module in modules)
    assert modules <= {import_name(path) for path in all_sources()}


def test_every_module_opens_with_a_docstring() -> None:
    bare = [relative(path) for path in all_sources() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert bare == []


def test_no_file_outgrows_a_reader() -> None:
    lengths = {relative(path): len(path.read_text("utf-8").splitlines()) for path in all_sources()}
    assert {path: count for path, count in lengths.items() if count > LONGEST_FILE} == {}


def test_functions_stay_short() -> None:
    lengths = [
        node.end_lineno - node.lineno + 1
        for path in all_sources()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
    ]
    assert statistics.median(lengths) <= MEDIAN_FUNCTION


def test_no_idea_is_cut_into_slices() -> None:
    graph = import_graph()
    importers = {module: [other for other, targets in graph.items() if module in targets] for module in graph}
    slices = [
        relative(path)
        for path in all_sources()
        if path.name != "__init__.py"
        and len(path.read_text("utf-8").splitlines()) < SLICE_LINES
        and len(importers[import_name(path)]) == 1
    ]
    assert len(slices) <= MOST_SLICES, slices
    assert len(all_sources()) <= MOST_MODULES


@pytest.mark.parametrize("name", FACES)
def test_each_part_lists_its_public_names_once(name: str) -> None:
    face = importlib.import_module(name)
    stub = Path(str(face.__file__)).with_suffix(".pyi")
    listed = [
        alias.name
        for node in ast.parse(stub.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert len(listed) == len(set(listed))
    assert face.__all__ == sorted(listed)
    for public in face.__all__:
        value = getattr(face, public)
        assert isinstance(value, (int, str)) or value.__doc__, f"{name}.{public} has no docstring"
    assert set(face.__all__) <= set(dir(face))


def tracked_files() -> list[Path]:
    """The files under version control; in an unpacked archive, everything but what is ignored."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in tracked_files():
        if path.suffix in TEXT_SUFFIXES and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{relative(path)}: {match.group()}" for match in MACHINE_PATHS.finditer(text)]
    assert found == []


def test_the_licence_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, as a user's pip would build it, but without a network."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77 or newer")
    copy = tmp_path_factory.mktemp("source")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next((copy / "dist").glob("edgeloc-*.whl")))


def in_wheel(path: Path) -> str:
    part, *rest = path.relative_to(ROOT).parts
    return "/".join([*PARTS[part].split("."), *rest])


def test_the_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    assert {in_wheel(path) for path in all_sources()} - set(wheel.namelist()) == set()


def test_the_wheel_holds_every_data_file(wheel: zipfile.ZipFile) -> None:
    data = {
        in_wheel(path)
        for part in PARTS
        for path in (ROOT / part).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    assert data - set(wheel.namelist()) == set()


def test_the_wheel_brings_licence_and_command(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "edgeloc = edgeloc.cli:program" in wheel.read(entry_points).decode()
