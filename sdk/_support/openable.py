"""What is opened, used and given back: cameras and power meters have that much in common; what they give is theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

__all__ = ["Openable"]

_Own = TypeVar("_Own", bound="Openable")


class Openable(ABC):
    """`open()` cleans up behind a failure, `close()` may be called at any time; or use it in a `with`."""

    _opened: bool = False

    @abstractmethod
    def _open(self) -> None:
        """Get ready; what was begun before a failure goes in `_close`."""

    @abstractmethod
    def _close(self) -> None:
        """Give everything back; called also when `_open` failed half-way."""

    def open(self) -> None:
        """Get ready to read; what is open stays as it is."""
        if self._opened:
            return
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        self._opened = True

    def close(self) -> None:
        """Give everything back; it may be opened again, from its beginning."""
        if self._opened:
            self._opened = False
            self._close()

    def __enter__(self: _Own) -> _Own:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
