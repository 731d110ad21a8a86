"""A file appears whole or not at all."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from edgeloc._support.files import atomic_path, require_writable
from edgeloc._support.terminal import progress
from edgeloc.errors import OutputError


def test_the_file_appears_with_its_content_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "result.json"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".json"
        assert temporary.parent == target.parent
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_file_is_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"), atomic_path(tmp_path):
        pass


def test_a_file_where_a_folder_is_needed_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"cannot write .*result\.json"),
        atomic_path(tmp_path / "file" / "result.json"),
    ):
        pass


def test_a_block_that_removes_its_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.unlink()
    assert list(tmp_path.iterdir()) == []


def test_progress_hands_out_every_item_and_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter(range(5)), total=5, label="counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_counts_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress([1, 2], label="counting")) == [1, 2]
    assert "counting" in terminal.getvalue()


def test_progress_does_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Terminal())
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress([1, 2])) == [1, 2]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    with pytest.raises(OutputError, match=r"cannot write .*result\.json: No space left"), atomic_path(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_file_among_the_folders_of_a_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        require_writable(tmp_path / "file" / "deeper" / "result.json")


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("measured with effort")
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(OutputError, match="one of the files that are read"):
        require_writable(tmp_path / "link", None, tmp_path / "model")
    assert (tmp_path / "model").read_text() == "measured with effort"


LEFT = """
import os
import subprocess
import sys, sys
from edgeloc._support.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), 9)
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_named_and_what_is_being_written_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "result.json"
    subprocess.run([sys.executable, "-c", LEFT, str(path), "dies"])
    (left,) = tmp_path.iterdir()
    line = [sys.executable, "-c", LEFT, str(path), "lives"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        living.stdout.readline()
        for _ in range(2):
            with atomic_path(path) as temporary:
                temporary.write_text("whole")
        living.communicate("")
    assert [record.finding.code for record in caplog.records] == ["leftover-file"]  # type: ignore[attr-defined]
    assert str(left) in caplog.text and left.exists()
