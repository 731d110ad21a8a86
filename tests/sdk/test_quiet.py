"""Silence for native start-up lines: real file descriptors, so it runs in processes of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

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


def test_log_lines_pass_through_the_silence(tmp_path: Path) -> None:
    code = """
import os
from edgeloc._support.terminal import quiet_stderr, write_line
with quiet_stderr():
    os.write(2, b"native noise\\n")
    write_line("calibrating")
write_line("done")
"""
    assert run(code, tmp_path).stderr == "calibrating\ndone\n"


def test_a_log_line_stands_above_the_bar_that_is_shown(tmp_path: Path) -> None:
    """On a terminal the bar is cleared, the line written, and the bar drawn again."""
    pytest.importorskip("tqdm")
    code = """
from edgeloc._support.terminal import progress, write_line
for number in progress(range(2), label="images"):
    write_line(f"image {number} is dark")
"""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stderr=theirs, check=False)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    for line in ("image 0 is dark", "image 1 is dark"):
        before, _, after = shown.partition(line)
        assert before.endswith("\r") and after.startswith("\r\n")
    assert "images" in shown


def test_a_standard_error_that_nobody_reads_stops_no_work(tmp_path: Path) -> None:
    code = """
import os, sys
from edgeloc._support.terminal import write_line
os.close(2)
write_line("lost")
sys.stderr = None
write_line("lost")
print("fine")
"""
    assert run(code, tmp_path).stdout == "fine\n"


def test_a_refused_model_leaves_the_runtimes_lines_unsaid(tmp_path: Path) -> None:
    """XNNPACK's line came along with the error of a model that the runtime refuses."""
    code = """
from edgeloc._support.terminal import quiet_stderr
from edgeloc.errors import ModelError
import os
try:
    with quiet_stderr():
        os.write(2, b'INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\\n')
        raise ModelError("refused")
except ModelError:
    pass
"""
    assert run(code, tmp_path).stderr == ""


def test_threads_that_load_at_once_keep_their_standard_error(tmp_path: Path) -> None:
    """Each turned the descriptor away and back, and the last one back to the other's silence."""
    code = """
import os, sys, threading, warnings
from edgeloc import Localizer
from edgeloc.models import SHIPPED_INT8
filters = list(warnings.filters)
for _ in range(3):
    threads = [threading.Thread(target=Localizer, args=[SHIPPED_INT8]) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
assert warnings.filters == filters
print("still", file=sys.stderr, flush=True)
os.write(2, b"here\\n")
"""
    assert run(code, tmp_path).stderr == "still\nhere\n"


def test_silences_that_overlap_end_with_the_last(tmp_path: Path) -> None:
    code = """
import os
from edgeloc._support.terminal import quiet_stderr
first, second, third = quiet_stderr(), quiet_stderr(), quiet_stderr()
first.__enter__()
os.write(2, b"the first one's noise\\n")
second.__enter__()
os.write(2, b"the second one's noise\\n")
first.__exit__(None, None, None)
os.write(2, b"more noise\\n")
try:
    with third:
        os.write(2, b"the reason\\n")
        raise OSError
except OSError:
    pass
second.__exit__(None, None, None)
os.write(2, b"back\\n")
"""
    assert run(code, tmp_path).stderr == "the reason\nback\n"


@pytest.mark.parametrize("option", [[], ["-X", "faulthandler"]])
def test_a_crash_in_the_silence_leaves_a_trace(tmp_path: Path, option: list[str]) -> None:
    code = """
import os, signal
from edgeloc._support.terminal import quiet_stderr
def load_a_model():
    os.kill(os.getpid(), signal.SIGSEGV)
with quiet_stderr():
    load_a_model()
"""
    done = subprocess.run(
        [sys.executable, *option, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "in load_a_model" in done.stderr


def test_traces_of_a_programs_own_stay_where_it_wants_them(tmp_path: Path) -> None:
    code = """
import faulthandler, os, signal
from edgeloc._support.terminal import quiet_stderr, trace_crashes
faulthandler.enable(open("own", "w"))
trace_crashes()
with quiet_stderr():
    pass
os.kill(os.getpid(), signal.SIGSEGV)
"""
    assert run(code, tmp_path).stderr == ""
    assert "Segmentation fault" in (tmp_path / "own").read_text()
