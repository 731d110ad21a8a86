"""`edgeloc.testing` stays light until a name is used, and a failing suite shows its values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = """
import pytest
from edgeloc.testing import EngineSuite, FakeEngine
from edgeloc import Contract, InputSpec, OutputSpec

class Nameless(FakeEngine):
    name = ""

class TestNameless(EngineSuite):
    @pytest.fixture
    def engine(self):
        return Nameless(Contract(InputSpec("image", 16, 16), (OutputSpec("presence", "presence"),)))
"""


def test_importing_it_stays_light() -> None:
    program = "import sys, edgeloc.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"numpy", "cv2", "pytest", "tensorflow", "edgeloc.testing.suites"}


def test_fakes_need_no_pytest() -> None:
    program = "import sys; sys.modules['pytest'] = None; from edgeloc.testing import FakeEngine; print(FakeEngine.name)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "fake\n"


def test_a_suite_without_pytest_names_the_extra() -> None:
    program = "import sys; sys.modules['pytest'] = None; from edgeloc.testing import CameraSuite"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "a contract suite needs the package pytest" in done.stderr
    assert "edgeloc[testing]" in done.stderr


def test_a_suite_finds_a_fault_and_shows_it(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "test_broken.py").write_text(BROKEN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 4 passed" in done.stdout
    assert "where '' = " in done.stdout
