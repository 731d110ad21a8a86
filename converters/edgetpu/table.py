"""What the Edge TPU compiler 16.0 takes, as data: operators, their limits, and the newest version it knows of each.

Operators and limits are the table "Supported operations" of https://coral.ai/docs/edgetpu/models-intro/ for runtime 14,
which that compiler builds for. Where the table only says that something depends on sizes, the sizes here are those
that users saw mapped and not mapped (https://github.com/google-coral/edgetpu/issues/31 and /187).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "COMPILER_VERSION",
    "LARGEST_RESIZE_SEEN_MAPPED",
    "LONGEST_SOFTMAX",
    "MOST_INNER_DIMENSIONS",
    "NEWEST_VERSION",
    "OPERATORS",
    "SMALLEST_RESIZE_SEEN_LEFT_OUT",
    "Limits",
]

COMPILER_VERSION = "16.0"
MOST_INNER_DIMENSIONS = 3
LONGEST_SOFTMAX = 16_000
LARGEST_RESIZE_SEEN_MAPPED = 128
SMALLEST_RESIZE_SEEN_LEFT_OUT = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """What one operator must keep to, beyond what all must: 8-bit tensors of fixed size, three inner dimensions.

    `axis_input` is the operator's input that names axes, of which the batch must not be one;
    `channel_multiple` what the channels must be a multiple of where they are reduced; `doubt` is why
    only the compiler can tell.
    """

    fused_activation: bool = True
    equal_dilation: bool = False
    constant_inputs: tuple[int, ...] = ()
    vector_output: bool = False
    axis_input: int | None = None
    channel_multiple: int = 1
    doubt: str = ""


_ANY = Limits()
_NOT_FUSED = Limits(fused_activation=False)
_REDUCTION = Limits(axis_input=1)

OPERATORS = {
    "ADD": _ANY,
    "AVERAGE_POOL_2D": _NOT_FUSED,
    "CONCATENATION": _NOT_FUSED,
    "CONV_2D": Limits(equal_dilation=True, constant_inputs=(1, 2)),
    "DEPTHWISE_CONV_2D": Limits(equal_dilation=True, constant_inputs=(1, 2)),
    "EXPAND_DIMS": _ANY,
    "FULLY_CONNECTED": Limits(constant_inputs=(1, 2), vector_output=True),
    "L2_NORMALIZATION": _ANY,
    "LOGISTIC": _ANY,
    "MAXIMUM": _ANY,
    "MAX_POOL_2D": _NOT_FUSED,
    "MEAN": Limits(axis_input=1, channel_multiple=4),
    "MINIMUM": _ANY,
    "MUL": _ANY,
    "PACK": _ANY,
    "PAD": _ANY,
    "PRELU": _ANY,
    "QUANTIZE": _ANY,
    "REDUCE_MAX": _REDUCTION,
    "REDUCE_MIN": _REDUCTION,
    "RELU": _ANY,
    "RELU6": _ANY,
    "RELU_N1_TO_1": _ANY,
    "RESHAPE": _ANY,
    "RESIZE_BILINEAR": _ANY,
    "RESIZE_NEAREST_NEIGHBOR": _ANY,
    "RSQRT": _ANY,
    "SLICE": _ANY,
    "SOFTMAX": Limits(vector_output=True),
    "SPACE_TO_DEPTH": _ANY,
    "SPLIT": Limits(axis_input=0),
    "SQUARED_DIFFERENCE": _ANY,
    "SQUEEZE": _ANY,
    "STRIDED_SLICE": Limits(constant_inputs=(1, 2, 3)),
    "SUB": _ANY,
    "SUM": _REDUCTION,
    "TANH": _ANY,
    "TRANSPOSE": Limits(doubt="the compiler leaves out some transpositions without saying why"),
    "TRANSPOSE_CONV": Limits(constant_inputs=(1,)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _ANY,
}

# The compiler of July 2021 holds the TensorFlow Lite of that time (2.6): it refuses a whole file for one operator whose
# version it has never heard of, also where that operator would run on the CPU. 0: the operator itself is newer.
NEWEST_VERSION = {
    "ADD": 4, "ARG_MAX": 2, "ARG_MIN": 2, "AVERAGE_POOL_2D": 3, "BATCH_MATMUL": 4, "BITCAST": 0, "CAST": 1,
    "CONCATENATION": 3, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "DEQUANTIZE": 4, "DILATE": 0, "DIV": 2,
    "DYNAMIC_UPDATE_SLICE": 0, "EXP": 1, "EXPAND_DIMS": 1, "FULLY_CONNECTED": 9, "GATHER": 5, "GATHER_ND": 3,
    "GELU": 0, "HARD_SWISH": 1, "L2_NORMALIZATION": 2, "LEAKY_RELU": 2, "LOGISTIC": 3, "LOG": 1, "MAXIMUM": 4,
    "MAX_POOL_2D": 3, "MEAN": 3, "MINIMUM": 4, "MUL": 5, "PACK": 3, "PAD": 4, "PADV2": 4, "PRELU": 1,
    "QUANTIZE": 2, "REDUCE_MAX": 3, "REDUCE_MIN": 3, "REDUCE_WINDOW": 0, "RELU": 3, "RELU6": 3, "RELU_0_TO_1": 0,
    "RELU_N1_TO_1": 1, "RESHAPE": 1, "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "RIGHT_SHIFT": 0,
    "RSQRT": 2, "SIGN": 0, "SIN": 1, "SLICE": 5, "SOFTMAX": 3, "SPACE_TO_DEPTH": 2, "SPLIT": 4, "SPLIT_V": 2,
    "SQRT": 1, "SQUARED_DIFFERENCE": 2, "SQUEEZE": 2, "STRIDED_SLICE": 6, "SUB": 5, "SUM": 2, "TANH": 3, "TILE": 2,
    "TOPK_V2": 2, "TRANSPOSE": 5, "TRANSPOSE_CONV": 3, "UNIDIRECTIONAL_SEQUENCE_LSTM": 3, "UNPACK": 4,
}  # fmt: skip
