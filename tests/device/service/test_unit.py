"""The service's unit: what systemd makes of it, what it may reach, and how it is installed and removed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeloc.cameras.reconnect import RECONNECT_S
from edgeloc.device.service.permissions import Needs, Network, needs_of
from edgeloc.device.service.unit import MARK, Service, install, quoted, systemctl, uninstall
from edgeloc.errors import DeviceError, UsageError

HOME = Path("/home") / "pi"
MODEL = Path("/opt/model.tflite")
GROUPS = "root:x:0:\nvideo:x:44:pi\nplugdev:x:46:pi\napex:x:1001:\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system that runs on systemd, with a user and a service of its own."""
    for folder in ("run/systemd/system", "usr/lib/systemd/system", "dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text(GROUPS)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\npi:x:1000:1000::/:/bin/sh\n")
    (tmp_path / "usr/lib/systemd/system/ssh.service").write_text("[Service]\n")
    return tmp_path


def service(name: str = "edgeloc", needs: Needs | None = None, reads: tuple[Path, ...] = ()) -> Service:
    return Service(name, ("/usr/bin/true",), needs or Needs(("char-video4linux",), ("video",)), reads)


class Manager:
    """A systemctl that remembers what it was told, and fails at the words it is given."""

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[str] = []
        self._fails_at = fails_at

    def __call__(self, words: Sequence[str]) -> None:
        self.told.append(" ".join(words))
        if words[0] == self._fails_at:
            raise DeviceError(f"systemctl {words[0]} failed: Job failed")


def settings(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def test_systemd_understands_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    path = tmp_path / "edgeloc-test.service"
    needs = Needs(("char-video4linux",), ("video",), network="loopback", runtime=True)
    credentials = {"sink": HOME / "my token"}
    path.write_text(Service("edgeloc-test", ("/usr/bin/true",), needs, (HOME / "venv",), credentials).unit())
    verified = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = [analyze, "security", "--offline=true", "--threshold=20", str(path)]
    security = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized option" in security.stderr:
        pytest.skip("this systemd-analyze does not rate a file")
    assert security.returncode == 0, security.stdout


def test_the_watchdog_waits_and_restarts_have_a_limit() -> None:
    unit = service().unit()
    assert settings(unit, "Type") == ["notify"]
    assert settings(unit, "Restart") == ["on-failure"]
    # A camera that is tried again makes no progress: that run ends by itself, with its files whole.
    assert int(settings(unit, "WatchdogSec")[0]) > RECONNECT_S + 10
    burst, within = int(settings(unit, "StartLimitBurst")[0]), int(settings(unit, "StartLimitIntervalSec")[0])
    # The limit must be reachable even when every start lives as long as the watchdog lets it.
    assert burst * (int(settings(unit, "WatchdogSec")[0]) + int(settings(unit, "RestartSec")[0])) < within


def test_tensorrt_may_build_its_plan_at_the_first_start_and_keeps_it() -> None:
    unit = service(needs=Needs(builds=True)).unit()
    assert settings(unit, "TimeoutStartSec") == ["1800"]
    assert settings(service().unit(), "TimeoutStartSec") == ["90"]


@pytest.mark.parametrize("builds", [True, False])
def test_a_plan_and_the_trial_of_a_model_are_made_once(builds: bool) -> None:
    unit = service(needs=Needs(builds=builds)).unit()
    assert settings(unit, "CacheDirectory") == ["edgeloc"]
    assert settings(unit, "Environment") == ["XDG_CACHE_HOME=/var/cache/edgeloc", "MALLOC_ARENA_MAX=2"]


def test_bad_input_is_not_tried_again() -> None:
    assert settings(service().unit(), "RestartPreventExitStatus") == [str(UsageError.exit_status)]


def test_what_is_read_in_a_home_folder_is_shown_and_no_more() -> None:
    shown = service(reads=(HOME / "venv", HOME / "venv/lib/edgeloc", HOME / "my model.tflite", MODEL)).unit()
    assert settings(shown, "ProtectHome") == ["tmpfs"]
    assert settings(shown, "BindReadOnlyPaths") == [f'"{HOME}/my model.tflite"', f"{HOME}/venv"]
    assert settings(service(reads=(MODEL,)).unit(), "ProtectHome") == ["yes"]


def test_a_path_to_be_shown_has_no_variables() -> None:
    """systemd puts variables in command lines alone: elsewhere $$ is two dollars."""
    shown = service(reads=(HOME / "a$b 5%",)).unit()
    assert settings(shown, "BindReadOnlyPaths") == [f'"{HOME}/a$b 5%%"']


def test_devices_are_closed_but_for_those_that_are_needed() -> None:
    unit = service().unit()
    assert settings(unit, "DevicePolicy") == ["closed"]
    assert settings(unit, "DeviceAllow") == ["char-video4linux rw"]
    assert settings(unit, "SupplementaryGroups") == ["video"]


@pytest.mark.parametrize(
    ("network", "families", "allowed", "waits"),
    [("all", 4, [], True), ("loopback", 4, ["localhost"], False), ("none", 2, [], False)],
)
def test_the_network_is_open_only_to_what_uses_it(
    network: Network, families: int, allowed: list[str], waits: bool
) -> None:
    unit = service(needs=Needs(network=network)).unit()
    assert len(settings(unit, "RestrictAddressFamilies")[0].split()) == families
    assert settings(unit, "PrivateNetwork") == (["yes"] if network == "none" else [])
    assert settings(unit, "IPAddressAllow") == allowed
    assert settings(unit, "IPAddressDeny") == ["any"] * len(allowed)
    assert settings(unit, "Wants") == ["network-online.target"] * waits


def test_secrets_come_as_credentials_and_their_paths_mean_themselves(tmp_path: Path) -> None:
    unit = Service("edgeloc", ("/usr/bin/true",), Needs(), credentials={"sink": HOME / "my 5% token"}).unit()
    assert settings(unit, "LoadCredential") == [f"sink:{HOME}/my 5%% token"]
    with pytest.raises(UsageError, match="rename it"):
        Service("edgeloc", ("/usr/bin/true",), Needs(), credentials={"sink": Path("/a\nUser=root")}).unit()


def test_a_socket_for_other_programs_lies_in_a_folder_of_the_services_own() -> None:
    assert settings(service(needs=Needs(runtime=True)).unit(), "RuntimeDirectory") == ["edgeloc"]
    assert settings(service().unit(), "RuntimeDirectory") == []


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain-1.0", "plain-1.0"),
        ("v4l2://0?a=1&b=2", '"v4l2://0?a=1&b=2"'),
        ("two words", '"two words"'),
        ("100%", "100%%"),
        ("$HOME", "$$HOME"),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("", '""'),
    ],
)
def test_words_mean_themselves_in_a_unit(word: str, written: str) -> None:
    assert quoted(word) == written


def test_a_line_cannot_be_smuggled_into_the_unit() -> None:
    with pytest.raises(UsageError, match="rename it"):
        Service("edgeloc", ("/usr/bin/true", "a\nUser=root"), Needs()).unit()


@pytest.mark.parametrize("name", ["", "Edgeloc", "1st", "a" * 32, "../ssh", "a b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 31"):
        service(name)


def test_installing_writes_enables_and_starts(root: Path) -> None:
    manager = Manager()
    path = install(service(), manager, root)
    assert path.read_text().startswith(MARK)
    assert manager.told == [
        "daemon-reload",
        "enable edgeloc.service",
        "reset-failed edgeloc.service",
        "restart edgeloc.service",
    ]
    install(service(), manager, root)


def test_a_service_that_gives_no_result_is_reported(root: Path) -> None:
    with pytest.raises(DeviceError, match="journalctl -u edgeloc"):
        install(service(), Manager(fails_at="restart"), root)


@pytest.mark.parametrize(("name", "whose"), [("ssh", "another service's"), ("pi", "a user's")])
def test_names_of_others_are_not_taken(root: Path, name: str, whose: str) -> None:
    with pytest.raises(UsageError, match=whose):
        install(service(name), Manager(), root)


def test_a_unit_written_by_hand_is_neither_replaced_nor_removed(root: Path) -> None:
    unit = root / "etc/systemd/system/edgeloc.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    with pytest.raises(UsageError, match="another service's"):
        install(service(), Manager(), root)
    with pytest.raises(UsageError, match="it stays"):
        uninstall("edgeloc", Manager(), root)
    assert unit.read_text() == "[Service]\n"


def test_removing_stops_first_and_forgets(root: Path) -> None:
    manager = Manager()
    path = install(service(), manager, root)
    manager.told.clear()
    uninstall("edgeloc", manager, root)
    assert manager.told == ["disable --now edgeloc.service", "daemon-reload"]
    assert not path.exists()
    with pytest.raises(UsageError, match="there is no service"):
        uninstall("edgeloc", manager, root)


def test_a_system_without_systemd_is_offered_print(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="use print"):
        install(service(), Manager(), tmp_path)


def test_systemctl_that_is_not_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="systemctl is not installed"):
        systemctl(["daemon-reload"])


def test_systemctl_that_fails_gives_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "systemctl"
    fake.write_text("#!/bin/sh\necho 'Access denied.' >&2\nexit 4\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DeviceError, match=r"systemctl enable x failed: Access denied$"):
        systemctl(["enable", "x"])


@pytest.mark.parametrize("camera", ["v4l2:///dev/video0?fps=30", "/dev/video0", "v4l2://0"])
def test_a_usb_camera_needs_its_class_and_group(root: Path, camera: str) -> None:
    needs = needs_of(camera, "auto", MODEL, ["boxes.jsonl"], root)
    assert needs == Needs(("char-video4linux",), ("video",))


def test_a_pi_camera_needs_the_heap_of_its_buffers_too(root: Path) -> None:
    needs = needs_of("picamera://0", "auto", MODEL, [], root)
    assert {"char-video4linux", "char-media", "char-dma_heap"} == set(needs.devices)


def test_a_jetsons_camera_needs_its_daemon_and_its_gpu(root: Path) -> None:
    for node in ("nvmap", "nvhost-ctrl", "nvhost-vic", "sda"):
        (root / "dev" / node).touch()
    needs = needs_of("csi://0", "auto", MODEL, [], root)
    assert set(needs.devices) == {"/dev/nvmap", "/dev/nvhost-ctrl", "/dev/nvhost-vic"}
    assert "nvargus-daemon.service" in needs.after
    assert needs.sockets and f"BindPaths=-{needs.sockets[0]}" in service(needs=needs).unit()


def test_tensorrt_needs_the_gpu_alone(root: Path) -> None:
    (root / "dev/nvhost-gpu").touch()
    needs = needs_of("synthetic://?seed=1", "auto", Path("model.onnx"), [], root)
    assert needs.devices == ("/dev/nvhost-gpu",)
    assert needs.builds and not needs_of("csi://0", "auto", MODEL, [], root).builds


def test_a_stick_needs_all_of_usb_since_its_number_changes_with_its_firmware(root: Path) -> None:
    needs = needs_of("v4l2://0", "edgetpu://usb:1", MODEL, [], root)
    assert "char-usb_device" in needs.devices
    assert "plugdev" in needs.groups


def test_a_card_needs_its_node(root: Path) -> None:
    card = root / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x1ac1\n")
    (card / "device").write_text("0x089a\n")
    needs = needs_of("synthetic://?seed=1", "edgetpu", MODEL, [], root)
    assert (needs.devices, needs.groups) == (("/dev/apex_0",), ("apex",))


def test_a_model_compiled_for_the_accelerator_tells_by_itself(root: Path, tmp_path: Path) -> None:
    compiled = tmp_path / "model_edgetpu.tflite"
    compiled.write_bytes(b"TFL3 edgetpu-custom-op")
    assert "char-usb_device" in needs_of("synthetic://?seed=1", "auto", compiled, [], root).devices


@pytest.mark.parametrize(
    ("sink", "network"),
    [
        ("http://127.0.0.1:8080", "loopback"),
        ("http://[::1]:8080", "loopback"),
        ("http://0.0.0.0:8080?token_file=token", "all"),
        ("mqtt://localhost/boxes", "loopback"),
        ("mqtts://robot@broker:8883/boxes", "all"),
        ("mavlink://127.0.0.1:14550", "loopback"),
        ("mavlink://:14550", "all"),
        ("udp://192.0.2.1:5005", "all"),
        ("tcp://localhost:5005", "loopback"),
        ("ros2://boxes", "all"),
        ("unix:///run/edgeloc/boxes.sock", "none"),
        ("shm://edgeloc", "none"),
        ("boxes-{time}.jsonl", "none"),
    ],
)
def test_a_sink_reaches_as_far_as_its_address(root: Path, sink: str, network: str) -> None:
    needs = needs_of("v4l2://0", "auto", MODEL, [sink], root)
    assert needs == Needs(("char-video4linux",), ("video",), network=needs.network, runtime=sink.startswith("unix"))
    assert needs.network == network


def test_the_farthest_of_all_addresses_counts(root: Path) -> None:
    sinks = ["http://127.0.0.1:8080", "boxes.jsonl"]
    assert needs_of("v4l2://0", "auto", MODEL, sinks, root).network == "loopback"
    assert needs_of("rtsp://192.0.2.7/stream", "auto", MODEL, sinks, root).network == "all"
    assert needs_of("rtsp://127.0.0.1:8554/stream", "auto", MODEL, sinks, root).network == "loopback"
    assert needs_of("gst://videotestsrc ! appsink", "auto", MODEL, [], root).network == "all"
    assert needs_of("https://192.0.2.7/video?rotate=90", "auto", MODEL, [], root).network == "all"
    assert needs_of("http://127.0.0.1:8080/stream", "auto", MODEL, [], root).network == "loopback"
    # A port without an address takes what comes from anywhere.
    assert needs_of("udp://:5000", "auto", MODEL, [], root).network == "all"
    assert needs_of("udp://127.0.0.1:5000", "auto", MODEL, [], root).network == "loopback"


def test_a_sink_on_a_serial_port_needs_its_node_and_group_and_no_network(root: Path) -> None:
    (root / "etc/group").write_text(GROUPS + "dialout:x:20:\n")
    needs = needs_of("v4l2://0", "auto", MODEL, ["mavlink:///dev/ttyACM0?baud=115200"], root)
    assert needs.devices == ("char-video4linux", "/dev/ttyACM0")
    assert needs.groups == ("video", "dialout")
    assert needs.network == "none"


def test_groups_that_the_system_lacks_are_left_out(root: Path) -> None:
    (root / "etc/group").write_text("root:x:0:\n")
    assert needs_of("v4l2://0", "edgetpu", MODEL, [], root).groups == ()


def test_what_writes_machine_code_may(root: Path) -> None:
    plain = service(needs=needs_of("v4l2://0", "auto", MODEL, [], root)).unit()
    piped = service(needs=needs_of("gst://videotestsrc ! appsink", "auto", MODEL, [], root)).unit()
    assert settings(plain, "MemoryDenyWriteExecute") == ["yes"]
    assert settings(piped, "MemoryDenyWriteExecute") == []
