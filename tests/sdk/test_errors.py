"""Errors: their sentences, and their way to another process."""

from __future__ import annotations

import pickle

import pytest

from edgeloc import errors
from edgeloc.errors import CameraError, EdgelocError, MissingExtra, UsageError
from edgeloc.findings import Finding


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UsageError("no camera"), "no camera"),
        (UsageError(field="max_iou_drop", value=1.5, allowed="0 to 1"), "--max-iou-drop is 1.5: it must be 0 to 1"),
        (UsageError("no data", hint="give {validation}"), "no data: give --validation"),
        (UsageError("bolt: no data", hint="give {validation}"), "bolt: no data; give --validation"),
    ],
)
def test_a_front_end_writes_parameters_in_its_own_way(error: EdgelocError, sentence: str) -> None:
    error.spelling = flag
    assert str(error) == sentence


def test_what_a_terminal_would_obey_is_escaped() -> None:
    named = UsageError("the output '\x1b[31mred\x1b]0;title\x07' is missing\nÄ\u3000雪 \u202egnp.exe\udcff")
    assert str(named) == ("the output '\\x1b[31mred\\x1b]0;title\\x07' is missing\nÄ\u3000雪 \\u202egnp.exe\\udcff")


def test_a_name_of_thousands_of_characters_is_not_quoted_whole() -> None:
    sentence = str(UsageError(f"the output {'a' * 50_000} is missing", hint="correct it"))
    assert len(sentence) < 2100
    assert sentence.startswith("the output aaa") and sentence.endswith("aaa is missing: correct it")


def test_a_finding_reads_as_an_error_does() -> None:
    finding = Finding("few-images", "warning", "10 images are few", "raise {calibration_images}")
    assert str(finding) == "10 images are few: raise calibration_images"
    assert finding.sentence(flag) == "10 images are few: raise --calibration-images"
    assert str(EdgelocError(finding.message, hint=finding.fix or "")) == str(finding)


@pytest.mark.parametrize(
    "error",
    [
        MissingExtra("tensorflow", "convert", "the gate"),
        UsageError(field="cores", value="none", allowed="big or all", hint="leave {cores} out"),
        *(getattr(errors, name)("it failed", hint="try again") for name in errors.__all__ if name.endswith("Error")),
        CameraError("it is gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_to_another_process(error: EdgelocError) -> None:
    error.spelling = lambda name: name  # a front end's, which stays where it is
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.message, copy.field, copy.value, copy.allowed, copy.hint) == (
        str(error), error.message, error.field, error.value, error.allowed, error.hint,
    )  # fmt: skip
