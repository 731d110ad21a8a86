"""The doctor finds what is there and what is not, says how to fix it, and survives whatever it looks at."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.cli import main
from edgeloc.device import doctor
from edgeloc.device.board import read_board
from edgeloc.device.doctor import hardware as doctor_hardware
from edgeloc.device.doctor import software as doctor_software
from edgeloc.device.doctor.facts import RUNTIMES, Facts, able, try_engine
from edgeloc.device.thermal import ThermalReader
from edgeloc.engines import AUTO, engine_class
from edgeloc.findings import Finding
from edgeloc.model.sandbox import SelfTest

MakeTree = Callable[[dict[str, str]], Path]
PASSED = SelfTest("litert", "passed")


def case(root: Path, packages: dict[str, str] | None = None, **changes: Any) -> Facts:
    """A device under `root`, with a vcgencmd that is content, and with these packages."""
    thermal = ThermalReader(root, lambda command: "throttled=0x0\n").read()
    board = read_board(root)
    if packages is not None:
        board = dataclasses.replace(board, packages=packages)
    return Facts(**{"root": root, "board": board, "thermal": thermal, "self_tests": (PASSED,), **changes})


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


# The whole


def test_the_command_on_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    here = next(name for name in AUTO if engine_class(name).available())
    monkeypatch.setattr(doctor, "run_self_tests", lambda packages: (try_engine(here),))
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["able"] is True
    assert set(report) == {"schema_version", "edgeloc", "able", "board", "thermal", "self_tests", "findings"}
    assert report["self_tests"] == [{"engine": here, "outcome": "passed", "detail": ""}]
    assert {finding["check"] for finding in report["findings"]} == set(doctor.CHECKS)
    for finding in report["findings"]:
        assert set(finding) == {"check", "code", "severity", "message", "fix"}
        assert finding["severity"] in ("ok", "note", "warning", "problem")
        assert finding["fix"] or finding["severity"] in ("ok", "note")
        assert finding["code"] != "check-failed"


def test_the_text_tells_the_same_and_ends_in_a_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "run_self_tests", lambda packages: (SelfTest("litert", "failed", "the box is off"),))
    assert main(["doctor"]) == 3
    printed = capsys.readouterr().out
    assert "problem  self-test     the shipped model on engine litert fails: the box is off" in printed
    assert "fix: pip install --upgrade --force-reinstall ai-edge-litert" in printed
    assert printed.strip().splitlines()[-1].startswith("This device cannot localize as it is (1 problem")


def test_a_raspberry_pi_is_named(pi5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_self_tests", lambda packages: (PASSED,))
    report = doctor.examine(pi5, lambda command: "throttled=0x0\n")
    assert report.able
    by_check = {name: found[0] for name, found in report.checks.items()}
    assert by_check["board"].message.startswith(
        "Raspberry Pi 5 Model B (revision 1.0); 4 x Cortex-A76 at up to 2.4 GHz"
    )
    assert "not throttled" in by_check["thermal"].message


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: Facts) -> Iterator[Finding]:
        yield Finding("memory", "ok", "so far")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(doctor, "run_self_tests", lambda packages: (PASSED,))
    monkeypatch.setitem(doctor.CHECKS, "memory", broken)
    report = doctor.examine(tmp_path)
    found = report.checks["memory"]
    assert [finding.severity for finding in found] == ["ok", "warning"]
    assert "Input/output error" in found[1].message
    assert set(report.checks) == set(doctor.CHECKS)


def test_it_starts_where_numpy_and_opencv_do_not_load(tmp_path: Path) -> None:
    """On the device whose NumPy is broken the doctor is needed most: it loads neither in its own process."""
    for name in ("numpy", "cv2"):
        (tmp_path / f"{name}.py").write_text("import os\nos.abort()\n")
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import os\n"
        f"os.environ['PYTHONPATH'] = {str(tmp_path)!r}\n"
        "from edgeloc.device.doctor import examine\n"
        "report = examine()\n"
        "answer([report.able, *(f.message for name in ('opencv', 'self-test') for f in report.checks[name])])\n"
    )
    able_there, opencv_said, *engines_said = run_child(program)
    assert able_there is False
    assert "SIGABRT" in opencv_said
    assert engines_said and all("SIGABRT" in said for said in engines_said)


# Engines


def test_the_engines_are_those_that_auto_tries_in_its_order() -> None:
    assert tuple(RUNTIMES.values()) == AUTO


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((), False),
        (("passed",), True),
        (("not loaded", "passed"), True),
        (("passed", "crashed"), True),
        (("failed", "passed"), False),
        (("crashed", "passed"), False),
        (("not loaded",), False),
    ],
)
def test_able_is_what_auto_would_come_to(outcomes: tuple[Any, ...], expected: bool) -> None:
    assert able([SelfTest("x", outcome) for outcome in outcomes]) is expected


def script(path: Path, text: str) -> list[str]:
    """A command in the place of Python."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path)]


def test_an_engine_that_takes_its_process_down(tmp_path: Path) -> None:
    test = try_engine("litert", script(tmp_path / "python", "kill -SEGV $$"))
    assert (test.outcome, test.detail) == ("crashed", "ended its process by SIGSEGV")


def test_an_engine_that_answers_wrongly(tmp_path: Path) -> None:
    raised = '{"raised": ["edgeloc.errors.EngineError"], "message": "the box is off by 40.0 pixels, 3 are allowed"}'
    text = f"""echo noise; echo '["loaded"]'; echo '{raised}'; exit 1"""
    test = try_engine("litert", script(tmp_path / "python", text))
    (finding,) = doctor_software.self_tests(case(tmp_path, self_tests=(test,)))
    assert finding.severity == "problem"
    assert "off by 40.0 pixels" in finding.message


def test_an_engine_that_is_not_installed_does_not_load() -> None:
    test = try_engine("no-such-engine")
    assert test.outcome == "not loaded"
    assert "no-such-engine" in test.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exit 1", "status 1: it printed no answer"),
        ("echo 12", "status 0"),
        ("echo words", "status 0"),
        ("echo 'ImportError: no numpy' >&2; exit 1", "status 1: ImportError: no numpy"),
    ],
)
def test_a_program_that_says_nothing_of_use(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ChildFailed, match=says):
        run_child("", interpreter=script(tmp_path / "python", text))


def test_a_second_engine_that_does_not_load_is_a_warning_and_the_only_one_a_problem(tmp_path: Path) -> None:
    broken = SelfTest("tensorflow", "not loaded", "ImportError: no")
    assert [f.severity for f in doctor_software.self_tests(case(tmp_path, self_tests=(PASSED, broken)))] == [
        "ok",
        "warning",
    ]
    assert only(doctor_software.self_tests(case(tmp_path, self_tests=(broken,)))).severity == "problem"


# Software


def test_tflite_runtime_beside_numpy_2_is_predicted(tmp_path: Path) -> None:
    alone = only(doctor_software.runtimes(case(tmp_path, {"numpy": "2.2.6", "tflite-runtime": "2.14.0"})))
    assert alone.severity == "problem"
    assert "numpy<2" in (alone.fix or "")
    beside = {"numpy": "2.2.6", "tflite-runtime": "2.14.0", "ai-edge-litert": "2.3.0"}
    assert only(doctor_software.runtimes(case(tmp_path, beside))).severity == "warning"
    fitting = {"numpy": "1.26.4", "tflite-runtime": "2.14.0"}
    assert only(doctor_software.runtimes(case(tmp_path, fitting))).severity == "ok"


def test_numpy_that_is_not_there(tmp_path: Path) -> None:
    finding = only(doctor_software.runtimes(case(tmp_path, {"tflite-runtime": "2.14.0"})))
    assert (finding.severity, finding.fix) == ("problem", "pip install 'numpy<2'")


def test_power_meters_without_numpy_are_no_fault_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: str) -> list[Any]:
        raise ChildFailed("raised ModuleNotFoundError: No module named 'numpy'", "exception")

    monkeypatch.setattr(doctor_hardware, "run_child", crash)
    finding = only(doctor_hardware.power(case(tmp_path)))
    assert "No module named 'numpy'" in finding.message


def test_no_runtime_says_which_to_install(tmp_path: Path) -> None:
    given = case(tmp_path, {"numpy": "2.2.6"}, self_tests=())
    assert only(doctor_software.runtimes(given)).fix == "pip install ai-edge-litert"
    assert only(doctor_software.self_tests(given)).severity == "problem"
    small = dataclasses.replace(given, board=dataclasses.replace(given.board, python_bits=32, machine="armv7l"))
    assert "tflite-runtime 'numpy<2'" in (only(doctor_software.runtimes(small)).fix or "")


def test_a_32_bit_python_on_a_64_bit_kernel(pi5: Path) -> None:
    given = case(pi5)
    assert only(doctor_software.python(given)).severity == "ok"
    mixed = dataclasses.replace(given, board=dataclasses.replace(given.board, python_bits=32))
    assert "64-bit image" in (only(doctor_software.python(mixed)).fix or "")


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("ImportError: libGL.so.1: cannot open shared object file", "apt install libgl1"),
        ("ImportError: numpy.core.multiarray failed to import", "force-reinstall opencv-python"),
        ("AttributeError: _ARRAY_API not found", "force-reinstall opencv-python"),
        ("ModuleNotFoundError: No module named 'cv2'", "pip install opencv-python"),
    ],
)
def test_an_opencv_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, fix: str) -> None:
    monkeypatch.setattr(doctor_software, "run_child", lambda program: ["", said])
    finding = only(doctor_software.opencv(case(tmp_path)))
    assert finding.severity == "problem"
    assert fix in (finding.fix or "")


def test_a_jetson_wants_gstreamer(orin_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_software, "run_child", lambda program: ["4.11.0", "NO"])
    monkeypatch.setattr(doctor_software.importlib.util, "find_spec", lambda name: None)
    assert "csi://" in only(doctor_software.opencv(case(orin_nano))).message
    assert only(doctor_software.opencv(case(orin_nano))).severity == "warning"
    monkeypatch.setattr(doctor_software, "run_child", lambda program: ["4.5.4", "YES"])
    assert only(doctor_software.opencv(case(orin_nano))).severity == "ok"


# Hardware


def test_little_memory(make_tree: MakeTree) -> None:
    root = make_tree({"proc/meminfo": "MemTotal:  432380 kB\nMemAvailable:  93212 kB\n"})
    finding = only(doctor_hardware.memory(case(root)))
    assert (finding.severity, finding.message.split(":")[0]) == ("warning", "91 MiB of 422 MiB are free")


@pytest.mark.parametrize(
    ("answer", "status", "says", "fix"),
    [
        ("throttled=0x0", "ok", "not throttled", None),
        ("throttled=0x50005", "warning", "throttled now: under-voltage, throttled", "power supply"),
        ("throttled=0x80000", "warning", "since boot: soft temperature limit", "fan"),
        ("VCHI initialization failed", "warning", "vcgencmd does not report", "usermod -aG video"),
    ],
)
def test_throttling_of_a_raspberry_pi(pi5: Path, answer: str, status: str, says: str, fix: str | None) -> None:
    thermal = ThermalReader(pi5, lambda command: answer).read()
    finding = only(doctor_hardware.thermal(case(pi5, thermal=thermal)))
    assert finding.severity == status
    assert says in finding.message
    assert (fix is None) == (finding.fix is None) and (fix or "") in (finding.fix or "")


def test_a_hot_board(pi5: Path, make_tree: MakeTree) -> None:
    make_tree({"sys/class/thermal/thermal_zone0/temp": "83900\n"})
    assert "84 °C at cpu-thermal" in only(doctor_hardware.thermal(case(pi5))).message


def test_a_slow_governor_is_one_unless_it_is_intels(pi5: Path, make_tree: MakeTree, tmp_path: Path) -> None:
    governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    make_tree({governor: "powersave\n"})
    assert only(doctor_hardware.clocks(case(pi5))).severity == "warning"
    make_tree({"sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "intel_pstate\n"})
    assert only(doctor_hardware.clocks(case(pi5))).severity == "ok"


def test_a_pis_camera_needs_picamera2_and_a_venv_that_sees_it(
    pi5: Path, make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(
        {
            "sys/class/video4linux/video0/name": "rp1-cfe-csi2_ch0\n",
            "sys/class/video4linux/video19/name": "rpi-hevc-dec\n",
            "sys/class/video4linux/video20/name": "pispbe-input\n",
        }
    )
    monkeypatch.setattr(doctor_hardware.importlib.util, "find_spec", lambda name: None)
    missing = only(doctor_hardware.cameras(case(pi5)))
    assert "apt install python3-picamera2" in (missing.fix or "")
    packages = "usr/lib/python3/dist-packages"
    make_tree({f"{packages}/picamera2/__init__.py": "", f"{packages}/libcamera/__init__.py": ""})
    missing = only(doctor_hardware.cameras(case(pi5)))
    assert (missing.fix or "").endswith("--system-site-packages") and "apt" not in (missing.fix or "")
    make_tree({"sys/class/video4linux/video8/name": "UVC Camera\n"})
    _, webcam = doctor_hardware.cameras(case(pi5))
    assert webcam.message == "/dev/video8 (UVC Camera)"


def test_a_pi_whose_kernel_alone_reports_throttling_lacks_vcgencmd(pi5: Path, make_tree: MakeTree) -> None:
    cooling = "sys/class/thermal/cooling_device9"
    make_tree({f"{cooling}/type": "cpufreq-cpu0\n", f"{cooling}/cur_state": "0\n"})
    finding = only(doctor_hardware.thermal(case(pi5, thermal=ThermalReader(pi5).read())))
    assert finding.severity == "warning" and "vcgencmd does not report" in finding.message


def test_a_current_folder_that_was_removed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    here = dataclasses.replace(case(tmp_path), root=Path("/"))
    assert "free" in only(doctor_hardware.disk(here)).message


def test_no_camera(pc: Path) -> None:
    assert "synthetic://" in (only(doctor_hardware.cameras(case(pc))).fix or "")


def test_devices_this_user_may_not_open_name_the_group(pi5: Path, make_tree: MakeTree) -> None:
    make_tree({"dev/video0": "", "dev/i2c-1": "", "dev/vcio": ""})
    closed = case(pi5, may_use=lambda path: path.name != "i2c-1")
    finding = only(doctor_hardware.permissions(closed))
    assert "no permission for /dev/i2c-1 (power meters on I2C)" in finding.message
    assert finding.severity == "warning"
    assert only(doctor_hardware.permissions(case(pi5, may_use=lambda path: True))).message == (
        "may use cameras, power meters on I2C, under-voltage and the Pi's power"
    )


def test_the_fix_for_a_device_is_its_own_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Group:
        gr_name = "i2c"

    monkeypatch.setattr(doctor_hardware.grp, "getgrgid", lambda number: Group)
    assert doctor_hardware._group_fix(tmp_path) == "sudo usermod -aG i2c $USER, and log in again"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use everything")
def test_a_closed_file_is_seen_as_closed(pi5: Path, make_tree: MakeTree) -> None:
    make_tree({"dev/video0": ""})
    (pi5 / "dev/video0").chmod(0)
    assert only(doctor_hardware.permissions(case(pi5))).severity == "warning"


# Accelerators


def test_a_coral_stick_without_its_library(pi5: Path, make_tree: MakeTree, usb_device: Any) -> None:
    make_tree(usb_device("2-1", "1a6e", "089a"))
    finding = only(doctor_hardware.accelerators(case(pi5)))
    assert (finding.severity, "libedgetpu" in finding.message) == ("warning", True)
    assert "libedgetpu1-std" in (finding.fix or "")


@pytest.mark.parametrize(
    ("build", "status"), [("16.0", "warning"), ("16.0tf2.19.1-1", "ok")], ids=["google's of 2021", "a current one"]
)
def test_a_coral_stick_whose_library_would_crash_is_predicted(
    pi5: Path, make_tree: MakeTree, usb_device: Any, build: str, status: str
) -> None:
    package = f"Package: libedgetpu1-std\nStatus: install ok installed\nVersion: {build}\n"
    make_tree({**usb_device("2-1", "18d1", "9302"), "var/lib/dpkg/status": package})
    finding = only(doctor_hardware.accelerators(case(pi5, {"ai-edge-litert": "2.3.0"})))
    assert finding.severity == status
    assert build in finding.message


def test_a_coral_card_without_its_driver(pc: Path, make_tree: MakeTree, pci_device: Any) -> None:
    make_tree(pci_device("0000:01:00.0", "1ac1", "089a"))
    finding = only(doctor_hardware.accelerators(case(pc)))
    assert "/dev/apex_0" in finding.message and "gasket-dkms" in (finding.fix or "")


def test_the_right_to_a_coral_stick(pi5: Path, make_tree: MakeTree, usb_device: Any) -> None:
    make_tree(usb_device("2-1", "18d1", "9302"))
    closed = case(pi5, may_use=lambda path: "usb" not in path.as_posix())
    assert "/dev/bus/usb/002/003 (Coral USB Accelerator)" in only(doctor_hardware.permissions(closed)).message


def test_a_jetson_without_tensorrt(orin_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_hardware.importlib.util, "find_spec", lambda name: None)
    finding = only(doctor_hardware.accelerators(case(orin_nano)))
    assert "tensorrt" in finding.message and "apt install" in (finding.fix or "")


# Power


def meters(monkeypatch: pytest.MonkeyPatch, **found: Finding) -> None:
    """What the search for meters finds, by scheme."""
    answers = [[f"{scheme}://", finding.to_dict()] for scheme, finding in found.items()]
    monkeypatch.setattr(doctor_hardware, "run_child", lambda *arguments: answers)


def test_a_power_meter_that_only_root_may_read(pc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meters(monkeypatch, rapl=Finding("meter-unreadable", "warning", "/sys/x may be read by root only", "run as root"))
    finding = only(doctor_hardware.power(case(pc)))
    assert (finding.code, finding.severity, finding.fix) == ("meter-unreadable", "warning", "run as root")
    assert "rapl://: /sys/x may be read by root only" in finding.message


@pytest.mark.parametrize(
    ("model", "code"),
    [("5 Model B", "meter-unreadable"), ("Compute Module 5", "meter-unreadable"), ("4", "meter-missing")],
)
def test_a_pis_own_meter_that_its_user_may_not_read(
    make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch, model: str, code: str
) -> None:
    meters(
        monkeypatch,
        pmic=Finding("meter-unreadable", "warning", "vcgencmd may not query the firmware", "usermod -aG video"),
        rapl=Finding("meter-absent", "note", "no processor package"),
    )
    root = make_tree({"proc/device-tree/model": f"Raspberry Pi {model} Rev 1.0\0"})
    finding = only(doctor_hardware.power(case(root)))
    assert finding.code == code
    if code == "meter-unreadable":
        assert "pmic://: vcgencmd may not query the firmware" in finding.message and finding.fix == "usermod -aG video"


def test_a_board_without_a_meter_is_no_warning(pc: Path) -> None:
    finding = only(doctor_hardware.power(case(pc)))
    assert (finding.code, finding.severity) == ("meter-missing", "note")


def test_power_meters_of_a_folder_are_found(make_tree: MakeTree) -> None:
    chip = "sys/class/hwmon/hwmon0"
    root = make_tree(
        {f"{chip}/name": "ina219\n", f"{chip}/in0_input": "9\n", f"{chip}/in1_input": "5080\n",
         f"{chip}/curr1_input": "900\n", f"{chip}/power1_input": "4580000\n", f"{chip}/shunt_resistor": "10000\n"}
    )  # fmt: skip
    assert only(doctor_hardware.power(case(root))).severity == "ok"
    assert "hwmon0" in only(doctor_hardware.power(case(root))).message


def test_files_of_the_current_folder_are_not_taken_for_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("raise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    assert only(doctor_software.opencv(case(tmp_path))).severity == "ok"


def test_this_python_is_the_one_that_is_tried() -> None:
    assert run_child("import sys; answer([sys.executable])") == [sys.executable]
