"""The `.keras` file that training writes: Keras's own archive with the model's contract as one more member."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc.contract import Contract
from edgeloc.errors import ModelError, first_line
from edgeloc.files import atomic_path
from edgeloc.modelfile import CONTRACT

if TYPE_CHECKING:
    import keras

__all__ = ["load_network", "save_network"]


def save_network(path: str | Path, network: keras.Model, contract: Contract) -> None:
    """Write the network and its contract; nothing half-written stays behind."""
    with atomic_path(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(CONTRACT, contract.to_json())


def load_network(path: str | Path) -> keras.Model:
    """Load the network of a `.keras` file for inference; ModelError when it cannot be read."""
    import keras

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is no file that is there; give a .keras model")
    if path.suffix not in (".keras", ".h5"):
        raise ModelError(f"{path} is no trained network: give a .keras or .h5 file, as Keras saves them")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is no .keras file, or was cut off: save or copy it anew")
    try:
        network = keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path}: Keras cannot load it ({first_line(error)})") from error
    return _plain(path, network)


def _plain(path: Path, network: keras.Model) -> keras.Model:
    """The same layers as a functional network that is called with one tensor; a Sequential has no names of outputs."""
    import keras

    inputs = getattr(network, "inputs", None)
    if not inputs:
        raise ModelError(f"{path}: the network has no fixed inputs; save it as a functional or Sequential model")
    outputs = network.outputs[0] if isinstance(network, keras.Sequential) else network.output
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=network.name)
