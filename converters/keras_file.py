"""The `.keras` file that training writes: Keras's own archive with the model's contract as one more member."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc.contract import Contract
from edgeloc.errors import ModelError
from edgeloc.files import atomic_path

if TYPE_CHECKING:
    import keras

__all__ = ["load_network", "read_keras_contract", "save_network"]

_MEMBER = "edgeloc.json"


def save_network(path: str | Path, network: keras.Model, contract: Contract) -> None:
    """Write the network and its contract; nothing half-written stays behind."""
    with atomic_path(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_MEMBER, contract.to_json())


def load_network(path: str | Path) -> keras.Model:
    """Load the network of a `.keras` file for inference; ModelError when it cannot be read."""
    import keras

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give a .keras model")
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path}: Keras cannot load it ({reason})") from error


def read_keras_contract(path: str | Path) -> Contract | None:
    """The contract inside a `.keras` file, None when it carries none; ModelError when it is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            if _MEMBER not in archive.namelist():
                return None
            return Contract.from_json(archive.read(_MEMBER).decode())
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a .keras file ({error})") from error
