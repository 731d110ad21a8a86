"""The house keeps its order: packages are listed, imports point one way, the wheel is whole, files are as agreed."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
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
# What each part may import of the others; names that are looked up at run time are not imports.
ALLOWED = {
    "sdk": {"sdk"},
    "device": {"device", "sdk"},
    "benchmarks": {"benchmarks", "sdk", "device"},
    "converters": {"converters", "sdk", "benchmarks"},
}
LONGEST_FILE = 450
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
    """The folder that an edgeloc module lives in."""
    second = [*module.split("."), ""][1]
    return second if second in PARTS else "sdk"


def imported(path: Path) -> Iterator[str]:
    """Every edgeloc module a file imports, within functions too; `from edgeloc import device` is edgeloc.device."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "edgeloc")


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


@pytest.mark.parametrize("part", PARTS)
def test_imports_point_one_way(part: str) -> None:
    wrong = [
        f"{relative(path)} imports {name}"
        for path in sources(part)
        for name in imported(path)
        if part_of(name) not in ALLOWED[part]
    ]
    assert wrong == []


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
    assert "edgeloc = edgeloc.cli:main" in wheel.read(entry_points).decode()
