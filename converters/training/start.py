"""What a training starts from: the reference network, fresh, or a network that has been trained before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc.contract import Contract
from edgeloc.converters.sources.keras import KerasSource
from edgeloc.converters.training.batchnorm import MOMENTUM, set_batch_norm_momentum
from edgeloc.converters.training.network import NetworkConfig, build_network, network_contract
from edgeloc.converters.training.roles import check_roles
from edgeloc.errors import ContractError, UsageError

if TYPE_CHECKING:
    import keras

__all__ = ["Start", "reference_start", "trained_start"]


@dataclass(frozen=True, slots=True)
class Start:
    """A network, the names of its outputs in their order, and the contract that says what they mean.

    `digest` is the SHA-256 of the file that it was read from, empty for a fresh one.
    """

    network: keras.Model
    names: tuple[str, ...]
    contract: Contract
    digest: str = ""


def reference_start(config: NetworkConfig, labels: tuple[str, ...]) -> Start:
    """Build the reference network."""
    network = build_network(config, len(labels))
    set_batch_norm_momentum(network, MOMENTUM)
    return Start(network, tuple(network.output), network_contract(config, labels))


def trained_start(path: str | Path) -> Start:
    """Load a trained `.keras` network with its contract.

    Raises ModelError when it cannot be read or has no fixed graph, and ContractError where it
    carries no contract, or one that training cannot learn by.
    """
    if Path(path).suffix != ".keras":
        raise UsageError(f"--resume {path}: give a trained network, MODEL.keras")
    source = KerasSource(path)
    if source.contract is None:
        raise ContractError(f"{path} carries no contract: training must know what its outputs mean")
    check_roles(source.contract)
    names = source.output_names
    missing = [output.tensor for output in source.contract.outputs if output.tensor not in names]
    if missing:
        raise ContractError(f"{path}: its contract names the output {missing[0]!r}, it has {', '.join(names)}")
    set_batch_norm_momentum(source.network, MOMENTUM)
    return Start(source.network, names, source.contract, source.digest)
