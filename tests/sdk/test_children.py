"""Programs in a process of their own: their answers, and how they end without one, as data."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.errors import ModelError


def failure_of(program: str, **options: float) -> ChildFailed:
    with pytest.raises(ChildFailed) as caught:
        run_child(program, **options)  # type: ignore[arg-type]
    return caught.value


def test_the_last_answer_counts_whatever_else_is_printed() -> None:
    assert run_child("import sys; print('noise'); answer([1]); answer({'given': sys.argv[1]}); print(7)", "x") == {
        "given": "x"
    }


def test_a_program_reads_its_standard_input() -> None:
    assert run_child("import sys; answer([len(sys.stdin.buffer.read())])", stdin=bytes(100_000)) == [100_000]


def test_an_exception_comes_back_as_its_kind_and_its_text() -> None:
    failure = failure_of("from edgeloc.errors import ContractError; answer(['on']); raise ContractError('no box')")
    assert (failure.ending, failure.message, failure.answers) == ("exception", "no box", [["on"]])
    assert failure.is_a(ModelError) and failure.is_a(ValueError) and not failure.is_a(OSError)
    assert str(failure) == "raised edgeloc.errors.ContractError: no box"


def test_a_crash_names_its_signal() -> None:
    failure = failure_of("import os; os.abort()")
    assert (failure.ending, failure.signal, str(failure)) == ("signal", "SIGABRT", "ended its process by SIGABRT")


def test_a_program_that_hangs_is_killed() -> None:
    began = time.monotonic()
    assert failure_of("answer([1]); import time; time.sleep(60)", timeout_s=1.0).ending == "timeout"
    assert time.monotonic() - began < 30


def test_an_end_without_an_answer_shows_the_last_words() -> None:
    failure = failure_of("import sys; sys.stderr.write('out of paper\\n'); sys.exit(4)")
    assert (failure.ending, str(failure)) == ("no answer", "ended with status 4: out of paper")


@pytest.mark.parametrize("start", [["-c"], ["-m", "parent"]])
def test_no_file_of_the_current_folder_is_run(tmp_path: Path, start: list[str]) -> None:
    """Neither where the parent was started by -c nor by -m, which put the folder on its search path."""
    (tmp_path / "colorsys.py").write_text("open('ran', 'w')\n")
    parent = "from edgeloc._support.children import run_child\nprint(run_child('import colorsys; answer([2])'))\n"
    (tmp_path / "parent.py").write_text(parent)
    line = [sys.executable, *start, *([parent] if start == ["-c"] else [])]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[2]\n"), done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    number = tmp_path / "number"
    child = f"import os, time; open({str(number)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from edgeloc._support.children import run_child; run_child({child!r})"]
    )
    wait_for(lambda: number.is_file() and number.read_text() != "")
    parent.kill()
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{number.read_text()}").exists() or is_zombie(int(number.read_text())))


def is_zombie(number: int) -> bool:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
