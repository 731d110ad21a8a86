"""Silence for native start-up lines: real file descriptors, so it runs in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOISY = "import os\nos.write(2, b'native noise\\n')\n"


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_a_noisy_import_is_silent_and_complete(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY + "VALUE = 3\n")
    code = """
import sys
from edgeloc._support.terminal import quiet_import
with quiet_import("noisy"):
    import noisy
print(noisy.VALUE, file=sys.stderr)
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "3\n")


def test_looking_for_it_does_not_spend_the_silence(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    code = """
import importlib.util
from edgeloc._support.terminal import quiet_import
with quiet_import("noisy"):
    assert importlib.util.find_spec("noisy") is not None
    import noisy
"""
    assert run(code, tmp_path).stderr == ""


def test_an_import_that_fails_shows_what_was_held_back(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY + "raise RuntimeError('no driver')\n")
    code = """
from edgeloc._support.terminal import quiet_import
with quiet_import("noisy"):
    import noisy
"""
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert "native noise" in done.stderr
    assert "no driver" in done.stderr


def test_an_absent_package_stays_absent(tmp_path: Path) -> None:
    code = """
from edgeloc._support.terminal import quiet_import
with quiet_import("no_such_package"):
    try:
        import no_such_package
    except ModuleNotFoundError:
        print("absent")
"""
    assert run(code, tmp_path).stdout == "absent\n"


def test_without_a_standard_error_nothing_breaks(tmp_path: Path) -> None:
    code = """
import os
from edgeloc._support.terminal import quiet_stderr
os.close(2)
with quiet_stderr():
    print("fine")
"""
    assert run(code, tmp_path).stdout == "fine\n"
