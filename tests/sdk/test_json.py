"""JSON from outside: whatever it holds, reading it ends with a value or a ValueError."""

from __future__ import annotations

import pytest

from edgeloc._support.json import parse_json


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        "[" * 900 + "]" * 900,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        '{"a":' * 65 + "1" + "}" * 65,
        "9" * 5000,
        "",
    ],
)
def test_deep_or_endless_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_sixty_four_levels_are_read() -> None:
    assert str(parse_json("[" * 64 + "1" + "]" * 64)) == "[" * 64 + "1" + "]" * 64
