"""README and docs/ are true: their Python and shell lines run, links lead somewhere, every public name is on a page.

Every line of a ```sh block is checked. An `edgeloc` line is parsed by the command's own parser, and run in a folder
with the files that the pages name, unless `NOT_RUN` gives a reason; `QUICK` replaces what needs hardware or hours. A
line of another program must be in `OTHER_PROGRAMS`. Output is in a plain block.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import importlib.metadata
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgeloc
from edgeloc.cli import COMMAND_GROUP, main
from edgeloc.models import SHIPPED_INT8, SHIPPED_KERAS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.rglob("*.md")),
    ROOT / "sdk" / "models" / "MODEL_CARD.md",
    ROOT / "sdk" / "models" / "DETECTOR_CARD.md",
]
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
FACES = {
    "edgeloc": "sdk",
    "edgeloc.converters": "converters",
    "edgeloc.benchmarks": "benchmarks",
    "edgeloc.device": "device",
    "edgeloc.testing": "sdk/testing",
}

# A live camera, a screen or a long training becomes something that any machine finishes in seconds.
QUICK = {
    "run": [("--camera", r"(v4l2|picamera|csi|gst|rtsp)://.*", "synthetic://?seed=1&frames=5&live=0")],
    "convert": [("--max-iou-drop", ".*", "0.1")],
    "bench": [("--power", r"(?!none).*", "none")],
    "sweep": [("--power", r"(?!none).*", "none")],
}
MORE = {
    "convert": ["--calibration-images", "8"],
    "bench": ["--frames", "5", "--warmup", "1"],
    "sweep": ["--frames", "5"],
}
# The first pattern that a line matches is why it is parsed but not run here.
NOT_RUN = {
    r"--recipe float32": "the fixture `float_model` is this line",
    r"^demo\b": "minutes; tests/sdk/test_demo_command.py runs it",
    r"--recipe auto": "minutes; tests/converters/test_conversion_options.py runs it",
    r"--qat": "minutes; tests/converters/training runs it",
    r"^train ": "a minute; docs/examples/train_on_photos.py trains, and has its own test",
    r"^convert .*--calibration fod-a": "photos that are not in the repository; it made the model that ships",
    r"nets\.localizer:build|localizer\.onnx --contract": "a model of the reader's; see tests/converters/sources",
    r"localizer-qat\.keras": "made by a line that is not run",
    r"--target edgetpu": "Google's compiler; tests/converters/targets/edgetpu runs it with a fake one",
    r"--loadgen": "the extra loadgen; tests/benchmarks/scenarios runs it where it is installed",
    r"_edgetpu\.tflite": "an Edge TPU; tests/device/engines runs it with a fake one",
    r"--engine tensorrt|\.onnx": "a Jetson; tests/device/engines/test_tensorrt.py runs it with a fake one",
    r"--target tensorrt": "the extra tensorrt; tests/converters/targets/tensorrt runs it",
    r"^run (faces\.py|my_package)": "a program of the reader's; tests/sdk/commands has one",
    r"mavlink://": "an autopilot; tests/sdk/sinks/test_mavlink.py has a fake one",
    r"mqtts?://": "a broker; tests/sdk/sinks/test_mqtt.py has one",
    r"^contract blazeface\.tflite": "a model of the reader's; tests/test_detectors.py has it",
    r"two\.(keras|tflite)": "made by a line that is not run; tests/converters/test_stages.py runs it",
    r"--fleet": "boards; tests/benchmarks/test_fleet.py has three",
    r"^adapt ": "photos of the reader's; tests/sdk/test_adaptation.py adapts, and undoes it",
    r"--about about\.json": "a file of the reader's; tests/benchmarks/test_card.py reads the page's",
    r"--camera photos": "photos of the reader's; tests/sdk/labelling has such a run",
    r"^label ": "a page that waits for a user; tests/sdk/labelling has one",
    r"^install-service": "root and systemd; tests/device/commands runs it on a fake root",
}
# Lines that are neither ours nor run: by the program's name, why.
OTHER_PROGRAMS = {
    "apt": "installs packages",
    "apt-get": "installs packages",
    "pip": "installs packages",
    "pipx": "installs packages",
    "python3": "creates a virtual environment",
    "git": "needs a network",
    "cd": "the folder of the checkout",
    "make": "the Makefile's targets, checked below",
    "usermod": "needs root",
    "chmod": "needs root",
    "chown": "needs root",
    "install": "needs root",
    "dask": "boards; tests/benchmarks/test_fleet.py starts it so",
    "openssl": "certificates; tests/sdk/sinks/test_mqtt.py makes them so",
    "mosquitto_passwd": "passwords; tests/sdk/sinks/test_mqtt.py makes them so",
    "mosquitto_sub": "needs a broker",
    "mosquitto_pub": "needs a broker",
    "systemctl": "needs systemd",
    "journalctl": "needs systemd",
    "nvpmodel": "needs a Jetson",
    "unzip": "any zip tool",
    "python": "a module of ours, checked below",
    "pre-commit": "checked by using it",
    "tests/hardware/arm/run.sh": "needs root and an hour",
    "tests/hardware/arm/pi.sh": "needs root and an hour",
    "tests/hardware/guest.sh": "needs root and an hour",
    "$vm/make_guest.sh": "needs root and an hour",
    "$vm/run_in_guest.sh": "needs root and an hour",
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


PYTHON = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"))
    if "--8<--" not in block
]


@pytest.mark.parametrize("block", PYTHON)
def test_the_python_shown_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def slow_if_it_trains(example: Path) -> object:
    text = example.read_text(encoding="utf-8")
    marks = [pytest.mark.slow] if "edgeloc.converters" in text else []
    return pytest.param(example, id=example.stem, marks=[*marks, pytest.mark.long] if "train(" in text else marks)


@pytest.mark.parametrize("example", [slow_if_it_trains(example) for example in EXAMPLES])
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    if "edgeloc.converters" in example.read_text(encoding="utf-8"):
        pytest.importorskip("tensorflow")
    if "FakeAutopilot" in example.read_text(encoding="utf-8"):
        pytest.importorskip("pymavlink")
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_examples_own_localizer_finds_what_the_package_finds() -> None:
    found = runpy.run_path(str(DOCS / "examples" / "own_localizer.py"))["find"]
    observations = edgeloc.stream("synthetic://?seed=1&frames=30&live=0", edgeloc.Localizer(SHIPPED_INT8))
    pairs = [(one.result.box, found(one.frame).box) for one in observations]
    assert [ours is None for ours, _ in pairs] == [theirs is None for _, theirs in pairs]
    shared = [ours.iou(theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    # It takes one cell's box, the package the mean over all cells.
    assert len(shared) >= 10 and np.mean(shared) >= 0.8


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_is_short_and_shown(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) < 40
    assert f'--8<-- "docs/examples/{example.name}"' in (DOCS / "examples" / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's ```sh blocks, without `sudo`, assignments and comments."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
            lexer.whitespace_split = True
            command: list[str] = []
            for word in [*lexer, "&&"]:
                if set(word) <= set("&;|"):
                    yield from filter(None, [without_prefix(command)])
                    command = []
                else:
                    command.append(word)


def without_prefix(words: list[str]) -> list[str]:
    while words and (words[0] == "sudo" or re.match(r"\w+=", words[0])):
        words = words[1:]
    return words


def edgeloc_arguments(words: list[str]) -> list[str] | None:
    """What follows `edgeloc` in a command, None where another program is run."""
    if words[0].split("/")[-1] == "edgeloc":
        return words[1:]
    return words[3:] if words[1:3] == ["-m", "edgeloc"] else None


LINES = [(page, words) for page in PAGES for words in shell_lines(page)]
OURS = [(page, found) for page, words in LINES if (found := edgeloc_arguments(words)) is not None]
OTHERS = [(page, words) for page, words in LINES if edgeloc_arguments(words) is None]


class Strict(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise AssertionError(message)


@pytest.mark.parametrize(
    ("page", "arguments"), [pytest.param(page, line, id=f"{page.stem}: {' '.join(line)[:60]}") for page, line in OURS]
)
def test_a_command_shown_has_these_flags(page: Path, arguments: list[str]) -> None:
    commands = {entry.name: entry for entry in importlib.metadata.entry_points(group=COMMAND_GROUP)}
    assert arguments[0] in commands, f"{page.name} shows edgeloc {arguments[0]}"
    parser = Strict(allow_abbrev=False)
    commands[arguments[0]].load().configure(parser)
    parser.parse_args(arguments[1:])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    known = {entry.name for entry in importlib.metadata.entry_points(group=COMMAND_GROUP)}
    assert set(re.findall(r"`edgeloc ([a-z][\w-]*)[ `]", page.read_text(encoding="utf-8"))) <= known


def why_not_run(arguments: list[str]) -> str | None:
    line = " ".join(arguments)
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), None)


def quick(arguments: list[str]) -> list[str]:
    """The same command, small enough for a test."""
    words = list(arguments)
    for flag, pattern, value in QUICK.get(words[0], []):
        for at in [at for at, word in enumerate(words) if word == flag]:
            words[at + 1] = re.sub(f"^{pattern}$", value, words[at + 1])
    while "window" in words:
        del words[words.index("window") - 1 : words.index("window") + 1]
    fewer = ["--max-images", "12"] if words[0] in ("bench", "sweep") and "--validation" in words else []
    return words + MORE.get(words[0], []) + fewer


def lines_to_run() -> dict[Path, list[list[str]]]:
    """The lines of each page; of a heavy command only those with a flag that no longer line has."""
    runnable = [(page, arguments) for page, arguments in OURS if why_not_run(arguments) is None]
    chosen: dict[Path, list[list[str]]] = {}
    run: list[set[str]] = []
    for page, arguments in sorted(runnable, key=lambda both: -len(both[1])):
        flags = {arguments[0], *(word for word in arguments if word.startswith("--"))}
        if arguments[0] in ("convert", "train", "doctor") and any(flags <= other for other in run):
            continue
        run.append(flags)
        chosen.setdefault(page, []).append(arguments)
    order = [arguments for _, arguments in OURS]
    return {page: sorted(lines, key=order.index) for page, lines in sorted(chosen.items())}


def slow_if_it_converts(page: Path, lines: list[list[str]]) -> object:
    heavy = any(line[0] in ("convert", "train") or "float.tflite" in line for line in lines)
    return pytest.param(page, lines, id=page.stem, marks=[pytest.mark.slow] if heavy else [])


@pytest.mark.parametrize(("page", "lines"), [slow_if_it_converts(*both) for both in lines_to_run().items()])
def test_the_commands_of_a_page_run(
    page: Path,
    lines: list[list[str]],
    my_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if any(line[0] in ("convert", "train") for line in lines):
        pytest.importorskip("tensorflow")
    if any("float.tflite" in line for line in lines):
        shutil.copy(request.getfixturevalue("float_model"), tmp_path / "float.tflite")
    shutil.copy(SHIPPED_INT8, tmp_path / "localizer.tflite")
    shutil.copy(SHIPPED_KERAS, tmp_path / "localizer.keras")
    (tmp_path / "my-data").symlink_to(my_data)
    monkeypatch.chdir(tmp_path)
    for line in lines:
        assert main(quick(line)) == 0, f"{page.name}: edgeloc {' '.join(line)}"


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network as a float `.tflite`."""
    pytest.importorskip("tensorflow")
    path = tmp_path_factory.mktemp("float-model") / "float.tflite"
    assert main(["convert", str(SHIPPED_KERAS), "--recipe", "float32", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def my_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled data set with two splits: generated scenes as images and a manifest."""
    import json

    import cv2

    import edgeloc

    folder = tmp_path_factory.mktemp("my-data")
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for split in ("train", "val"):
            for number, sample in enumerate(edgeloc.open_dataset("synthetic?count=12&size=160x160", split=split)):
                name = f"{split}-{number}.png"
                cv2.imwrite(str(folder / name), sample.load())
                box = None if sample.box is None else [float(edge) for edge in sample.box]
                row = {
                    "file": name,
                    "cls": sample.label,
                    "box_xyxy": box,
                    "clip": f"{split}-{number // 3}",
                    "split": split,
                }
                manifest.write(json.dumps(row) + "\n")
    return folder


def test_a_line_of_another_program_is_excused() -> None:
    unknown = {
        f"{name_of(page)}: {' '.join(words)}"
        for page, words in OTHERS
        if words[0].removeprefix(".venv/bin/").removeprefix("~/edgeloc/bin/") not in OTHER_PROGRAMS
    }
    assert unknown == set()


def test_what_is_not_run_here_is_tested_where_the_reason_says() -> None:
    reasons = " ".join([*NOT_RUN.values(), *OTHER_PROGRAMS.values()])
    named = re.findall(r"(?:tests|docs)/[\w/.]*\w", reasons)
    assert named and [path for path in named if not (ROOT / path).exists()] == []


def test_make_targets_and_modules_shown_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for page, words in OTHERS:
        if words[0] == "make":
            assert words[1] in targets, page
        if words[0].endswith("python") and words[1] == "-m" and words[2].startswith("edgeloc"):
            assert importlib.util.find_spec(words[2]), page


def test_what_pip_is_shown_to_install_is_there_to_install() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(setup["options.extras_require"])
    for page, words in OTHERS:
        if words[0].endswith("pip") and words[1] == "install":
            assert not any(word.startswith("edgeloc") for word in words), f"{page.name}: not on a package index yet"
            for word in words:
                shown = re.fullmatch(r"\.\[(.*)\]", word)
                assert shown is None or set(shown[1].split(",")) <= extras, f"{page.name}: {word}"


def public_names(folder: str) -> set[str]:
    stub = ast.parse((ROOT / folder / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
    return {alias.asname or alias.name for node in imports for alias in node.names}


@pytest.mark.parametrize(("face", "folder"), FACES.items(), ids=FACES)
def test_the_reference_has_every_public_name(face: str, folder: str) -> None:
    page = (DOCS / "reference" / f"{face}.md").read_text(encoding="utf-8")
    shown = re.findall(rf"^::: {re.escape(face)}\.(\w+)$", page, re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(shown) == public_names(folder) - {"__version__"}


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:sdk|device|converters|benchmarks|tests|docs)/[\w./-]*)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_architecture_page_has_every_room() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        path.relative_to(ROOT).as_posix()
        for part in ("sdk", "device", "converters", "benchmarks")
        for path in (ROOT / part).iterdir()
        if path.is_dir() and (path / "__init__.py").is_file()
    }
    assert [room for room in sorted(rooms) if f"`{room}/" not in text] == []


SEVERITIES = {"ok", "note", "warning", "problem"}


def strings(node: ast.expr) -> set[str]:
    """The strings that an expression can be, as far as it names them: both of a conditional."""
    return {
        str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def codes_used() -> set[str]:
    """The codes of the sources: what stands before a severity in a call, as in `Finding("disk", "ok", ...)`."""
    calls = [
        node
        for part in ("sdk", "device", "converters", "benchmarks")
        for path in (ROOT / part).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and len(node.args) > 1
    ]
    found = [
        strings(call.args[0])
        for call in calls
        if getattr(call.func, "id", "") == "Finding" or (strings(call.args[1]) and strings(call.args[1]) <= SEVERITIES)
    ]
    return {code for codes in found for code in codes if re.fullmatch(r"[a-z0-9-]+", code)}


def test_every_finding_code_is_explained_and_none_that_does_not_exist() -> None:
    explained = re.findall(r"^\| `([a-z0-9-]+)` \|", (DOCS / "findings.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(explained) == len(set(explained))
    assert set(explained) == codes_used()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_that_a_page_for_contributors_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:sdk|device|converters|benchmarks|tests|docs)/[\w./-]*)`", text)
    assert named and not [path for path in named if not (ROOT / path).exists()]
