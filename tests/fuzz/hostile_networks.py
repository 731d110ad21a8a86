"""Networks changed field by field through their schema: the file is well formed, what it says is not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from models import pack

from edgeloc.model.flatbuffer import schema, unpack

__all__ = ["mutate_network"]

INT32 = (0, 1, 2, 3, 5, -1, -2, 7, 16, 100, 1000, 65_536, 5_439_502, 2**30, 2**31 - 1, -(2**31))
INT64 = (*INT32, 2**40, 2**62, -(2**63), 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-40, 1e-10, 1e10, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
NAMES: tuple[Any, ...] = (None, "", "image", "x" * 100_000, "\x1b[31m", "a\nb", b"\xff\xfe\x00", "vector", "presence")
BUILTINS = 210  # a little more than there are
EDGE_TPU = "edgetpu-custom-op"


def mutate_network(rng: random.Random, format: str, payload: bytes) -> tuple[bytes, str]:
    """A network with one to five fields changed."""
    return _mutate_onnx(rng, payload) if format == "onnx" else _mutate_tflite(rng, payload)


def _mutate_tflite(rng: random.Random, payload: bytes) -> tuple[bytes, str]:
    done: list[str] = []
    model = unpack(payload)
    for _ in range(rng.choices((1, 2, 3, 5), (6, 2, 1, 1))[0]):
        step = rng.choices(list(_STEPS), list(_STEPS.values()))[0]
        done.append(step(rng, model, rng.choice(model.subgraphs)) if model.subgraphs else "no subgraph")
    try:
        return pack(model), ", ".join(done)
    except Exception as error:  # the writer refuses some values
        return pack(unpack(payload)), f"unchanged, since {type(error).__name__}: {done}"


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _changed(rng: random.Random, values: Any, choices: tuple[Any, ...]) -> list[Any]:
    """A list with one value replaced, added, removed, or all of them."""
    result = _list(values)
    step = rng.choice(("replace", "replace", "replace", "add", "remove", "empty", "long", "swap"))
    if step == "replace" and result:
        result[rng.randrange(len(result))] = rng.choice(choices)
    elif step in ("add", "replace"):
        result.insert(rng.randrange(len(result) + 1), rng.choice(choices))
    elif step == "remove" and result:
        del result[rng.randrange(len(result))]
    elif step == "long":
        result = (result or [rng.choice(choices)]) * rng.choice((2, 10, 1000))
    elif step == "swap" and len(result) > 1:
        rng.shuffle(result)
    else:
        result = []
    return result


def _tensor_of(rng: random.Random, graph: Any) -> Any:
    return rng.choice(graph.tensors or [schema().TensorT()])


def _operator_of(rng: random.Random, graph: Any) -> Any:
    return rng.choice(graph.operators or [schema().OperatorT()])


def _shape(rng: random.Random, model: Any, graph: Any) -> str:
    tensor = _tensor_of(rng, graph)
    if rng.random() < 0.2:
        tensor.shapeSignature = _changed(rng, tensor.shapeSignature or tensor.shape, INT32)
        return f"shape signature {tensor.shapeSignature[:8]}"
    tensor.shape = _changed(rng, tensor.shape, INT32)
    return f"shape {tensor.shape[:8]}"


def _type(rng: random.Random, model: Any, graph: Any) -> str:
    tensor = _tensor_of(rng, graph)
    tensor.type = rng.randrange(-1, 24)
    return f"type {tensor.type}"


def _buffer_of(rng: random.Random, model: Any, graph: Any) -> str:
    tensor = _tensor_of(rng, graph)
    tensor.buffer = rng.choice((0, len(model.buffers), len(model.buffers) - 1, 2**32 - 1, rng.randrange(100)))
    return f"buffer {tensor.buffer}"


def _tensor_fields(rng: random.Random, model: Any, graph: Any) -> str:
    tensor = _tensor_of(rng, graph)
    match rng.randrange(5):
        case 0:
            tensor.name = rng.choice(NAMES)
        case 1:
            tensor.isVariable = not tensor.isVariable
        case 2:
            tensor.hasRank = not getattr(tensor, "hasRank", False)
        case 3:
            tensor.sparsity = _sparsity(rng)
            return "sparsity"
        case 4:
            graph.tensors.append(tensor)
    return "a tensor's name, variable, rank or copy"


def _sparsity(rng: random.Random) -> Any:
    tables = schema()
    sparsity = tables.SparsityParametersT()
    sparsity.traversalOrder = [rng.choice(INT32) for _ in range(rng.randrange(5))]
    sparsity.blockMap = [rng.choice(INT32) for _ in range(rng.randrange(3))]
    sparsity.dimMetadata = []
    for _ in range(rng.randrange(5)):
        dimension = tables.DimensionMetadataT()
        dimension.format, dimension.denseSize = rng.randrange(3), rng.choice(INT32)
        dimension.arraySegmentsType = dimension.arrayIndicesType = 1
        dimension.arraySegments, dimension.arrayIndices = tables.Int32VectorT(), tables.Int32VectorT()
        dimension.arraySegments.values = [rng.choice(INT32) for _ in range(4)]
        dimension.arrayIndices.values = [rng.choice(INT32) for _ in range(4)]
        sparsity.dimMetadata.append(dimension)
    return sparsity


def _quantization(rng: random.Random, model: Any, graph: Any) -> str:
    tensor = _tensor_of(rng, graph)
    if tensor.quantization is None:
        tensor.quantization = schema().QuantizationParametersT()
    held = tensor.quantization
    match rng.randrange(5):
        case 0 | 1:
            held.scale = _changed(rng, held.scale, FLOATS)
        case 2:
            held.zeroPoint = _changed(rng, held.zeroPoint, INT64)
        case 3:
            held.quantizedDimension = rng.choice(INT32)
        case 4:
            tensor.quantization = None
    return "quantization"


def _operator_links(rng: random.Random, model: Any, graph: Any) -> str:
    operator, count = _operator_of(rng, graph), len(graph.tensors or ())
    choices = (-1, -2, count, count - 1, 2**31 - 1, -(2**31), *(rng.randrange(max(count, 1)) for _ in range(12)))
    name = rng.choice(("inputs", "inputs", "outputs", "intermediates"))
    setattr(operator, name, _changed(rng, getattr(operator, name), choices))
    return f"an operator's {name} {getattr(operator, name)[:8]}"


def _operator_fields(rng: random.Random, model: Any, graph: Any) -> str:
    operator = _operator_of(rng, graph)
    match rng.randrange(5):
        case 0:
            operator.opcodeIndex = rng.choice((0, len(model.operatorCodes or ()), 2**32 - 1, rng.randrange(10)))
            return "an operator's code"
        case 1:
            operator.customOptions = list(rng.randbytes(rng.choice((0, 1, 20, 200))))
            return "custom options"
        case 2:
            operator.mutatingVariableInputs = [True] * rng.choice((1, 3, 1000))
            return "mutating inputs"
        case 3:
            operator.builtinOptionsType, operator.builtinOptions = 0, None
            return "no options"
    return _options(rng, operator)


def _options(rng: random.Random, operator: Any) -> str:
    options = operator.builtinOptions
    if options is None or not vars(options):
        return "options unchanged"
    name = rng.choice(list(vars(options)))
    value = getattr(options, name)
    if isinstance(value, bool):
        setattr(options, name, not value)
    elif isinstance(value, float):
        setattr(options, name, rng.choice(FLOATS))
    elif isinstance(value, int):
        setattr(options, name, rng.choice((*range(12), 127, -1, -128) if "ctivation" in name or value < 4 else INT32))
    else:
        setattr(options, name, _changed(rng, value, INT32))
    return f"option {name} {str(getattr(options, name))[:30]}"


def _code(rng: random.Random, model: Any, graph: Any) -> str:
    code = rng.choice(model.operatorCodes or [schema().OperatorCodeT()])
    match rng.randrange(4):
        case 0 | 1:
            code.builtinCode = rng.randrange(BUILTINS)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        case 2:
            code.version = rng.choice(INT32)
        case 3:
            code.builtinCode, code.deprecatedBuiltinCode = 32, 32
            code.customCode = rng.choice((None, "", EDGE_TPU, "TFLite_Detection_PostProcess", "FlexMatMul", "\x1b[31m"))
    return f"operator code {code.builtinCode} version {code.version} {code.customCode!r}"


def _buffer(rng: random.Random, model: Any, graph: Any) -> str:
    buffer = rng.choice(model.buffers or [schema().BufferT()])
    data = bytearray(bytes(buffer.data if buffer.data is not None else b""))
    match rng.randrange(6):
        case 0:
            data = data[: len(data) // 2]
        case 1:
            data = data * 2 + b"\0"
        case 2:
            data = bytearray(rng.randbytes(len(data)))
        case 3:
            data = bytearray(b"\xff" * len(data))
        case 4:
            buffer.offset, buffer.size = rng.choice(INT64) & 2**63 - 1, rng.choice(INT64) & 2**63 - 1
            data = bytearray()
        case 5:
            data = bytearray(np.array([rng.choice(INT32)] * max(1, len(data) // 4), np.int32).tobytes())
    buffer.data = np.frombuffer(bytes(data), np.uint8) if data else None
    return f"a buffer of {len(data)}"


def _graph_links(rng: random.Random, model: Any, graph: Any) -> str:
    count = len(graph.tensors or ())
    choices = (-1, count, 2**31 - 1, *(rng.randrange(max(count, 1)) for _ in range(6)))
    name = rng.choice(("inputs", "outputs"))
    setattr(graph, name, _changed(rng, getattr(graph, name), choices))
    return f"the graph's {name} {getattr(graph, name)[:8]}"


def _graph_operators(rng: random.Random, model: Any, graph: Any) -> str:
    operators = _list(graph.operators)
    step = rng.choice(("shuffled", "one less", "one twice", "none", "one more", "many"))
    match step:
        case "shuffled":
            rng.shuffle(operators)
        case "one less" if operators:
            operators.pop(rng.randrange(len(operators)))
        case "one twice" if operators:
            operators.append(rng.choice(operators))
        case "none":
            operators = []
        case "many" if operators:
            operators = operators * 50
        case "one more":
            operators.append(_random_operator(rng, model, graph))
    graph.operators = operators
    return f"operators {step}"


def _random_operator(rng: random.Random, model: Any, graph: Any) -> Any:
    """Any builtin on any tensors, often of those that run other subgraphs or keep state."""
    tables, kinds = schema(), schema().BuiltinOperator
    code, operator = tables.OperatorCodeT(), tables.OperatorT()
    code.builtinCode = rng.choice((rng.randrange(BUILTINS), kinds.WHILE, kinds.IF, kinds.CALL_ONCE, kinds.VAR_HANDLE))
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    model.operatorCodes = [*_list(model.operatorCodes), code]
    operator.opcodeIndex = len(model.operatorCodes) - 1
    places = range(max(1, len(graph.tensors or ())))
    operator.inputs = [rng.choice(places) for _ in range(rng.randrange(5))]
    operator.outputs = [rng.choice(places) for _ in range(rng.randrange(4))]
    name = {kinds.WHILE: "WhileOptions", kinds.IF: "IfOptions", kinds.CALL_ONCE: "CallOnceOptions"}.get(
        code.builtinCode
    )
    if name is not None:
        operator.builtinOptionsType = getattr(tables.BuiltinOptions, name)
        operator.builtinOptions = getattr(tables, f"{name}T")()
        for field in vars(operator.builtinOptions):
            setattr(operator.builtinOptions, field, rng.choice((0, 0, 1, -1, 5)))
    return operator


def _whole(rng: random.Random, model: Any, graph: Any) -> str:
    step = rng.choice(("version", "graph twice", "graph less", "no codes", "no buffers", "metadata", "description"))
    match step:
        case "version":
            model.version = rng.choice((0, 1, 2, 4, 2**32 - 1))
        case "graph twice":
            model.subgraphs.append(rng.choice(model.subgraphs))
        case "graph less":
            model.subgraphs = model.subgraphs[1:]
        case "no codes":
            model.operatorCodes = _list(model.operatorCodes)[1:]
        case "no buffers":
            model.buffers = _list(model.buffers)[: rng.randrange(3)]
        case "metadata":
            entry = schema().MetadataT()
            entry.name, entry.buffer = rng.choice(NAMES), rng.choice((0, 1, 1000, 2**32 - 1))
            model.metadata = [*_list(model.metadata), entry] * rng.choice((1, 3))
        case "description":
            model.description = rng.choice(NAMES)
    return step


def _signature(rng: random.Random, model: Any, graph: Any) -> str:
    signatures = _list(model.signatureDefs)
    if not signatures:
        return "no signature"
    signature = rng.choice(signatures)
    step = rng.choice(("none", "twice", "graph", "key", "tensor", "name", "ports"))
    ports = getattr(signature, rng.choice(("inputs", "outputs"))) or []
    match step:
        case "none":
            model.signatureDefs = []
        case "twice":
            model.signatureDefs = signatures * 2
        case "graph":
            signature.subgraphIndex = rng.choice((1, 2**32 - 1, 100))
        case "key":
            signature.signatureKey = rng.choice(NAMES)
        case "tensor" if ports:
            rng.choice(ports).tensorIndex = rng.choice((0, 1, 3, 2**32 - 1, len(graph.tensors or ())))
        case "name" if ports:
            rng.choice(ports).name = rng.choice(NAMES)
        case "ports":
            signature.outputs, signature.inputs = signature.inputs, signature.outputs
    return f"signature: {step}"


_STEPS = {
    _shape: 6, _type: 3, _buffer_of: 2, _tensor_fields: 2, _quantization: 4, _operator_links: 5, _operator_fields: 4,
    _code: 3, _buffer: 4, _graph_links: 2, _graph_operators: 3, _whole: 1, _signature: 2,
}  # fmt: skip


# --- ONNX

OPERATORS = (
    "Add", "Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Gemm", "Identity", "If", "Loop", "MatMul",
    "NonZero",
    "NotAnOperator", "OneHot", "Pad", "Range", "Relu", "Reshape", "Resize", "Scan", "Shape", "Slice", "Softmax", "Tile",
    "TopK", "Transpose", "Unsqueeze", "Upsample",
)  # fmt: skip
PATHS = ("../../../etc/passwd", "/etc/passwd", "/dev/zero", "weights.bin", "", "/proc/self/mem", "a\0b")


def _mutate_onnx(rng: random.Random, payload: bytes) -> tuple[bytes, str]:
    from onnx import ModelProto

    model = ModelProto.FromString(payload)
    done = []
    for _ in range(rng.choices((1, 2, 3, 5), (6, 2, 1, 1))[0]):
        step = rng.choice(
            (_initializer, _initializer, _external, _node, _node, _node, _attribute, _port, _model_fields)
        )
        done.append(step(rng, model))
    data: bytes = model.SerializeToString()
    return data, ", ".join(done)


def _initializer(rng: random.Random, model: Any) -> str:
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(5):
        case 0 | 1:
            tensor.dims[:] = _changed(rng, tensor.dims, INT64)[:2000]
            return f"dims {list(tensor.dims)[:8]}"
        case 2:
            tensor.data_type = rng.choice((*range(24), -1, 2**31 - 1))
            return f"data type {tensor.data_type}"
        case 3:
            tensor.raw_data = rng.choice(
                (b"", tensor.raw_data[:-3], tensor.raw_data * 2, b"\xff" * len(tensor.raw_data))
            )
            return "raw data"
    tensor.float_data.extend([1.0, 2.0])
    tensor.name = rng.choice(("", "image", "kernel", "vector"))
    return "two kinds of data"


def _external(rng: random.Random, model: Any) -> str:
    """The values lie in another file, as the file says."""
    tensor = rng.choice(model.graph.initializer)
    tensor.data_location = 1
    tensor.ClearField("raw_data")
    path = rng.choice(PATHS)
    size = rng.choice(("10", "-1", "99999999999", "x", "1073741824"))
    for key, value in (("location", path), ("offset", rng.choice(("0", "-5", "x", str(2**62)))), ("length", size)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return f"values in {path!r}, {size} bytes"


def _node(rng: random.Random, model: Any) -> str:
    node = rng.choice(model.graph.node)
    names = ("", "image", "kernel", "weights", "vector", "planes", "maps", "missing", "x" * 10_000)
    match rng.randrange(6):
        case 0:
            node.op_type = rng.choice(OPERATORS)
            return f"operator {node.op_type}"
        case 1:
            node.input[:] = _changed(rng, node.input, names)
        case 2:
            node.output[:] = _changed(rng, node.output, names)
        case 3:
            model.graph.node.add().CopyFrom(node)
        case 4 if len(model.graph.node) > 1:
            model.graph.node.remove(node)
        case 5:
            node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "x", "ai.onnx"))
    return "a node"


def _attribute(rng: random.Random, model: Any) -> str:
    node = rng.choice([node for node in model.graph.node if node.attribute] or [model.graph.node[0]])
    attribute = rng.choice(node.attribute) if node.attribute else node.attribute.add()
    if rng.random() < 0.2:
        attribute.type = rng.randrange(0, 15)
        graph = type(model.graph).FromString(model.graph.SerializeToString())  # a copy: it would hold itself
        attribute.g.CopyFrom(graph)
        return "an attribute of another type"
    attribute.ints[:] = _changed(rng, attribute.ints, INT64)[:2000]
    attribute.i = rng.choice(INT64)
    return f"attribute {attribute.name} {list(attribute.ints)[:8]}"


def _port(rng: random.Random, model: Any) -> str:
    port = rng.choice((*model.graph.input, *model.graph.output))
    kind = port.type.tensor_type
    match rng.randrange(5):
        case 0:
            kind.elem_type = rng.choice((*range(24), 2**31 - 1))
        case 1:
            del kind.shape.dim[rng.randrange(len(kind.shape.dim)) if kind.shape.dim else 0 :]
        case 2:
            port.name = rng.choice(("", "image", "vector", "kernel", "\x1b[31m"))
        case 3:
            kind.shape.dim.add().dim_param = rng.choice(("batch", "", "\x1b[31m"))
        case 4:
            if kind.shape.dim:
                rng.choice(kind.shape.dim).dim_value = rng.choice(INT64)
    return f"a port: {port.name[:20]!r}, type {kind.elem_type}, {len(kind.shape.dim)} sizes"


def _model_fields(rng: random.Random, model: Any) -> str:
    match rng.randrange(6):
        case 0:
            model.ir_version = rng.choice((0, 1, 3, 99, 2**62))
        case 1:
            model.opset_import[0].version = rng.choice((0, 1, 7, 99, 2**62))
        case 2:
            model.opset_import.add().domain = rng.choice(("", "x", "ai.onnx.ml"))
        case 3:
            model.graph.input.add().CopyFrom(model.graph.input[0])
        case 4:
            del model.graph.output[:]
        case 5:
            model.metadata_props.add().key = "\x1b[31m" * 1000
    return "a field of the model"


_ONNX_STEPS = (_initializer, _initializer, _external, _node, _node, _node, _attribute, _port, _model_fields)
