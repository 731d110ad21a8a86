"""Everything that touches hardware on the device; its public names stand in `__init__.pyi`."""

from __future__ import annotations

from edgeloc._support.lookup import lazy_face

__getattr__, __dir__, __all__ = lazy_face(__name__)
