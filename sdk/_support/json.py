"""Frozen dataclasses to readable JSON and back, naming the field that does not fit; it knows no result's meaning."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgeloc.errors import DataError

__all__ = ["from_data", "to_json"]

_INDENT = "  "
_LINE = 400  # a list or object that fits into as many characters stands on one line


def to_json(value: Any) -> str:
    """JSON text of a dataclass, short lists and objects on one line each; NaN and infinity raise ValueError."""
    return _format(dataclasses.asdict(value), "") + "\n"


def _format(value: Any, indent: str) -> str:
    flat = json.dumps(value, allow_nan=False)
    if not isinstance(value, (dict, list, tuple)) or len(flat) <= _LINE or not _nested(value):
        return flat
    inner = indent + _INDENT
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(key))}: {_format(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _format(item, inner) for item in value) + f"\n{indent}]"


def _nested(value: Any) -> bool:
    """Whether breaking the lines helps: a long list of plain numbers stays on its line."""
    return isinstance(value, dict) or any(isinstance(item, (dict, list, tuple)) for item in value)


def from_data(kind: Any, data: Any, where: str = "") -> Any:
    """Make a value of the type `kind` out of JSON data; DataError names the field, as in `regression.images`.

    Fields that `kind` does not have are ignored, since a later release may have added them.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if data is None else from_data(next(a for a in arguments if a is not type(None)), data, where)
    if origin is Literal:
        if data not in arguments:
            raise DataError(f"{where} must be one of {', '.join(map(str, arguments))}, not {data!r}")
        return data
    if origin is dict:
        _require(data, dict, where, "an object")
        return {key: from_data(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if origin is tuple:
        return _tuple(arguments, data, where)
    if isinstance(kind, type) and issubclass(kind, tuple):
        return kind(*_tuple(tuple(get_type_hints(kind).values()), data, where))
    return _scalar(kind, data, where)


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    _require(data, dict, where, "an object")
    values = {}
    hints = get_type_hints(kind)
    for spec in dataclasses.fields(kind):
        place = f"{where}.{spec.name}" if where else spec.name
        if spec.name in data:
            values[spec.name] = from_data(hints[spec.name], data[spec.name], place)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise DataError(f"{place} is missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise DataError(f"{where}: {error}" if where else str(error)) from error


def _tuple(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    _require(data, list, where, "a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(data)
    if len(arguments) != len(data):
        raise DataError(f"{where} must be a list of {len(arguments)}, not of {len(data)}")
    pairs = zip(arguments, data, strict=True)
    return tuple(from_data(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(pairs))


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    accepted = (int, float) if kind is float else kind
    if isinstance(data, bool) and kind is not bool:
        accepted = ()
    _require(data, accepted, where, {"int": "a whole number", "float": "a number", "str": "text"}.get(kind.__name__))
    return kind(data)


def _require(data: Any, accepted: Any, where: str, what: str | None) -> None:
    if not isinstance(data, accepted):
        shown = repr(data) if len(repr(data)) <= 60 else type(data).__name__
        raise DataError(f"{where or 'the whole'} must be {what or accepted.__name__}, not {shown}")
