"""Secrets of a service: files that hold them become credentials of systemd, and no command line holds one."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from urllib.parse import unquote

from edgeloc._support.backend import uri_of
from edgeloc.errors import UsageError, mask_credentials

__all__ = ["Secrets"]

# Options that name a file with a secret, such as token_file=.
_FILE = re.compile(r"(?<=[?&])(\w+_file)=([^&]+)")
_USER = re.compile(r"(?<=://)[^/:@?#]+@")
# Readable by others than its owner.
_OPEN = 0o044

logger = logging.getLogger(__name__)


class Secrets:
    """Collects the secrets of a service called `name`; `credentials` are their files by name."""

    def __init__(self, name: str) -> None:
        self._folder = Path("/run/credentials") / f"{name}.service"
        self.credentials: dict[str, Path] = {}

    def take(self, text: str, name: str) -> tuple[str, str]:
        """What stands in the command line for the URI of a camera or a sink, and that URI itself.

        `text` is the URI, or `@FILE`; `name` is the parameter that it is given by. Raises UsageError where the URI
        holds a password, or a file is not there.
        """
        if text.startswith("@"):
            return f"@{self._stored(text[1:], name)}", uri_of(text)
        gst = text.startswith("gst://")
        if mask_credentials(plain := _USER.sub("", text), one_uri=not gst) != plain:
            shown = mask_credentials(text, one_uri=not gst)
            hint = f"write the URI into a file that root alone may read, and give {{{name}}} @FILE"
            raise UsageError(
                f"{shown} holds a secret, which a command line shows to every user of the board", hint=hint
            )
        line = text if gst else _FILE.sub(lambda found: f"{found[1]}={self._stored(unquote(found[2]), name)}", text)
        return line, text

    def _stored(self, path: str, name: str) -> Path:
        """Where the service finds the file of a secret."""
        full = Path(os.path.abspath(path))
        if not full.is_file():
            raise UsageError(f"the file {full} is not there")
        if full.stat().st_mode & _OPEN:
            logger.warning("%s holds a secret and can be read by other users: chmod 600 %s", full, full)
        credential = name if name not in self.credentials else f"{name}-{len(self.credentials)}"
        self.credentials[credential] = full
        return self._folder / credential
