"""The folder of a training run: its history and curves, its best weights, and what a stopped run goes on from."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.files import atomic_path
from edgeloc.errors import MissingExtra, ModelError, UsageError
from edgeloc.findings import Finding

if TYPE_CHECKING:
    import keras

    from edgeloc.converters.training.network import Start

__all__ = ["RunFolder", "checkpoint_of", "go_on_waiting"]

# Names the network that a run started from, so that it is only continued from the same.
_ORIGIN, _FRESH = "origin.txt", "fresh"
_RENEWED, _LATEST = "renewed.weights.h5", "epoch-{:05d}.weights.h5"


class RunFolder:
    """The folder `<out's stem>.training` beside the network.

    Parameters:
        out: where the network goes.
        start: the network to train.
        qat: whether with fake quantization.
    """

    def __init__(self, out: Path, start: Start, *, qat: bool) -> None:
        self._out, self._start, self._qat = out, start, qat
        self._path = out.with_suffix(".training")
        self.history, self.best = self._path / "history.csv", self._path / "best.weights.h5"

    @property
    def _origin(self) -> str:
        shapes = [tuple(variable.shape) for variable in self._start.network.variables]
        kind = hashlib.sha256(f"{shapes} {self._start.contract.to_json()}".encode()).hexdigest()
        return f"{self._start.digest or _FRESH} {'qat' if self._qat else 'float'} {kind}\n"

    def can_resume(self) -> bool:
        """Whether an interrupted run lies there that can be finished; UsageError where there is none to finish."""
        out, fresh, saved, origin = self._out, not self._start.digest, checkpoint_of(self._out), self._path / _ORIGIN
        if fresh and saved is None and self._rows() and out.is_file():
            message = f"{out}: its training ran to the end, there is nothing to resume"
            raise UsageError(message, field="resume", hint="leave {resume} out")
        began = origin.read_text() if origin.is_file() else ""
        same = began == self._origin
        if saved is not None and not same and fresh:
            if began.startswith(f"{_FRESH} "):
                message = f"{out}: its interrupted run trained a network of another kind or for other labels"
                raise UsageError(
                    message, field="resume", hint="give that run's options and data, or leave {resume} out"
                )
            message = f"{out}: its interrupted run began with a trained network"
            raise UsageError(message, field="resume", hint="name that MODEL.keras again with {resume}")
        return saved is not None and same

    def prepare(self, *, resume: bool, resumes: bool) -> list[Finding]:
        """Empty the folder unless the run `resumes`, and record its start there; a finding where it was to `resume`."""
        findings = []
        if not resumes:
            message = ""
            if resume and checkpoint_of(self._out) is not None:
                message = f"the interrupted run in {self._path} had another start: a new one takes its place"
            elif resume and not self._start.digest:
                message = f"there is no interrupted run of {self._out}: a new one begins"
            if message:
                findings.append(Finding("training-restarts", "note", message))
            shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir(parents=True, exist_ok=True)
        (self._path / _ORIGIN).write_text(self._origin)
        return findings

    def restore(self, model: keras.Model) -> tuple[int, list[dict[str, str]]]:
        """Load what a stopped run goes on from; how many epochs it had, 0 of a new one, and their rows of the history.

        A run that was killed may have noted an epoch that it did not save: that one's row is removed. ModelError where
        the file is damaged.
        """
        saved = checkpoint_of(self._out)
        if saved is None:
            return 0, []
        try:
            model.load_weights(saved)
        except (KeyError, OSError, ValueError) as error:
            message = f"{saved}, which an interrupted run would go on from, is damaged ({error})"
            raise ModelError(message, hint="leave {resume} out") from error
        rows, epochs = self._rows(), int(saved.name.split("-")[1].split(".")[0])
        if rows[epochs:]:
            with atomic_path(self.history) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows[:epochs])
        return epochs, rows[:epochs]

    def renew(self, model: keras.Model, epochs: int) -> None:
        """Save what a stopped run goes on from after so many epochs."""
        before = checkpoint_of(self._out)
        self.save(model, self._path / _LATEST.format(epochs))
        if before is not None:
            before.unlink()

    def save(self, model: keras.Model, path: Path) -> None:
        """Save weights and optimizer in one step: whenever the process is killed, the file there is a whole one."""
        renewed = self._path / _RENEWED
        model.save_weights(renewed, overwrite=True)
        with renewed.open("rb") as file:
            os.fsync(file.fileno())
        renewed.replace(path)

    def end(self) -> None:
        """The run is over: nothing goes on from it."""
        saved = checkpoint_of(self._out)
        if saved is not None:
            saved.unlink()

    def _rows(self) -> list[dict[str, str]]:
        if not self.history.is_file():
            return []
        with self.history.open(newline="") as file:
            return list(csv.DictReader(file))

    def plot_curves(self, names: Sequence[str]) -> None:
        """Draw up to four figures by epoch, training and validation where they are known, into `curves.png`."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtra("matplotlib", "convert", "drawing training curves") from error

        rows = self._rows()
        figure = Figure(figsize=(10, 6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, name in zip(figure.subplots(2, 2).flat, names, strict=True):
            epochs = [int(row["epoch"]) + 1 for row in rows]
            for key, title in ((name, "training"), (f"val_{name}", "validation")):
                if rows and key in rows[0]:
                    axes.plot(epochs, [float(row[key]) for row in rows], label=title)
            axes.set(title=name.replace("_", " "), xlabel="epoch")
            axes.grid(alpha=0.3)
            axes.legend()
        with atomic_path(self._path / "curves.png") as temporary:
            figure.savefig(temporary, dpi=100)


def checkpoint_of(out: Path) -> Path | None:
    """What a stopped training of `out` goes on from, `epoch-N.weights.h5` in its folder; None where nothing is."""
    return max(out.with_suffix(".training").glob("epoch-*.weights.h5"), default=None)


def go_on_waiting(stop: keras.callbacks.EarlyStopping, values: Sequence[float]) -> None:
    """Make a run that goes on as patient as if it had never stopped."""
    if values:
        stop.best = max(values)
        stop.wait = len(values) - 1 - values.index(stop.best)
