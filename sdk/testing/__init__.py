"""Fakes of hardware and contract suites, for tests of programs that use this package and of back ends for it."""

from __future__ import annotations

import sys

from edgeloc._support.lookup import lazy_face

if sys.modules.get("pytest"):
    # So that a failed assertion of a suite shows its values, as one in a test file does.
    sys.modules["pytest"].register_assert_rewrite(f"{__name__}.suites")

__getattr__, __dir__, __all__ = lazy_face(__name__)
