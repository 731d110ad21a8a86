"""How a URI with options is taken apart, a camera's or a power meter's; what it names is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from edgeloc.errors import UsageError

__all__ = ["Uri", "split_uri"]


@dataclass(frozen=True)
class Uri:
    """A URI: the text as given (without a password), its scheme ("" for a path), what it names, its options.

    `kind` is what messages call the thing: camera or power meter.
    """

    text: str
    scheme: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    kind: str = "camera"

    def options(self, parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
        """The options read by `parsers`, one for each known name; UsageError names what does not fit."""
        known = ", ".join(parsers) or "none"
        values: dict[str, Any] = {}
        for name, value in self.query:
            if name not in parsers:
                raise UsageError(f"{self.kind} {self.text}: there is no option {name!r}; known are: {known}")
            if name in values:
                raise UsageError(f"{self.kind} {self.text}: the option {name} is given twice")
            try:
                values[name] = parsers[name](value)
            except ValueError as error:
                raise UsageError(f"{self.kind} {self.text}: {name}={value} must be {error}") from None
        return values

    def require_no_path(self) -> None:
        """UsageError where something is named though there is nothing to name: most often an option without its ?."""
        if self.path.strip("/"):
            raise UsageError(
                f"{self.kind} {self.text}: {self.path!r} means nothing here: write {self.scheme}://, "
                "and options, if any, behind a ?"
            )

    def without(self, name: str) -> Uri:
        """The same URI less one option."""
        return replace(self, query=tuple(pair for pair in self.query if pair[0] != name))


def split_uri(text: str, kind: str) -> Uri:
    """Take SCHEME://PATH?OPTIONS apart; UsageError where it is no URI. A # is one of the path's own."""
    try:
        parts = urlsplit(text, allow_fragments=False)
        query = tuple(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise UsageError(f"{kind} {text}: this is no URI: {error}") from None
    return Uri(text, parts.scheme.lower(), unquote(parts.netloc + parts.path), query, kind)
