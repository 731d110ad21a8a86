"""Models from strangers: one that crashes its process is refused by one that lives on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeloc.engines import open_engine
from edgeloc.errors import EngineError, ModelError
from edgeloc.model.file import ModelFile
from edgeloc.model.sandbox import vet_model


def stranger(content: bytes) -> ModelFile:
    return ModelFile(Path("stranger.tflite"), content, "tflite")


def test_a_model_that_aborts_its_process_is_refused() -> None:
    with pytest.raises(ModelError, match=r"stranger\.tflite makes runtime 1 crash \(SIGABRT\)"):
        vet_model(stranger(b"abort"), "import os; os.abort()", "runtime 1")


def test_an_ordinary_exception_is_left_to_the_engine_to_tell() -> None:
    vet_model(stranger(b"exception"), "raise ValueError", "runtime 1")


def test_the_program_reads_the_model_and_runs_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f"import sys; open({str(log)!r}, 'ab').write(sys.stdin.buffer.read())"
    vet_model(stranger(b"twice"), program, "runtime 1")
    vet_model(stranger(b"twice"), program, "runtime 1")
    assert log.read_bytes() == b"twice"


def test_a_model_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, timeout: float, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(EngineError, match="did not end"):
        vet_model(stranger(b"endless"), "pass", "runtime 1")


def test_a_strangers_good_model_loads(tiny_models: Path) -> None:
    assert open_engine("litert", tiny_models / "int8.tflite").inputs
