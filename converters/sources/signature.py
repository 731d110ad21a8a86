"""Makes another converter's flatbuffer one of ours: one signature, nothing that trips the quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeloc.editing import schema
from edgeloc.errors import ModelError

__all__ = ["SERVING", "drop_metadata", "numbered", "set_signature"]

SERVING = "serving_default"


def set_signature(model: Any, tensor: str, outputs: Sequence[str]) -> None:
    """Name the unpacked model's input `tensor` and its outputs, in the main graph's order, under SERVING.

    Whatever signatures it had are dropped. Raises ModelError when the graph has another number of
    inputs or outputs.
    """
    graph = model.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != len(outputs):
        raise ModelError(
            f"the converted network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, "
            f"not one and {len(outputs)} ({', '.join(outputs)})"
        )

    def named(name: str, index: int) -> Any:
        entry = schema().TensorMapT()
        entry.name, entry.tensorIndex = name, int(index)
        return entry

    signature = schema().SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SERVING, 0
    signature.inputs = [named(tensor, graph.inputs[0])]
    signature.outputs = [named(name, index) for name, index in zip(outputs, graph.outputs, strict=True)]
    model.signatureDefs = [signature]


def drop_metadata(model: Any) -> None:
    """Leave out what a converter noted: for litert-torch's `keep_stablehlo_constant` the quantizer rounds no layer."""
    model.metadata = []


def numbered(count: int) -> tuple[str, ...]:
    """The names of outputs that have none of their own: output_0, output_1 and so on."""
    return tuple(f"output_{i}" for i in range(count))
