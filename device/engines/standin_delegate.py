"""Builds the stand-in for libedgetpu, for tests of programs that use an Edge TPU; what it does is in its C source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from edgeloc.errors import EngineError

__all__ = ["build_standin"]

_SOURCE = Path(__file__).with_name("standin_delegate.c")


def build_standin(folder: str | Path, compiler: str = "cc") -> Path:
    """Compile the stand-in into `folder` and return the library's path, to be given as `edgetpu://?library=PATH`.

    Raises EngineError when there is no C compiler or it fails.
    """
    library = Path(folder).resolve() / "libedgetpu-standin.so"
    if shutil.which(compiler) is None:
        raise EngineError(
            f"the stand-in for the Edge TPU needs a C compiler ({compiler}): sudo apt install gcc libc6-dev"
        )
    command = [compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-o", str(library), str(_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"{compiler} does not compile {_SOURCE.name}: {done.stderr.strip()}")
    return library
