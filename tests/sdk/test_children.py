"""Programs in a process of their own: their answers, and how they end without one, as data."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.errors import ModelError
from edgeloc.model.file import read_model, write_model
from edgeloc.models import SHIPPED_INT8


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


IMPOSTORS = ("numpy", "json", "cv2", "edgeloc", "flatbuffers", "ai_edge_litert", "sitecustomize", "usercustomize")
# What runs programs in processes of their own.
STARTS = {
    "trial, self-test and shapes": "from edgeloc.cli import main; main(['inspect', {model!r}])",
    "trial of every tensor": """
from edgeloc.evaluation.layers.graph import TensorRunner
from edgeloc.model.file import read_model
TensorRunner.open(read_model({model!r}))
""",
    "window": """
from edgeloc.errors import DeviceError
from edgeloc.sinks.window import _require_screen
try: _require_screen()
except DeviceError: pass
""",
    "interpreter": """
from edgeloc._support.children import run_child
run_child("import json, numpy; answer([1])", interpreter={python!r})
""",
}


@pytest.mark.parametrize(("kind", "isolation"), [*((kind, []) for kind in STARTS), (next(iter(STARTS)), ["-I"])])
def test_no_child_runs_what_lies_in_the_current_folder(tmp_path: Path, kind: str, isolation: list[str]) -> None:
    """The parent is a script elsewhere, as `edgeloc` is: it has no reason to look in the folder of the model."""
    downloads, programs = tmp_path / "downloads", tmp_path / "programs"
    downloads.mkdir()
    programs.mkdir()
    for name in IMPOSTORS:
        (downloads / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\nraise OSError\n")
    shipped = read_model(SHIPPED_INT8)
    assert shipped.contract is not None
    write_model(downloads / "sent.tflite", shipped.payload + b"\0", shipped.contract, golden=shipped.golden)
    values = {"model": str(downloads / "sent.tflite"), "python": [sys.executable]}
    script = programs / "parent.py"
    script.write_text(STARTS[kind].format(**values) + "\nprint('end')\n")
    # An empty entry in PYTHONPATH is the current folder: a parent that takes no notice of it has children that do not.
    variables = {"PYTHONPATH": ":"} if isolation else {}
    done = subprocess.run(
        [sys.executable, *isolation, str(script)],
        cwd=downloads,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["end"], done.stderr
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_childs_child_ends_with_them(tmp_path: Path) -> None:
    number = tmp_path / "number"
    child = f"from edgeloc._support.children import run_child; run_child({sleeper(number)!r})"
    kill_the_parent_of(child, number)
    wait_for(lambda: is_over(int(number.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_whose_parent_dies_at_once_does_nothing(tmp_path: Path) -> None:
    parent = f"""
import os, signal, subprocess
from edgeloc._support.children import run_child
class Last(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        open({str(tmp_path / "number")!r}, "w").write(str(self.pid))
        os.kill(os.getpid(), signal.SIGKILL)
subprocess.Popen = Last
run_child("open({str(tmp_path / "done")!r}, 'w')")
"""
    subprocess.run([sys.executable, "-c", parent], check=False)
    wait_for(lambda: is_over(int((tmp_path / "number").read_text())))
    assert not (tmp_path / "done").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    number = tmp_path / "number"
    kill_the_parent_of(sleeper(number), number)
    wait_for(lambda: is_over(int(number.read_text())))


def sleeper(number: Path) -> str:
    """A program that writes its process's number, and sleeps."""
    return f"import os, time; open({str(number)!r}, 'w').write(str(os.getpid())); time.sleep(60)"


def kill_the_parent_of(child: str, number: Path) -> None:
    """Have another process run the child, and kill that one once the file `number` is there."""
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from edgeloc._support.children import run_child; run_child({child!r})"]
    )
    wait_for(lambda: number.is_file() and number.read_text() != "")
    parent.kill()
    parent.wait()


def is_over(number: int) -> bool:
    """Whether the process is gone, or a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
