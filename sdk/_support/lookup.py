"""Names that are looked up when they are first used: a part's public face, back ends, the user's own code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from edgeloc.errors import DeviceError, EdgelocError, UsageError, first_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["OWN_CODE", "Registry", "did_you_mean", "entry_points", "find_own", "import_named", "lazy_face"]

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
OWN_CODE = rf"(?P<place>{_NAME}|.*\.py):(?P<name>{_NAME})"
"""What `find_own` takes: a pattern, compiled where it is used, since most programs do without."""

T = TypeVar("T")


class Registry(Generic[T]):
    """Back ends of one kind by name: this package's, then those of other packages.

    `kind`: what messages call one of them, as in "camera".
    `group`: the entry points by which other packages register theirs; read only for a name that `own` does not hold.
    `own`: this package's back ends, name to `"module:attribute"`; a module is imported when it is first used.
    `maker`: the class method that makes one, which every back end must have.
    `failure`: the error for a back end that does not load.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, str],
        *,
        maker: str = "from_uri",
        failure: type[EdgelocError] = DeviceError,
    ) -> None:
        self.kind, self.group, self.own = kind, group, own
        self._maker, self._failure = maker, failure

    def __iter__(self) -> Iterator[str]:
        """The names of this package's back ends."""
        return iter(self.own)

    def __contains__(self, name: object) -> bool:
        return name in self.own or any(entry.name == name for entry in entry_points(self.group))

    def find(self, name: str, given: str, known: str) -> T:
        """The back end called `name`.

        `given` is what the user wrote and `known` are examples of what can be written, for messages. Raises UsageError
        for an unknown name, the registry's `failure` where the back end or the plug-in that brings it does not load.
        """
        about = f"{self.kind} {given}"
        if name in self.own:
            return self._load(lambda: import_named(self.own[name]), about, "its module")
        entries = entry_points(self.group)
        entry = next((entry for entry in entries if entry.name == name), None)
        if entry is None:
            also = sorted({entry.name for entry in entries})
            plugged = f"; of other packages: {', '.join(also)}" if also else ""
            hint = did_you_mean(name, (*self.own, *also))
            raise UsageError(f"{about} is of no known kind{hint}; known are: {known}{plugged}")
        return self._load(entry.load, about, f"the plug-in {_origin(entry)}")

    def _load(self, load: Callable[[], object], about: str, what: str) -> T:
        try:
            found = load()
        except EdgelocError:
            raise
        # A plug-in may do anything while it is imported, and end the program too.
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise self._failure(f"{about}: {what} does not load ({reason})", hint="update or reinstall it") from error
        if not callable(getattr(found, self._maker, None)):
            raise self._failure(f"{about}: {what} brings no {self.kind}: its entry has no {self._maker}()")
        return cast(T, found)


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """What installed packages register in `group`; reading all packages' metadata takes tens of milliseconds."""
    from importlib import metadata

    return tuple(metadata.entry_points(group=group))


def _origin(entry: EntryPoint) -> str:
    package = getattr(entry, "dist", None)
    return entry.value if package is None else f"{package.name} {package.version}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question in brackets that names the one of `names` closest to `name`; nothing where none is close."""
    import difflib

    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.65)
    return f" (did you mean {close[0]!r}?)" if close else ""


def import_named(reference: str) -> Any:
    """What `"module:attribute"` names, or the module itself without an attribute."""
    module, _, path = reference.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in filter(None, path.split(".")):
        found = getattr(found, attribute)
    return found


def find_own(reference: str) -> Any:
    """What the user's own code holds as `package.module:name` or `path/to/file.py:name`.

    A module is looked for as `python -m` does, in the current folder first; what a file imports, in its own folder
    last. Raises UsageError, in one sentence, when there is no such module, file or name, or the import fails.
    """
    place, _, attribute = reference.rpartition(":")
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UsageError(f"{reference}: there is no file {path}")
    try:
        found: Any = _import_file(path) if is_file else _import_here(place)
    except ModuleNotFoundError as error:
        where = "" if error.name != place.partition(".")[0] else f"; run from the folder that holds {error.name}"
        raise UsageError(f"{reference}: there is no module {error.name}{where}") from error
    except (Exception, SystemExit) as error:  # the user's own code
        raise UsageError(
            f"{reference}: {path if is_file else f'the module {place}'} cannot be imported "
            f"({type(error).__name__}: {first_line(error)}): it must import without doing anything else"
        ) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"{reference}: {first_line(error)}") from error
    return found


def _import_here(module: str) -> ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(module)


def _import_file(path: Path) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    folder = str(path.resolve().parent)
    if folder not in sys.path:
        # Last: a file beside it that is called json.py replaces no other module, here and in child processes.
        sys.path.append(folder)
    # A file may have the name of a module that something else imports, such as camera.py.
    name = path.stem if path.stem not in sys.modules else f"own_{path.stem}"
    spec = spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def lazy_face(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose public names stand in its `__init__.pyi`.

    The stub is the only place that lists them, one a line as `from module import name as name`. Type checkers read
    it; at run time each module is imported when one of its names is first used, so that importing the package stays
    light.
    """
    module = sys.modules[package]
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    # Split by hand: loading `ast` for it takes as long as all the rest of `import edgeloc`.
    rows = (line.split() for line in stub.read_text(encoding="utf-8").splitlines() if line.startswith("from "))
    homes = {name: home for _, home, _, name, *_ in rows}

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(homes[name]), name)
        setattr(module, name, value)
        return value

    def directory() -> list[str]:
        return sorted({*vars(module), *homes})

    return get, directory, sorted(homes)
