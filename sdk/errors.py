"""Every error this package raises on purpose, each with the exit status that the command line ends with.

EdgelocError                  exit status 2
+-- UsageError                2  a wrong argument or URI                  (also ValueError)
+-- DataError                 2  a labelled data set or image is bad      (also ValueError)
+-- ModelError                2  a model file or its contract is bad      (also ValueError)
|   +-- ContractError         2  the contract contradicts itself or the model
+-- MissingExtra              2  a package of an extra is not installed   (also ImportError)
+-- OutputError               2  a result cannot be written               (also OSError)
+-- GateFailed                1  a measured figure is worse than allowed
+-- DeviceError               3  hardware or a runtime failed             (also RuntimeError)
    +-- EngineError           3  an inference engine is missing or failed
    +-- CameraError           3  a camera is missing, busy, gone or sends what it should not
        +-- CameraTimeout     3  no new frame came in time                (also TimeoutError)
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = [
    "CameraError",
    "CameraTimeout",
    "ContractError",
    "DataError",
    "DeviceError",
    "EdgelocError",
    "EngineError",
    "GateFailed",
    "MissingExtra",
    "ModelError",
    "OutputError",
    "UsageError",
    "first_line",
    "mask_credentials",
    "name_parameters",
    "printable",
    "with_fix",
]

# LiteRT joins its messages without an end of line, thousands of characters were seen.
_LONGEST_LINE = 300
_LONGEST_SENTENCE = 2000
# Words, and URIs in quotes, which may hold spaces.
_WORDS = r'[^\s"]*"\w+://[^"]*"|\S+'
# What stands between "://" and the last "@": a user and a password (which may hold an "@" itself), or a token alone.
_USER_INFO = r"(?s)(?<=://)(?:([^/:@?#]*:).*@|[^/:@?#]+@)"
_SECRET = (
    r"(?i)((?:password|passwd|passphrase|secret|token|credentials?|signature"
    r"|(?<![a-z])(?:pwd?|pass|key|apikey|auth|authorization|sig))\s*=\s*)"
)
_OPTION = _SECRET + "[^&]+"
# In a pipeline a value may have its type before it, and quotes that are escaped.
_PROPERTY = _SECRET + r"""(?:(?:\(\w+\)\s*)?(?:\\?"[^"]*"|\\?'[^']*')|[^\s&]+)"""


class EdgelocError(Exception):
    """Base of all errors here: one sentence that names what is wrong and how to fix it.

    Parameters:
        message: what is wrong. Where it is left out, the sentence is made of `field`, `value` and `allowed`.
        field: the parameter's name.
        value: its value.
        allowed: what it must be.
        hint: the fix; it names parameters in braces, as in "give {calibration}", so that a front end can write them in
            its own way (see `spelling`).
    """

    exit_status = 2
    spelling: Callable[[str], str] = staticmethod(str)
    """How `str()` writes the names of parameters; a front end that has other names for them sets its own."""

    def __init__(
        self, message: str = "", *, field: str | None = None, value: object = None, allowed: str = "", hint: str = ""
    ) -> None:
        self.message, self.hint = mask_credentials(message), mask_credentials(hint)
        self.field, self.allowed = field, allowed
        self.value = mask_credentials(value) if isinstance(value, str) else value
        super().__init__(str(self))

    def __str__(self) -> str:
        """The sentence, with each parameter as `spelling` writes it."""
        sentence = self.message
        if not sentence and self.field is not None:
            value = f"{self.value:g}" if isinstance(self.value, float) else repr(self.value)
            sentence = f"{self.spelling(self.field)} is {value}"
            if self.allowed:
                sentence += f": it must be {self.allowed}"
        return printable(_shortened(with_fix(sentence, self.hint, self.spelling)))

    def __reduce__(self) -> tuple[object, ...]:
        """For another process: by the fields, since some classes take other arguments than these."""
        fields = {name: value for name, value in vars(self).items() if name != "spelling"}
        return _restored, (type(self), self.args, fields)


class UsageError(EdgelocError, ValueError):
    """An argument or a URI that cannot be used as given."""


class DataError(EdgelocError, ValueError):
    """A labelled data set, one of its rows or one of its images is bad."""


class ModelError(EdgelocError, ValueError):
    """A model file is damaged, is not what it claims to be, or cannot be converted."""


class ContractError(ModelError):
    """A model's contract is absent, contradicts itself or names what the model does not have."""


class MissingExtra(EdgelocError, ImportError):
    """A package that an optional extra brings is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}", hint=f"pip install 'edgeloc[{extra}]'")
        self.name = package


class OutputError(EdgelocError, OSError):
    """A file or a sink cannot be written."""


class GateFailed(EdgelocError):
    """A measured figure is worse than its limit."""

    exit_status = 1


class DeviceError(EdgelocError, RuntimeError):
    """Hardware or a runtime library failed."""

    exit_status = 3


class EngineError(DeviceError):
    """An inference engine is not installed, does not load the model, or failed while running it."""


class CameraError(DeviceError):
    """A camera is not there, is busy, went away, or sends a format that cannot be used."""


class CameraTimeout(CameraError, TimeoutError):
    """A camera sent no new frame in the time allowed."""


def _restored(kind: type[EdgelocError], arguments: tuple[object, ...], fields: dict[str, object]) -> EdgelocError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(fields)
    return error


def with_fix(sentence: str, fix: str | None, spelling: Callable[[str], str] = str) -> str:
    """`sentence` and behind it the fix, where there is one; `spelling` writes the names of the fix's parameters."""
    if not fix:
        return sentence
    return f"{sentence}{'; ' if ': ' in sentence else ': '}{name_parameters(fix, spelling)}"


def name_parameters(text: str, spelling: Callable[[str], str] = str) -> str:
    """`text` with each `{parameter}` in it as `spelling` writes that name."""
    return re.sub(r"\{(\w+)\}", lambda match: spelling(match.group(1)), text)


def printable(text: str) -> str:
    """`text` with what a terminal would obey instead of showing it written as an escape; ends of lines stay.

    Names in a file that somebody sent can hold colours, a window's title, or characters that turn the order of others.
    """
    if text.isprintable():
        return text
    from unicodedata import category  # most programs print nothing that needs it

    return "".join(one if one == "\n" or one.isprintable() or category(one) == "Zs" else _escape(one) for one in text)


def mask_credentials(text: str, *, one_uri: bool = False) -> str:
    """`text` with the passwords and tokens of every URI and pipeline in it as `***`.

    Masked are what stands before a host's `@`, and the values of options such as `password=`, `user-pw=` and `token=`.
    With `one_uri`, all of `text` is one URI, in which a password may hold spaces.
    """
    if "://" in text and "@" in text:
        text = _without_user_info(text) if one_uri else re.sub(_WORDS, lambda word: _without_user_info(word[0]), text)
    if "=" not in text:
        return text
    return re.sub(_OPTION if one_uri else _PROPERTY, r"\1***", text)


def _without_user_info(text: str) -> str:
    before, at, host = text.rpartition("@")
    return re.sub(_USER_INFO, lambda found: f"{found[1] or ''}***@", before + at) + host


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _shortened(sentence: str) -> str:
    """A sentence without its middle where that quotes a name of thousands of characters."""
    half = _LONGEST_SENTENCE // 2
    return sentence if len(sentence) <= _LONGEST_SENTENCE else f"{sentence[:half]} ... {sentence[-half:]}"


def first_line(error: BaseException) -> str:
    """The first line of another library's error, for a sentence of ours; the error's kind where it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")[:_LONGEST_LINE]
