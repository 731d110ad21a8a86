"""`edgeloc train` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloc.cli import main
from edgeloc.converters.training import fit, settling

SMALL = ["--weights", "none", "--input-size", "64", "--epochs", "1", "--batch-size", "4"]
DATA = ["--data", "synthetic?count=8&size=96x64", "--validation", "synthetic?count=4&size=96x64"]


@pytest.mark.slow
def test_train_writes_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "REESTIMATION_BATCHES", 2)
    out = tmp_path / "m.keras"
    assert main(["train", *DATA, *SMALL, "--head", "vector", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "8 images to learn from, 4 to validate on" in printed
    assert f"wrote {out}: validation mean IoU 0." in printed
    assert out.is_file()


def test_ctrl_c_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        folder = given[-1]
        assert isinstance(folder, Path)
        if (tmp_path / "m.training" / "once").exists():
            (folder / "resume").mkdir()
        (folder / "once").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_fit", interrupted)
    monkeypatch.setattr(fit.shutil, "rmtree", lambda folder, **_: None)
    line = ["train", *DATA, *SMALL, "--head", "vector", "--out", str(tmp_path / "m.keras")]
    assert main(line) == 130
    assert "nothing was learned yet" in capsys.readouterr().out
    assert main(line) == 130
    assert "run again with --resume" in capsys.readouterr().out
    assert not (tmp_path / "m.keras").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--out", "m.h5"], "the name must end in .keras"),
        (["--out", "m.keras", "--head", "boxes"], "--head is 'boxes'"),
        (["--out", "m.keras", "--epochs", "0"], "--epochs: '0' must be a whole number from 1"),
        (["--out", "m.keras", "--box-loss", "iou"], "--box-loss has 'iou'"),
        (["--out", "m.keras", "--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *DATA, *SMALL, *changes]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
