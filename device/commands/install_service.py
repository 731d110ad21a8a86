"""`edgeloc install-service`: a run as a systemd service."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from edgeloc.commands import run as run_command
from edgeloc.errors import UsageError
from edgeloc.loop.own import is_own_code, require_no_options

if TYPE_CHECKING:
    from edgeloc.device.service.unit import Service

HELP = "have a run start with the board, watched over and restarted by systemd"
EXTRA: str | None = None
NEEDS = run_command.NEEDS

_DEFAULT_NAME = "edgeloc"
_WITHIN = re.compile(r"[?&](?:library|ca)=([^&]+)")


class _Relay:
    """Adds the arguments of `edgeloc run` to this command's parser, none of them required, and records them."""

    def __init__(self, container: argparse._ActionsContainer, actions: list[argparse.Action]) -> None:
        self._container, self._actions = container, actions

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As a parser's."""
        if names[0].startswith("-"):
            options.pop("required", None)
        else:
            options["nargs"] = "?"
        self._actions.append(self._container.add_argument(*names, **options))
        return self._actions[-1]

    def add_argument_group(self, title: str) -> _Relay:
        """As a parser's: a group whose arguments are recorded with the others."""
        return _Relay(self._container.add_argument_group(title), self._actions)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags: those of `edgeloc run`, and this command's own."""
    actions: list[argparse.Action] = []
    run_command.configure(cast("argparse.ArgumentParser", _Relay(parser, actions)))
    parser.set_defaults(run_actions=actions)
    parser.add_argument("--name", default=_DEFAULT_NAME, help=f"the service's name (default: {_DEFAULT_NAME})")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="show the unit, install nothing")
    what.add_argument("--uninstall", action="store_true", help="stop the service and remove it")


def run(args: argparse.Namespace) -> int:
    """Print, install or remove the unit."""
    from edgeloc.device.service.unit import install, uninstall

    if args.uninstall:
        _require_root()
        print(f"Removed {uninstall(args.name)}. What it wrote is kept in /var/lib/{args.name}.")
        return 0
    service = _service(args)
    if args.print:
        print(service.unit(), end="")  # in which no secret stands
        return 0
    _require_root()
    path = install(service)
    print(f"{service.name} runs, and will start with the board: {path}")
    print(f"`systemctl status {service.name}` shows its state, `journalctl -u {service.name}` its log.")
    return 0


def _require_root() -> None:
    if os.geteuid() != 0:
        # sudo has a PATH of its own, where no virtual environment is.
        raise UsageError(
            f"services are the system's: use sudo {sys.executable} -m edgeloc install-service ..., or --print"
        )


def _service(args: argparse.Namespace) -> Service:
    from edgeloc.device.service.permissions import Needs, needs_of
    from edgeloc.device.service.secrets import Secrets
    from edgeloc.device.service.unit import Service

    if args.model is None or args.camera is None:
        raise UsageError("a service needs a model and a --camera: edgeloc install-service MODEL.tflite --camera URI")
    own = is_own_code(args.model)
    if own:
        require_no_options(args.model, vars(args))
    secrets = Secrets(args.name)
    camera, args.camera = secrets.take(args.camera, "camera")
    lines = [secrets.take(sink, "sink") for sink in args.sink]
    args.sink = [uri for _, uri in lines]
    _check_names(args)
    with _own_environment():
        for sink in args.sink:
            _check_sink(sink, args.name, overwrite=args.overwrite)
    reads = _files(args)
    needs = needs_of(args.camera, args.engine, Path(args.model), args.sink)
    if camera.startswith("@"):
        args.camera = camera
    args.sink = [line for line, _ in lines]
    return Service(
        name=args.name,
        command=(sys.executable, "-I", "-X", "faulthandler", "-m", "edgeloc", "run", *_words(args)),
        # What a library of somebody else's does is not known.
        needs=needs | Needs(makes_code=own),
        reads=(*_interpreter(), *reads),
        credentials=secrets.credentials,
    )


@contextmanager
def _own_environment() -> Iterator[None]:
    """Inside, secrets in variables of the user's shell are not there, as they are not for the service."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("EDGELOC_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _files(args: argparse.Namespace) -> list[Path]:
    """Make every file that the run reads absolute, among the arguments too, since a service runs elsewhere."""
    named, own = list(run_command.FILES), []
    if is_own_code(args.model):
        named.remove("model")
        own.append(_own_code(args))
    if "://" not in args.camera and not args.camera.startswith("/dev/"):
        named.append("camera")
    given = [name for name in named if getattr(args, name) is not None]
    for name in given:
        setattr(args, name, str(_readable(getattr(args, name))))
    return [*own, *(Path(getattr(args, name)) for name in given), *_in_uris(args)]


def _own_code(args: argparse.Namespace) -> Path:
    """The folder of a localizer of the user's own, since its weights lie beside it; its file is named in full."""
    from edgeloc.device.service.permissions import HIDDEN

    place, _, name = args.model.rpartition(":")
    if not place.endswith(".py"):
        raise UsageError(
            f"a service runs elsewhere and finds no module of yours: give {args.model} as path/to/FILE.py:{name}"
        )
    path = _readable(place)
    if path.parent in HIDDEN or path.parent.parent == Path("/home"):
        raise UsageError(f"a service is shown the folder of {path}: give that file a folder of its own")
    args.model = f"{path}:{name}"
    return path.parent


def _in_uris(args: argparse.Namespace) -> Iterator[Path]:
    """Files within the URIs of camera, engine and sinks: fake://FILE.json, ?library=FILE, ?ca=FILE."""
    from edgeloc.cameras.base import parse_uri

    within = parse_uri(args.camera).path if "://" in args.camera else ""
    for path in (within, *(unquote(path) for text in (args.engine, *args.sink) for path in _WITHIN.findall(text))):
        if not os.path.exists(path) or path.startswith("/dev/"):
            continue
        if not os.path.isabs(path):
            raise UsageError(f"a service runs elsewhere: give {path} as {os.path.abspath(path)}")
        yield _readable(path)


def _words(args: argparse.Namespace) -> Iterator[str]:
    """The command line of `edgeloc run` again, without what is at its default."""
    for action in args.run_actions:
        value = getattr(args, action.dest)
        if value is None or value == action.default:
            continue
        if not action.option_strings:
            yield str(value)
        elif value is True:
            yield action.option_strings[0]
        else:
            for one in value if isinstance(value, list) else [value]:
                yield from (action.option_strings[0], str(one))


def _check_names(args: argparse.Namespace) -> None:
    """UsageError for a camera or an engine that no run knows: it would fail later, in a journal."""
    from edgeloc.cameras import CAMERAS
    from edgeloc.cameras.base import parse_uri
    from edgeloc.engines import engine_class

    camera = parse_uri(args.camera)
    if camera.scheme not in ("", "file") and camera.scheme not in CAMERAS:
        raise UsageError(f"camera {camera.text}: there is no scheme {camera.scheme}://; known are {', '.join(CAMERAS)}")
    engine = args.engine.partition("://")[0]
    if engine != "auto":
        engine_class(engine)


def _check_sink(sink: str, name: str, *, overwrite: bool) -> None:
    """UsageError for what a service cannot write: on a screen, outside of its folders, or a second time."""
    from edgeloc.sinks import FileSink, open_sink

    found, state = open_sink(sink), Path("/var/lib") / name  # which opens nothing yet, and knows every kind
    if sink in ("window", "-"):
        what = "screen" if sink == "window" else "standard output"
        raise UsageError(f"a service has no {what} for the sink {sink}: use a file or a stream")
    if sink.startswith("ros2://"):
        raise UsageError(f"a service lacks ROS 2's environment for the sink {sink}: start the run from a launch file")
    if sink.startswith("unix://"):
        socket = Path(sink.removeprefix("unix://"))
        if socket.parent != Path("/run") / name:
            raise UsageError(
                f"a service listens in /run/{name} alone: give sink {sink} as unix:///run/{name}/{socket.name}"
            )
    path = unquote(sink.removeprefix("file://")) if sink.startswith("file://") else sink
    if "://" not in path and not Path(os.path.normpath(state / path)).is_relative_to(state):
        raise UsageError(f"a service writes to {state} alone: give sink {sink} as {Path(sink).name}, which lands there")
    if isinstance(found, FileSink) and "{time}" not in found.path.name and not overwrite:
        shown = f"{found.path.stem}-{{time}}{found.path.suffix}"
        raise UsageError(
            f"sink {sink} will be there already when the service starts again: give it as {shown}, or give --overwrite"
        )


def _readable(path: str) -> Path:
    """The path made absolute; UsageError where the service's user could not read it."""
    full = Path(os.path.abspath(path))
    if not full.exists():
        raise UsageError(f"{full} is not there")
    if not full.stat().st_mode & 0o004:
        raise UsageError(f"the service's own user may not read {full}: chmod o+r {full}")
    return full


def _interpreter() -> list[Path]:
    """Where Python and these packages lie: in a virtual environment, and for one that is editable outside of it."""
    import edgeloc

    sources = [str(Path(edgeloc.__file__).parent), str(Path(__file__).parents[1])]
    return [Path(os.path.abspath(path)) for path in (sys.prefix, sys.base_prefix, *sources)]
