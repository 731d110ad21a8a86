"""What a peer is: a model on a runtime, a frame in, boxes out, and how long its network took."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from edgeloc.engines.tflite import TfliteEngine
from edgeloc.errors import UsageError
from edgeloc.localizer import Localizer
from edgeloc.types import Box, Pixels

__all__ = ["Case", "CaseName", "Edgeloc", "Found", "Peer", "Timed", "shared_network"]

CaseName = Literal["localizer", "onnx", "yolo", "ssd"]


class Found(NamedTuple):
    """An object: its box in pixels of the frame, and its label."""

    box: Box
    label: str


@dataclass(frozen=True)
class Case:
    """One model, on which edgeloc and its peers are measured.

    Parameters:
        title: what the table calls it.
        localizer: edgeloc with the model loaded.
        prepared: whether its network answers at once, so that only what is beyond the invoke means something.
    """

    title: str
    localizer: Localizer
    prepared: bool = False


class Timed:
    """An object one method of which adds up the seconds that it takes, in `seconds`."""

    def __init__(self, inner: Any, method: str) -> None:
        self._inner, self.seconds = inner, 0.0
        call = getattr(inner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            answer = call(*arguments, **options)
            self.seconds += time.perf_counter() - start
            return answer

        setattr(self, method, timed)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        self.__dict__[name] = value  # looked up once, so that it costs what it would without this class
        return value


class Peer(ABC):
    """One way to run a model, with the model loaded.

    Attributes:
        case: the model that it can take.
        package: the module that must be installed; "" for none.
        install: how to install it.
        engine: its runtime; peers of the same are compared by the whole frame.
        differs: what keeps its figures from being comparable with edgeloc's.
        whole: whether it does all that edgeloc does, from the frame to boxes in pixels.
        network: adds up the seconds in the network; None where they cannot be separated.
        left_out: adds up seconds that would not be fair to count; None for none.
    """

    case: ClassVar[CaseName]
    package: ClassVar[str] = ""
    install: ClassVar[str] = ""
    engine: str = ""
    differs: tuple[str, ...] = ()
    whole: ClassVar[bool] = True
    network: Timed | None = None
    left_out: Timed | None = None

    @abstractmethod
    def __init__(self, case: Case, threads: int) -> None:
        """Load the model of the case; its runtime uses so many threads, where they can be set."""

    @abstractmethod
    def __call__(self, frame: Pixels) -> list[Found]:
        """Find the objects in a frame, BGR uint8 (height, width, 3)."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close what must not be left to the interpreter's end."""


class Edgeloc(Peer):
    """The Localizer, with which the peers are compared."""

    def __init__(self, case: Case, threads: int) -> None:
        self._localizer, engine = case.localizer, case.localizer.engine
        self.engine = engine.name
        inner, method = _network(engine)
        self.network = Timed(getattr(engine, inner), method)
        setattr(engine, inner, self.network)

    def __call__(self, frame: Pixels) -> list[Found]:
        return [Found(one.box, one.label or "") for one in self._localizer(frame).objects if one.box is not None]


_NETWORKS: Mapping[str, tuple[str, str]] = {"onnxruntime": ("_session", "run")}


def shared_network(case: Case) -> Any:
    """What edgeloc runs the network with, untimed, for a peer on the same runtime.

    Of two instances of one model, one may be some percent faster than the other, by where its memory came to lie.
    """
    network = getattr(case.localizer.engine, _network(case.localizer.engine)[0])
    return network._inner if isinstance(network, Timed) else network


def _network(engine: Any) -> tuple[str, str]:
    """The attribute of an engine that runs the network, and the method that does it."""
    if isinstance(engine, TfliteEngine):
        return "_interpreter", "invoke"
    if engine.name in _NETWORKS:
        return _NETWORKS[engine.name]
    raise UsageError(field="engine", value=engine.name, allowed="a TFLite runtime, or onnxruntime for an ONNX model")
