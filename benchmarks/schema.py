"""The JSON Schemas of a result and of a model card, made of their dataclasses, for programs in other languages.

python -m edgeloc.benchmarks.schema > docs/reference/result.schema.json
python -m edgeloc.benchmarks.schema card > docs/reference/card.schema.json
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgeloc.benchmarks.card import CARD_VERSION, Card
from edgeloc.benchmarks.result import SCHEMA_VERSION, BenchResult

__all__ = ["json_schema"]

_PUBLISHED: dict[str, tuple[type[Any], int, str]] = {
    "result": (BenchResult, SCHEMA_VERSION, "edgeloc benchmark result"),
    "card": (Card, CARD_VERSION, "edgeloc model card"),
}

_PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean"}


def json_schema(name: str = "result") -> dict[str, Any]:
    """The schema (draft 2020-12) of a published file.

    Parameters:
        name: `result`, a file of `write_result` and the first line of an unfinished one; or `card`, what `edgeloc card`
            writes as JSON.
    """
    kind, version, title = _PUBLISHED[name]
    schemas = _Schemas()
    root = schemas.of(kind)
    schemas.definitions[kind.__name__]["properties"]["schema_version"] = {"const": version}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": dict(sorted(schemas.definitions.items())),
    }


class _Schemas:
    """The schemas of types, those of dataclasses by name in `definitions`."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._kinds: dict[str, type[Any]] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of one type."""
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if kind.__name__ not in self.definitions:
                self.definitions[kind.__name__] = {}  # it may hold itself
                self.definitions[kind.__name__] = self._object(kind)
                self._kinds[kind.__name__] = kind
            assert self._kinds.get(kind.__name__, kind) is kind, f"two dataclasses are named {kind.__name__}"
            return {"$ref": f"#/$defs/{kind.__name__}"}
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            kinds = [self.of(one) for one in arguments if one is not type(None)]
            return {"anyOf": [*kinds, {"type": "null"}]}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is tuple:
            return self._list(arguments)
        if isinstance(kind, type) and issubclass(kind, tuple):
            return self._list(tuple(get_type_hints(kind).values()))
        return {"type": _PLAIN[kind]}

    def _list(self, kinds: tuple[Any, ...]) -> dict[str, Any]:
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            return {"type": "array", "items": self.of(kinds[0])}
        items = [self.of(kind) for kind in kinds]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}

    def _object(self, kind: type[Any]) -> dict[str, Any]:
        hints, described = get_type_hints(kind), _descriptions(kind)
        properties = {
            spec.name: {**self.of(hints[spec.name]), **described.get(spec.name, {})}
            for spec in dataclasses.fields(kind)
        }
        summary = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
        required = [
            spec.name
            for spec in dataclasses.fields(kind)
            if spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        ]
        # A later release of the same version may have added a field.
        return {"type": "object", "description": summary, "properties": properties, "required": required}


def _descriptions(kind: type[Any]) -> dict[str, dict[str, str]]:
    """What the docstring has to say of each field, under `Parameters:`."""
    _, _, text = (inspect.getdoc(kind) or "").partition("Parameters:\n")
    found = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n        .*)*)", text, re.MULTILINE)
    described = {}
    for names, words in found:
        for name in names.split(", "):
            described[name] = {"description": re.sub(r"\s+", " ", words)}
    return described


if __name__ == "__main__":
    json.dump(json_schema(*sys.argv[1:]), sys.stdout, indent=2)
    print()
