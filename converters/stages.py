"""Two-stage detectors on their way to one file: each network to a float flatbuffer, and quantized on its own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.checks import check_parity, require_precision
from edgeloc.converters.quantization.quantize import Recipe, quantize
from edgeloc.converters.sources import Source
from edgeloc.decode.numbers import REAL
from edgeloc.decode.regions import RegionStages
from edgeloc.engines import open_engine
from edgeloc.engines.stages import networks_of
from edgeloc.errors import ModelError
from edgeloc.model.containers import CONTAINERS
from edgeloc.model.contract import Contract, InputSpec
from edgeloc.model.file import HEAD, file_in_memory
from edgeloc.model.inspection import report_payload
from edgeloc.model.trust import trust

__all__ = ["float_bundle", "members_of", "quantize_bundle"]

_REGIONS_AN_IMAGE = 4
_HEAD_TENSOR = "regions"


def float_bundle(source: Source, contract: Contract, images: NDArray[np.float32]) -> bytes:
    """The networks of a `.keras` file as float32 flatbuffers in one `.tflite`, without a contract.

    Parameters:
        source: the file.
        contract: its contract.
        images: a few, normalized, on which the flatbuffers must answer as the networks do.

    Raises ModelError where they do not, or the file is no `.keras` file with all its networks.
    """
    import tensorflow as tf

    from edgeloc.converters.sources.tensorflow import KerasSource, load_head

    stages = contract.stages
    assert stages is not None
    if not isinstance(source, KerasSource):
        raise ModelError(f"{source.name}: a two-stage detector is converted from the .keras file of its training")
    if stages.method == "rcnn":
        spec = replace(contract.input, width=stages.side, height=stages.side)
        payload = source.to_tflite(spec)
        check_parity(source, payload, spec, _regions(None, contract, images))
        return payload
    first = source.to_tflite(contract.input)
    check_parity(source, first, contract.input, images)
    regions = _regions(first, contract, images)
    head = KerasSource(source.name, load_head(source.name))
    flatbuffer = head.to_flatbuffer(tf.TensorSpec((1, *regions.shape[1:]), tf.float32, name=_HEAD_TENSOR))
    check_parity(head, flatbuffer, _region_spec(regions), regions)
    return _joined([first, flatbuffer])


def quantize_bundle(
    bundle: bytes,
    chosen: Recipe,
    contract: Contract,
    images: NDArray[np.float32] | None,
    keep_float: Sequence[str] = (),
) -> bytes:
    """The networks of `float_bundle` quantized by a recipe; the head calibrates on regions of the images.

    Parameters:
        bundle: the float networks.
        chosen: the recipe.
        contract: theirs.
        images: normalized calibration images, for a recipe that wants them.
        keep_float: as in `quantize`; each pattern is for both networks.

    Raises what `quantize` raises, and ModelError where a network is not what the recipe is for.
    """
    assert contract.stages is not None
    networks = [network.payload for network in networks_of(file_in_memory("the float model", bundle, contract))]
    first = networks[0] if len(networks) > 1 else None
    regions = None if images is None else _regions(first, contract, images)
    made = []
    for network in networks:
        head = network is networks[-1]
        spec = contract.input
        if head and regions is not None:
            spec = _region_spec(regions) if first else replace(spec, width=regions.shape[2], height=regions.shape[1])
        quantized = quantize(network, chosen, spec, regions if head else images, keep_float)
        require_precision(
            chosen, report_payload(quantized, "the head" if head else "the first network"), bool(keep_float)
        )
        made.append(quantized)
    return _joined(made)


def members_of(bundle: bytes) -> dict[str, bytes]:
    """The networks beside the first, as members of the model file to write; this machine trusts them from now on."""
    model = file_in_memory("the model", bundle)
    if HEAD in model.members:
        trust(file_in_memory(HEAD, model.members[HEAD]).digest)
    return model.members


def _joined(networks: Sequence[bytes]) -> bytes:
    if len(networks) == 1:
        return networks[0]
    return CONTAINERS["tflite"].join(networks[0], {HEAD: networks[1]})


def _regions(first: bytes | None, contract: Contract, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the head takes of each image, a few of the regions that are proposed: float32 (n, side, side, channels)."""
    steps = RegionStages(contract, REAL, {})
    engine = None if first is None else open_engine("auto", file_in_memory(Path("the first network"), first))
    pooled = []
    for image in images:
        tensor: NDArray[Any] = np.ascontiguousarray(image[np.newaxis])
        outputs = {} if engine is None else engine.invoke(tensor)
        regions = steps.propose(tensor, outputs)
        chosen = regions[:: max(1, len(regions) // _REGIONS_AN_IMAGE)][:_REGIONS_AN_IMAGE]
        pooled.append(steps.pool(tensor, outputs, chosen))
    return np.concatenate(pooled)


def _region_spec(regions: NDArray[np.float32]) -> InputSpec:
    """An input whose range is that of the regions' features, which are 0 or more."""
    largest = float(max(regions.max(), 1e-3))
    return InputSpec(_HEAD_TENSOR, regions.shape[2], regions.shape[1], mean=(0.0,), std=(255 / largest,))
