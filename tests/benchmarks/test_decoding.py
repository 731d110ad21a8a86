"""The decoding script: both loops find the same objects, and a ratio over its limit fails."""

from __future__ import annotations

import pytest

from edgeloc.benchmarks import decoding
from edgeloc.errors import GateFailed


def test_both_loops_are_measured_on_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert decoding.main(["--frames", "3"]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[0] == "edgeloc" and lines[3].split()[:2] == ["by", "hand"] and lines[3].split()[-1] == "0.5"


def test_loops_that_disagree_have_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "loop_by_hand", lambda raw: lambda frame: [])
    with pytest.raises(GateFailed, match="by hand 0, and not the same"):
        decoding.measure(1)


def test_a_ratio_over_its_limit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for ours, status in ((40.0, 0), (60.0, 1)):
        medians = {"edgeloc": ours, "by hand": 100.0}
        monkeypatch.setattr(decoding, "measure", lambda frames, medians=medians: medians)
        assert decoding.main([]) == status
