"""The example plug-in, installed as a user would, and plug-ins that do not load."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeloc import CameraError, UsageError, open_camera, open_engine, open_sink
from edgeloc.device.power import open_meter
from edgeloc.models import SHIPPED_INT8

PLUGIN = Path(__file__).resolve().parent.parent / "docs" / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed plug-in; it is built in a copy, without a network."""
    pytest.importorskip("setuptools")
    copy = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("installed")
    options = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def run_with(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_camera_and_its_sink_run(installed: Path, tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    words = ["--camera", "pattern://?frames=5", "--sink", str(table)]
    done = run_with(installed, "edgeloc", "run", str(SHIPPED_INT8), *words)
    assert done.returncode == 0, done.stderr
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sequence"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert all(float(row["age_ms"]) >= 0 for row in rows)


def test_its_camera_and_its_sink_run_as_a_service(installed: Path) -> None:
    words = ["--camera", "pattern://?frames=5", "--sink", "boxes-{time}.csv", "--print"]
    done = run_with(installed, "edgeloc", "install-service", str(SHIPPED_INT8), *words)
    assert done.returncode == 0, done.stderr
    assert "--camera pattern://?frames=5" in done.stdout.replace('"', "")


def test_it_passes_the_contract_suites(installed: Path) -> None:
    tests = str(PLUGIN / "test_edgeloc_example.py")
    done = run_with(installed, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:anyio", "--rootdir", ".", tests)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout and "failed" not in done.stdout


def test_an_unknown_scheme_lists_what_plug_ins_bring(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    with pytest.raises(UsageError, match=r"patern://.*did you mean 'pattern'\?.*of other packages: pattern"):
        open_camera("patern://")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package whose entry points do not load, and one that takes a name of edgeloc's own."""
    package = tmp_path / "broken_plugin-2.1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 2.1\n")
    (package / "entry_points.txt").write_text(
        "[edgeloc.cameras]\nabsent = broken_plugin_of_nobody:Camera\nempty = json:dumps\nends = ends_all:X\n"
        "synthetic = broken_plugin_of_nobody:Camera\n"
        "[edgeloc.engines]\nabsent = broken_plugin_of_nobody:Engine\n"
        "[edgeloc.meters]\nabsent = broken_plugin_of_nobody:Meter\n"
        "[edgeloc.sinks]\n.absent = broken_plugin_of_nobody:Sink\n"
    )
    (tmp_path / "ends_all.py").write_text("raise SystemExit('bye')\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("scheme", ["absent", "ends", "empty"])
@pytest.mark.usefixtures("broken")
def test_a_plug_in_that_does_not_load_is_named_when_it_is_asked_for(scheme: str) -> None:
    with pytest.raises(CameraError, match=rf"{scheme}://: the plug-in broken-plugin 2\.1 (does not load|brings)"):
        open_camera(f"{scheme}://")


@pytest.mark.usefixtures("broken")
def test_each_kind_names_its_broken_plug_in() -> None:
    for opened in (
        lambda: open_engine("absent", SHIPPED_INT8),
        lambda: open_meter("absent://"),
        lambda: open_sink("out.absent"),
    ):
        with pytest.raises(Exception, match=r"the plug-in broken-plugin 2\.1 does not load .*update or reinstall it"):
            opened()


@pytest.mark.usefixtures("broken")
def test_it_harms_no_other_and_takes_no_name_of_ours() -> None:
    with open_camera("synthetic://?size=64x48&frames=1&live=0") as camera:
        assert camera.read() is not None


def test_entry_points_are_read_only_for_names_that_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("the metadata of every installed package was read")

    monkeypatch.setattr("importlib.metadata.entry_points", refuse)
    open_camera("synthetic://?size=64x48&frames=1&live=0").close()
    open_sink("out.jsonl")
