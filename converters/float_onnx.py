"""Translates a float `.tflite` to float ONNX with its contract, for the other runtimes of ONNX.

python -m edgeloc.converters.float_onnx FLOAT.tflite OUT.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from edgeloc.converters.targets.tensorrt.onnx import to_onnx
from edgeloc.errors import EdgelocError
from edgeloc.model.file import contract_for, read_model, write_model

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is that of the error."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeloc.converters.float_onnx", description="Translate a float .tflite to float ONNX."
    )
    parser.add_argument("model", help="a float32 .tflite with its contract")
    parser.add_argument("out", help="the .onnx file to write")
    arguments = parser.parse_args(argv)
    try:
        file = read_model(arguments.model)
        contract = contract_for(file)
        shape = (2, contract.input.height, contract.input.width, 3)
        images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        write_model(arguments.out, to_onnx(file.payload, contract, images).SerializeToString(), contract)
    except EdgelocError as error:
        print(f"float_onnx: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
