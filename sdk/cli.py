"""The `edgeloc` command: finds sub-commands, runs one, and prints its log and its errors.

A sub-command is a module named by an entry point of the group `edgeloc.commands`. It holds `HELP`
(one line), `EXTRA` (the extra that brings what it needs, or None), `NEEDS` (import names without
which it cannot run), `configure(parser)` and `run(args) -> exit status`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import ModuleType
from typing import NoReturn

from edgeloc._support.interrupt import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    Terminated,
    ignore_signals,
    raise_on_signals,
    raise_on_signals_from_now_on,
)
from edgeloc._support.lookup import did_you_mean, entry_points
from edgeloc._support.terminal import quiet_import, trace_crashes, write_line
from edgeloc._version import __version__
from edgeloc.errors import EdgelocError, MissingExtra, UsageError, first_line
from edgeloc.findings import Finding

__all__ = ["COMMAND_GROUP", "Terminated", "main", "program"]

COMMAND_GROUP = "edgeloc.commands"
EXIT_USAGE = 2
EXIT_INTERNAL = 3
EXIT_BROKEN_PIPE = 141


def program() -> int:
    """The process's command line from its beginning to its end: an impatient second signal does not break its end."""
    raise_on_signals_from_now_on()
    try:
        return main()
    except KeyboardInterrupt as error:
        return _interrupted(error)
    finally:
        ignore_signals()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's) and return its exit status.

    0 fine, 1 a gate failed, 2 usage or bad input, 3 the device, an engine or this program failed,
    130 after Ctrl-C, 141 when the reader of a pipe went away, 143 after SIGTERM or SIGHUP.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = _wants_verbose(arguments)
    _quieten_libraries(verbose)
    _print_any_text()
    trace_crashes()
    try:
        with raise_on_signals(), _log_on_stderr(verbose):
            status = _dispatch(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE if stop.code else 0
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except BrokenPipeError:
        return _after_broken_pipe()
    except Exception as error:
        if verbose:
            write_line(traceback.format_exc())
        return _report(error, verbose)


def _dispatch(arguments: list[str]) -> int:
    """Split the line at the sub-command's name, and run that command."""
    entries = _entry_points()
    position = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    top = _top_parser(entries)
    top.parse_args(arguments[:position])
    if position == len(arguments):
        top.print_help(sys.stderr)
        return EXIT_USAGE
    name = arguments[position]
    if name not in entries:
        raise UsageError(_unknown_command(name, entries))
    command: ModuleType = entries[name].load()
    parser = _Parser(prog=f"edgeloc {name}", description=command.HELP, allow_abbrev=False)
    _add_verbose(parser)
    command.configure(parser)
    args = parser.parse_args(arguments[position + 1 :])
    _refuse_empty(args, _flags(parser))
    missing = _missing(command.NEEDS)
    if missing:
        raise _missing_error(name, command, missing[0])
    with nullcontext() if _wants_verbose(arguments) else quiet_import("tensorflow"), _naming_flags(parser):
        return int(command.run(args))


@contextmanager
def _naming_flags(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Inside, errors and findings that name a parameter (`max_iou_drop`) are shown with its flag (`--max-iou-drop`)."""
    flags = _flags(parser)

    def spelling(name: str) -> str:
        return flags.get(name, name)

    for handler in _terminal_handlers():
        handler.spelling = spelling
    try:
        yield
    except EdgelocError as error:
        error.spelling = spelling
        raise


def _flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The flag, or the name in the usage line, of each parameter."""
    return {action.dest: _flag(action) for action in parser._actions}


def _flag(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Every registered sub-command by name; this package's own win over others of the same name."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in entry_points(COMMAND_GROUP):
        if entry.name not in found or entry.value.startswith("edgeloc."):
            found[entry.name] = entry
    return found


class _Parser(argparse.ArgumentParser):
    """Reports what is wrong with a line in one sentence, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` shows what there is")


def _refuse_empty(args: argparse.Namespace, flags: Mapping[str, str]) -> None:
    """An empty text is no path, name or URI: most often it is a shell variable that was never set."""
    for name, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise UsageError(f"{flags[name]} is empty: give it a value, or leave it out")


class _TopParser(_Parser):
    """Lists the sub-commands below its options; only then are their modules imported."""

    entries: dict[str, importlib.metadata.EntryPoint]

    def format_help(self) -> str:
        rows = [(name, _one_line(name, entry)) for name, entry in self.entries.items()]
        width = max((len(name) for name, _ in rows), default=0)
        table = "\n".join(f"  {name:<{width}}  {line}" for name, line in rows)
        return f"{super().format_help()}\ncommands:\n{table}\n\n`edgeloc COMMAND --help` shows a command's options.\n"


def _top_parser(entries: dict[str, importlib.metadata.EntryPoint]) -> _TopParser:
    parser = _TopParser(
        prog="edgeloc",
        usage="edgeloc [-h] [--version] [-v] COMMAND ...",
        description="Turn a trained localization CNN into one int8 .tflite, run it on a camera, measure what it cost.",
        allow_abbrev=False,
    )
    parser.entries = entries
    parser.add_argument("--version", action="version", version=f"edgeloc {__version__}")
    _add_verbose(parser)
    return parser


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks and the libraries' own messages")


def _one_line(name: str, entry: importlib.metadata.EntryPoint) -> str:
    """A command's help line, and what it lacks; one that does not even load is listed with the reason."""
    try:
        command = entry.load()
        missing = _missing(command.NEEDS)
        help_line = str(command.HELP)
    except Exception as error:
        return f"(does not load: {first_line(error)})"
    if not missing:
        return help_line
    return f"{help_line} [needs pip install '{_requirement(command)}']"


def _missing(needs: Sequence[str]) -> list[str]:
    """Which of the import names are not installed; looked up, not imported."""
    return [name for name in needs if not _importable(name)]


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _missing_error(name: str, command: ModuleType, package: str) -> EdgelocError:
    if command.EXTRA:
        return MissingExtra(package, command.EXTRA, f"edgeloc {name}")
    return UsageError(f"edgeloc {name} needs the package {package}: pip install '{_requirement(command)}'")


def _requirement(command: ModuleType) -> str:
    return f"edgeloc[{command.EXTRA}]" if command.EXTRA else "edgeloc"


def _unknown_command(name: str, entries: dict[str, importlib.metadata.EntryPoint]) -> str:
    if not entries:
        return "no commands are registered: run pip install . in the checkout first"
    return f"'{name}' is not a command{did_you_mean(name, entries)}; commands are {', '.join(entries)}"


def _wants_verbose(arguments: list[str]) -> bool:
    """Whether -v was given before or after the command; read by hand so that usage errors honour it too."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "-v" in options or "--verbose" in options


def _quieten_libraries(verbose: bool) -> None:
    """Keep TensorFlow's start-up lines off the user's terminal, unless asked for; a level already set stays."""
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class _TerminalHandler(logging.Handler):
    """Prints what modules log on stderr: progress as it is, findings between their severity and their code."""

    spelling: Callable[[str], str] = staticmethod(str)

    def emit(self, record: logging.LogRecord) -> None:
        finding: Finding | None = getattr(record, "finding", None)
        severity = finding.severity if finding is not None else record.levelname.lower()
        text = finding.sentence(self.spelling) if finding is not None else record.getMessage()
        prefix = f"{severity}: " if record.levelno >= logging.WARNING else ""
        code = f" [{finding.code}]" if finding is not None and prefix else ""
        write_line(f"{prefix}{text}{code}")


def _terminal_handlers() -> list[_TerminalHandler]:
    handlers = logging.getLogger("edgeloc").handlers
    return [handler for handler in handlers if isinstance(handler, _TerminalHandler)]


@contextmanager
def _log_on_stderr(verbose: bool) -> Iterator[None]:
    """Inside, this package's log is shown; the command line is the only one that prints it.

    A command that runs others, as `edgeloc demo` does, comes here again: the innermost handler is the one that prints.
    """
    logger, handler, outer = logging.getLogger("edgeloc"), _TerminalHandler(), _terminal_handlers()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False  # a library that gives the root logger handlers would print each line a second time
    for other in outer:
        logger.removeHandler(other)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        for other in outer:
            logger.addHandler(other)
        logger.setLevel(level)
        logger.propagate = propagate


def _print_any_text() -> None:
    """Let a name that the terminal's encoding lacks be printed in escapes; it is no reason to fail after the work."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _interrupted(error: KeyboardInterrupt) -> int:
    write_line("edgeloc: interrupted")
    return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED


def _report(error: Exception, verbose: bool) -> int:
    """Print in a line or two what went wrong, and return the exit status that goes with it."""
    if isinstance(error, EdgelocError):
        message, status = str(error), error.exit_status
    elif isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        message, status = f"{where}{error.strerror}", EXIT_USAGE
    elif isinstance(error, MemoryError):
        message, status = f"not enough memory: {first_line(error)}", EXIT_INTERNAL
    else:
        hint = "" if verbose else "; run again with --verbose and report what it shows"
        message, status = f"internal error: {type(error).__name__}: {first_line(error)}{hint}", EXIT_INTERNAL
    write_line(f"edgeloc: error: {message}")
    return status


def _after_broken_pipe() -> int:
    """Point stdout at nothing, so that the interpreter's last flush does not complain again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(program())
