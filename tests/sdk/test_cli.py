"""The command's roof: help, exit statuses, missing extras, signals; each command is tested beside its own part."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import pytest

from edgeloc import cli
from edgeloc.errors import DataError, DeviceError, GateFailed


class FakeEntry:
    """An entry point whose module is made on the spot, and which remembers whether it was loaded."""

    def __init__(self, name: str, run: Callable[[argparse.Namespace], int], **attributes: Any) -> None:
        self.name = name
        self.value = attributes.pop("value", f"elsewhere.{name}")
        self.loaded = False
        self._module: Any = types.SimpleNamespace(
            HELP=f"the {name} command", EXTRA=None, NEEDS=(), configure=lambda parser: None, run=run
        )
        vars(self._module).update(attributes)

    def load(self) -> Any:
        self.loaded = True
        return self._module


class BrokenEntry(FakeEntry):
    """An entry point of a package that does not import."""

    def load(self) -> Any:
        raise ImportError("no module named broken\nsecond line")


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*entries: FakeEntry) -> None:
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)

    return install


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_help_lists_every_command_and_what_it_lacks(register: Any, capsys: pytest.CaptureFixture[str]) -> None:
    register(
        FakeEntry("run", lambda args: 0),
        FakeEntry("convert", lambda args: 0, NEEDS=("no_such_package",), EXTRA="convert"),
        BrokenEntry("other", lambda args: 0),
    )
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("run" in line and "the run command" in line for line in lines)
    assert any("convert" in line and "pip install 'edgeloc[convert]'" in line for line in lines)
    assert any("other" in line and "does not load: no module named broken" in line for line in lines)


def test_only_the_chosen_command_is_loaded(register: Any) -> None:
    chosen, other = FakeEntry("run", lambda args: 0), FakeEntry("bench", lambda args: 0)
    register(chosen, other)
    assert cli.main(["run"]) == 0
    assert chosen.loaded
    assert not other.loaded


def test_a_command_without_its_packages_names_the_extra(register: Any, capsys: pytest.CaptureFixture[str]) -> None:
    register(FakeEntry("convert", lambda args: 0, NEEDS=("no_such_package.part",), EXTRA="convert"))
    assert cli.main(["convert"]) == 2
    assert "needs the package no_such_package.part: pip install 'edgeloc[convert]'" in capsys.readouterr().err


def test_its_help_is_shown_all_the_same(register: Any, capsys: pytest.CaptureFixture[str]) -> None:
    register(FakeEntry("convert", lambda args: 0, NEEDS=("no_such_package",), EXTRA="convert"))
    assert cli.main(["convert", "--help"]) == 0
    assert "the convert command" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DataError("row 3 of boxes.csv has no x1"), 2, "edgeloc: error: row 3 of boxes.csv has no x1"),
        (GateFailed("drop 0.02 is over 0.005"), 1, "drop 0.02 is over 0.005"),
        (DeviceError("camera gone"), 3, "camera gone"),
        (PermissionError(13, "Permission denied", "out.json"), 2, "out.json: Permission denied"),
        (OSError(28, "No space left on device"), 2, "edgeloc: error: No space left on device"),
        (ZeroDivisionError("division by zero"), 3, "internal error: ZeroDivisionError: division by zero; run again"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (cli.Terminated(), 143, "interrupted"),
    ],
)
def test_an_error_becomes_a_sentence_and_a_status(
    register: Any, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, words: str
) -> None:
    register(FakeEntry("run", raising(error)))
    assert cli.main(["run"]) == status
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) <= 2


@pytest.mark.parametrize("line", [["-v", "run"], ["run", "--verbose"]])
def test_verbose_before_or_after_the_command_shows_the_traceback(
    register: Any, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    register(FakeEntry("run", raising(DataError("bad row"))))
    assert cli.main(line) == 2
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgeloc ")


def test_no_command_shows_the_help_as_a_usage_error(register: Any, capsys: pytest.CaptureFixture[str]) -> None:
    register(FakeEntry("run", lambda args: 0))
    assert cli.main([]) == 2
    assert "the run command" in capsys.readouterr().err


def test_a_misspelt_command_gets_a_suggestion(register: Any, capsys: pytest.CaptureFixture[str]) -> None:
    register(FakeEntry("inspect", lambda args: 0))
    assert cli.main(["inspekt", "m.tflite"]) == 2
    assert "did you mean 'inspect'?" in capsys.readouterr().err


def test_an_unknown_flag_is_a_usage_error(register: Any, capsys: pytest.CaptureFixture[str]) -> None:
    register(FakeEntry("run", lambda args: 0))
    assert cli.main(["run", "--nonsense"]) == 2
    shown = capsys.readouterr().err
    assert shown == "edgeloc: error: unrecognized arguments: --nonsense; `edgeloc run --help` shows what there is\n"


def test_an_empty_value_is_a_usage_error(register: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data-set")
        parser.add_argument("--sink", action="append")

    register(FakeEntry("run", lambda args: 0, configure=configure))
    assert cli.main(["run", "--data-set", ""]) == 2
    assert "--data-set is empty" in capsys.readouterr().err
    assert cli.main(["run", "--sink", "a.mp4", "--sink", ""]) == 2


def test_own_commands_win_over_others_of_the_same_name(register: Any) -> None:
    own = FakeEntry("run", lambda args: 0, value="edgeloc.commands.run")
    register(own, FakeEntry("run", lambda args: 1))
    assert cli.main(["run"]) == 0
    assert own.loaded


def test_status_of_the_command_is_returned(register: Any) -> None:
    register(FakeEntry("compare", lambda args: 1))
    assert cli.main(["compare"]) == 1


CHILD = """
import importlib.metadata, signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)
def run(args):
    {body}
module = types.SimpleNamespace(HELP="h", EXTRA=None, NEEDS=(), configure=lambda parser: None, run=run)
entry = types.SimpleNamespace(name="run", value="x", load=lambda: module)
importlib.metadata.entry_points = lambda group: [entry]
from edgeloc.cli import main
sys.exit(main(["run"]))
"""


def child(body: str) -> subprocess.Popen[str]:
    code = CHILD.format(body=textwrap.indent(textwrap.dedent(body), "    ").strip())
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def test_a_crash_of_a_command_names_the_place() -> None:
    with child("signal.raise_signal(signal.SIGSEGV)") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in said and 'cli.py", line' in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_command_cleanly(number: signal.Signals, status: int) -> None:
    with child("print('ready', flush=True); time.sleep(60)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert errors == "edgeloc: interrupted\n"


def test_a_closed_pipe_is_no_error_message() -> None:
    body = """
    for line in range(200_000):
        print("a line of a long answer", line)
    return 0
    """
    with child(body) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert errors == ""


def test_standard_output_may_be_closed_or_full_or_know_few_letters() -> None:
    def status(redirection: str, **variables: str) -> tuple[int, str]:
        code = CHILD.format(body=r"print('\u00fc\udcfc'); return 0")
        line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {redirection}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env={**os.environ, **variables})
        return done.returncode, done.stderr

    assert status(">&-") == (0, "")
    if os.path.exists("/dev/full"):
        assert status("> /dev/full") == (2, "edgeloc: error: No space left on device\n")
    assert status("> /dev/null", PYTHONIOENCODING="ascii") == (0, "")


def test_what_is_logged_is_printed_once(register: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """TensorFlow gives the root logger a handler of its own."""
    import logging

    def run(args: object) -> int:
        logging.getLogger("edgeloc.somewhere").warning("the lens is covered")
        return 0

    register(FakeEntry("look", run))
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        assert cli.main(["look"]) == 0
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "warning: the lens is covered\n"


def test_a_finding_names_the_flag_of_a_parameter(
    register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    import logging

    from edgeloc.findings import Finding, report

    finding = Finding("head-shares-scale", "warning", "two parts share a scale", "split them with {fix_head}")

    def run(args: object) -> int:
        report(logging.getLogger("edgeloc.somewhere"), finding)
        return 0

    register(FakeEntry("look", run, configure=lambda parser: parser.add_argument("--fix-head")))
    assert cli.main(["look"]) == 0
    assert (
        capsys.readouterr().err == "warning: two parts share a scale: split them with --fix-head [head-shares-scale]\n"
    )
    assert str(finding).endswith("split them with fix_head")
    assert finding.to_dict()["fix"] == "split them with fix_head"


def test_a_command_that_runs_another_prints_its_log_once(
    register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    import logging

    def log(args: object) -> int:
        logging.getLogger("edgeloc.somewhere").info("calibrating")
        return 0

    def run(args: object) -> int:
        status = cli.main(["inner"])
        return log(args) + status

    register(FakeEntry("outer", run), FakeEntry("inner", log))
    assert cli.main(["outer"]) == 0
    assert capsys.readouterr().err == "calibrating\ncalibrating\n"
