"""The compiler's log as data: successes in the form that its versions print, and each failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeloc.converters.targets.edgetpu import CompiledOperators, parse_log
from edgeloc.errors import ModelError

LOGS = Path(__file__).parent / "logs"
START = "Edge TPU Compiler version 16.0.384591198\nStarted a compilation timeout timer of 180 seconds.\n"
END = "Compilation child process completed within timeout period.\nCompilation failed! \n"


def read(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text()


def test_a_model_that_maps_wholly() -> None:
    compilation = parse_log(read("all_mapped"), "model.tflite")
    assert compilation.version == "16.0.384591198"
    assert (compilation.mapped, compilation.total, compilation.mapped_share) == (66, 66, 1.0)
    assert compilation.on_cpu == ()
    assert compilation.subgraphs == 1
    assert compilation.compile_ms == 542
    assert compilation.on_chip_used_bytes == round(604.5 * 1024)
    assert compilation.on_chip_remaining_bytes == round(511.5 * 1024)
    assert compilation.off_chip_bytes == round(3.45 * 1024 * 1024)
    assert compilation.input_bytes == round(4.04 * 1024 * 1024)
    assert "3.45 MiB more" in compilation.summary()


def test_a_model_that_breaks_off_names_every_operator_left_behind_and_why() -> None:
    compilation = parse_log(read("partly_mapped"), "model.tflite")
    assert (compilation.mapped, compilation.total) == (22, 29)
    assert [(row.name, row.count) for row in compilation.on_cpu] == [
        ("CONCATENATION", 1),
        ("RESIZE_NEAREST_NEIGHBOR", 1),
        ("CONV_2D", 2),
        ("RESHAPE", 1),
        ("QUANTIZE", 1),
        ("CUSTOM", 1),
    ]
    assert compilation.on_cpu[3].status == "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
    assert compilation.off_chip_bytes == 0
    assert "RESIZE_NEAREST_NEIGHBOR (operation version not supported)" in compilation.summary()


def test_a_model_of_which_nothing_maps_is_a_success_to_the_compiler_and_a_share_of_zero_here() -> None:
    compilation = parse_log(read("nothing_mapped"), "model.tflite")
    assert compilation.mapped_share == 0
    assert compilation.subgraphs == 0


def test_the_figures_are_json() -> None:
    values = json.loads(json.dumps(parse_log(read("partly_mapped"), "model.tflite").to_dict()))
    assert values["mapped_share"] == pytest.approx(22 / 29)
    assert values["operators"][1] == {"name": "MAX_POOL_2D", "count": 6, "status": "Mapped to Edge TPU"}


def test_a_figure_that_a_version_does_not_print_is_none() -> None:
    text = "\n".join(line for line in read("all_mapped").splitlines() if "memory" not in line)
    compilation = parse_log(text, "model.tflite")
    assert compilation.on_chip_used_bytes is None
    assert compilation.mapped == 66


def test_the_log_file_beside_the_output_has_the_same_table() -> None:
    table = read("all_mapped").split("Operation log: model_edgetpu.log")[1]
    text = "Edge TPU Compiler version 16.0.384591198\nModel compiled successfully in 5 ms.\n" + table
    assert parse_log(text, "m").operators[0] == CompiledOperators("SOFTMAX", 1, "Mapped to Edge TPU")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Invalid model: m.tflite\nModel not quantized\n", "with the recipe int8"),
        (
            "ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'. An older version of this builtin might "
            "be supported.\nERROR: Registration failed.\n\nInvalid model: m.tflite\nModel could not be parsed\n",
            "CONV_2D in version 6",
        ),
        ("ERROR: Encountered unresolved custom op: Atan.\nERROR: Node number 1 (Atan) failed to prepare.\n", "Atan"),
        (
            "ERROR: Attempting to use a delegate that only supports static-sized tensors with a graph that has "
            "dynamic-sized tensors.\nCompilation failed: Model failed in Tflite interpreter.\n" + END,
            "open until the model runs",
        ),
        (
            "Compilation failed: Compilation failed due to large activation tensors in model.\n" + END,
            "smaller input",
        ),
        ("Compilation timeout. This is usually caused by large activations.\nCompilation failed! \n", "in its time"),
        ("Compilation child process timed out.\nCompilation failed! \n", "in its time"),
        ("libc++abi: terminating with uncaught exception of type std::out_of_range: vector\n" + END, "out_of_range"),
        ("\nInternal compiler error. Aborting! \n", "try again"),
        (END, "gives no reason"),
    ],
)
def test_a_failure_is_one_sentence_with_the_fix(said: str, told: str) -> None:
    with pytest.raises(ModelError) as error:
        parse_log(START + said, "shed.tflite")
    assert told in str(error.value)
    assert "shed.tflite" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_success_that_ends_in_failure_is_a_failure() -> None:
    with pytest.raises(ModelError, match="did not compile"):
        parse_log(read("all_mapped").replace("Compilation succeeded", "Compilation failed"), "m")


@pytest.mark.parametrize("text", ["", "bash: edgetpu_compiler: Permission denied\n"])
def test_what_is_no_log_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="does not print what edgetpu_compiler does"):
        parse_log(text, "m")


def test_a_log_cut_short_is_refused() -> None:
    with pytest.raises(ModelError, match="lists no operators"):
        parse_log(read("all_mapped").split("Operator  ")[0], "m")
