"""A slice of `make fuzz`, and that its program sees what it is there to see."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
HERE = Path(__file__).parent
# What a worker says before it does something that no file should make it do.
BEFORE = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
sys.stdin.readline()
print(json.dumps({"made": "x.tflite", "kind": "bytes"}), flush=True)
"""


def fuzz(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(HERE / "run.py"), "--out", str(out), *options]
    return subprocess.run(line, capture_output=True, text=True)


def test_forty_hostile_files_do_no_harm(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "--seed", "9", "--count", "40")
    assert done.returncode == 0, done.stdout + done.stderr
    results = (tmp_path / "results.jsonl").read_text()
    assert {record["file"] for record in map(json.loads, results.splitlines())} == set(range(40))
    (tmp_path / "results.jsonl").write_text(results + '{"seed": 9, "fil')  # as a run that is killed leaves it
    again = fuzz(tmp_path, "--seed", "9", "--count", "40")
    assert (again.returncode, (tmp_path / "results.jsonl").read_text()) == (0, results)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program as a module; those beside it are no package."""
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("run")


@pytest.mark.parametrize(
    ("misdeed", "failure"),
    [
        ("os.abort()", "ended its process with status -6"),
        ("time.sleep(60)", "did not end within 1 s"),
        ("held = bytearray(300 << 20); held[::4096] = bytes(len(held) // 4096); time.sleep(60)", "more than 200 MB"),
        ("print(json.dumps({'outcome': 'passed', 'seconds': 11.0}), flush=True); time.sleep(60)", "took 11.0 s"),
        ("os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60'); print('{}', flush=True); time.sleep(60)", "left 1 process"),
    ],
)
def test_each_harm_is_seen(
    run: Any, misdeed: str, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(BEFORE + misdeed)
    monkeypatch.setattr(run.Worker, "program", program)
    monkeypatch.setattr(run, "KILL_S", 1.0)
    monkeypatch.setattr(run, "KILL_MB", 200.0)
    worker = run.Worker(tmp_path / "worker", tmp_path, 0)
    record = worker.check("1")
    worker.close()
    assert failure in record["failure"]
