"""TensorRT's built engines (plans) in the user's cache folder, so that each is built once; builds none itself.

A plan runs only with the TensorRT and on the kind of GPU that it was built with, so the name of
its file tells both and the model's hash. Its SHA-256 lies before it: a plan that lost a byte
could end the process that loads it.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from edgeloc.files import atomic_path

__all__ = ["plan_path", "read_plan", "write_plan"]

_DIGEST_SIZE = 32


def plan_path(model: bytes, version: str, gpu: str, capability: str) -> Path:
    """Where the plan of a model lies, for a version of TensorRT and a GPU by name and compute capability.

    In `$XDG_CACHE_HOME/edgeloc/tensorrt`, or `~/.cache/edgeloc/tensorrt`.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored: https://specifications.freedesktop.org/basedir-spec/
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    name = "-".join([hashlib.sha256(model).hexdigest(), f"tensorrt{version}", gpu, f"sm{capability}"])
    return root / "edgeloc" / "tensorrt" / (re.sub(r"[^\w.]+", "-", name) + ".plan")


def read_plan(path: Path) -> bytes | None:
    """A stored plan; None where there is none, or it is not as it was written."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, plan = stored[:_DIGEST_SIZE], stored[_DIGEST_SIZE:]
    return plan if hashlib.sha256(plan).digest() == digest else None


def write_plan(path: Path, plan: bytes) -> None:
    """Store a plan; OutputError when the folder cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(hashlib.sha256(plan).digest() + plan)
