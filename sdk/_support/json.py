"""Frozen dataclasses to readable JSON and back, naming the field that does not fit."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from functools import lru_cache
from typing import IO, Any, Literal, Union, get_args, get_origin, get_type_hints

from edgeloc.errors import DataError, EdgelocError

__all__ = ["finite_json", "from_data", "parse_json", "print_json", "to_json"]

_INDENT = "  "
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LINE = 400  # a list or object that fits into as many characters stands on one line
# Beyond any file that is read here, and far from where Python's own recursion ends.
_DEEPEST = 64
_MOST_DIGITS = 300
_LONGEST = 60  # what a sentence quotes


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from outside; ValueError where it is none, or is nested more than 64 deep.

    NaN and infinity, which JSON does not have, are read as Python writes them.
    """
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _require_shallow(value)
    return value


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _require_shallow(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_DEEPEST):
        held = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in held for item in items if isinstance(item, (dict, list))]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def finite_json(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinity, which JSON does not have, become None."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def print_json(value: Any, file: IO[str] | None = None) -> None:
    """Print one value as JSON on the standard output or another file, made finite."""
    print(json.dumps(finite_json(value), indent=2, allow_nan=False), file=file)


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


def from_data(kind: Any, data: Any, *, strict: bool = False, failure: type[EdgelocError] = DataError) -> Any:
    """Make a value of the type `kind` out of JSON data.

    Raises `failure`, which names the field, as in `regression.images`. A field that `kind` does not have is ignored,
    since a later release may have added it; with `strict` it is a failure too.
    """
    return _Reader(strict, failure).value(kind, data, "")


class _Reader:
    """Reads JSON data by the types of fields; `where` is the path of what is read."""

    def __init__(self, strict: bool, failure: type[EdgelocError]) -> None:
        self._strict, self._failure = strict, failure

    def value(self, kind: Any, data: Any, where: str) -> Any:
        if dataclasses.is_dataclass(kind):
            return self._dataclass(kind, data, where)
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            wanted = next(a for a in arguments if a is not type(None))
            return None if data is None else self.value(wanted, data, where)
        if origin is dict:
            self._require(data, dict, where, "an object")
            return {key: self.value(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
        if origin is tuple:
            return self._tuple(arguments, data, where)
        if origin is Literal:
            self._require_word(arguments, data, where)
            return data
        if kind is Any:
            return data
        if isinstance(kind, type) and issubclass(kind, tuple):
            return kind(*self._tuple(tuple(get_type_hints(kind).values()), data, where))
        return self._scalar(kind, data, where)

    def _dataclass(self, kind: Any, data: Any, where: str) -> Any:
        self._require(data, dict, where, "an object")
        specs, prefix = dataclasses.fields(kind), f"{where}." if where else ""
        names = [spec.name for spec in specs]
        unknown = sorted(set(data) - set(names))
        if unknown and self._strict:
            raise self._failure(f"{prefix}{_cut(unknown[0])} is not a field; known are {', '.join(names)}")
        values: dict[str, Any] = {}
        for spec in specs:
            if spec.name in data:
                if data[spec.name] is None and str(spec.type).endswith("| None"):
                    values[spec.name] = None  # without its type, which may stand in a module that is not loaded
                else:
                    values[spec.name] = self.value(_kind_of(kind, spec.name), data[spec.name], prefix + spec.name)
            elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
                raise self._failure(f"{prefix}{spec.name} is missing")
        try:
            return kind(**values)
        except self._failure:
            raise
        except ValueError as error:
            raise self._failure(f"{where}: {error}" if where else str(error)) from error

    def _tuple(self, kinds: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
        self._require(data, list, where, "a list")
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            kinds = (kinds[0],) * len(data)
        if len(kinds) != len(data):
            raise self._failure(f"{where} must be a list of {len(kinds)}, not of {len(data)}")
        pairs = zip(kinds, data, strict=True)
        return tuple(self.value(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(pairs))

    def _scalar(self, kind: Any, data: Any, where: str) -> Any:
        accepted = (int, float) if kind is float else kind
        if isinstance(data, bool) and kind is not bool:
            accepted = ()
        self._require(data, accepted, where, _KINDS.get(kind, kind.__name__))
        if kind is str and not _is_text(data):
            raise self._failure(f"{where} must be text, and holds half of a surrogate pair")
        return kind(data)

    def _require_word(self, words: tuple[Any, ...], data: Any, where: str) -> None:
        if data not in words:
            raise self._failure(f"{where} must be one of {', '.join(map(str, words))}, not {_shown(data)}")

    def _require(self, data: Any, accepted: Any, where: str, what: str) -> None:
        if not isinstance(data, accepted):
            raise self._failure(f"{where or 'the whole'} must be {what}, not {_shown(data)}")


@lru_cache(maxsize=1024)
def _kind_of(owner: type, name: str) -> Any:
    """The type of a dataclass's field; `typing.get_type_hints` evaluates all of them, and takes far longer."""
    home = next(base for base in owner.__mro__ if name in vars(base).get("__annotations__", {}))
    kind = home.__annotations__[name]
    return eval(kind, vars(sys.modules[home.__module__])) if isinstance(kind, str) else kind


def _is_text(data: str) -> bool:
    """Whether it can be written at all: JSON can name a half of a character by an escape."""
    try:
        data.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(data: Any) -> str:
    """A value as far as a sentence can hold it, else its type."""
    shown = repr(data)
    return shown if len(shown) <= _LONGEST else type(data).__name__


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
