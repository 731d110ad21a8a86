"""`edgeloc install-service` as it is typed: the command line that the unit gets, and what is refused."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from edgeloc.cli import main
from edgeloc.device.service.permissions import HIDDEN


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3")
    path.chmod(0o644)
    return path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The command line of the unit that `--print` shows."""
    assert main(["install-service", *words, "--print"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart="))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["install-service", *words]) == 2
    return capsys.readouterr().err


def test_the_unit_runs_what_was_typed(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    flags = ["--camera", "v4l2:///dev/video0?size=640x480", "--sink", "a-{time}.jsonl", "--sink", "b.mp4"]
    flags += ["--overwrite", "--threads", "2"]
    command = printed(capsys, str(model), *flags)
    assert command[0] == sys.executable
    assert command[command.index("run") + 1 :] == [str(model), *flags]


def test_what_is_read_is_named_in_full(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    (model.parent / "contract.json").write_text("{}")
    command = printed(capsys, "model.tflite", "--camera", "v4l2://0", "--contract", "contract.json")
    assert str(model) in command
    assert str(model.parent / "contract.json") in command


def test_files_within_a_uri_are_shown_to_the_service(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = model.parent / "script.json"
    script.write_text("{}")
    monkeypatch.chdir(model.parent)
    assert f"give script.json as {script}" in refused(capsys, str(model), "--camera", "fake://script.json", "--print")
    assert main(["install-service", str(model), "--camera", f"fake://{script}", "--print"]) == 0
    hidden = any(script.is_relative_to(folder) for folder in HIDDEN)
    assert (f"BindReadOnlyPaths={script}" in capsys.readouterr().out) == hidden


def test_sinks_stay_relative_to_the_services_folder(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    assert "b-{time}.jsonl" in printed(capsys, str(model), "--camera", "v4l2://0", "--sink", "b-{time}.jsonl")


def test_a_file_that_the_next_start_would_refuse_is_refused_now(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    line = [str(model), "--camera", "v4l2://0", "--sink", "boxes.jsonl", "--print"]
    assert "give it as boxes-{time}.jsonl, or give --overwrite" in refused(capsys, *line)


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("window", "no screen"),
        ("/data/boxes.jsonl", "give sink /data/boxes.jsonl as boxes.jsonl"),
        ("../boxes.jsonl", "writes to /var/lib/edgeloc alone"),
        ("file:///etc/boxes.jsonl", "writes to /var/lib/edgeloc alone"),
        ("boxes.txt", "of no known kind"),
        ("-", "no standard output"),
        ("ros2:///drone", "lacks ROS 2's environment"),
        ("unix:///srv/boxes.sock", "give sink unix:///srv/boxes.sock as unix:///run/edgeloc/boxes.sock"),
    ],
)
def test_sinks_that_a_service_cannot_serve(
    capsys: pytest.CaptureFixture[str], model: Path, sink: str, said: str
) -> None:
    assert said in refused(capsys, str(model), "--camera", "v4l2://0", "--sink", sink, "--print")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--camera", "webcam://0"], "there is no scheme webcam://"),
        (["--camera", "v4l2://0", "--engine", "tpu"], "engine tpu is of no known kind"),
    ],
)
def test_what_no_run_knows_is_refused_before_it_is_a_service(
    capsys: pytest.CaptureFixture[str], model: Path, words: list[str], said: str
) -> None:
    assert said in refused(capsys, str(model), *words, "--print")


def test_a_model_that_the_services_user_may_not_read(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    model.chmod(0o600)
    assert f"chmod o+r {model}" in refused(capsys, str(model), "--camera", "v4l2://0", "--print")


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is not there" in refused(capsys, str(tmp_path / "nothing.tflite"), "--camera", "v4l2://0", "--print")


@pytest.mark.parametrize("words", [[], ["model.tflite"], ["--camera", "v4l2://0"]])
def test_model_and_camera_are_asked_for(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert "needs a model and a --camera" in refused(capsys, *words, "--print")


def test_printing_and_removing_at_once_is_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not allowed with" in refused(capsys, "--print", "--uninstall")


@pytest.mark.parametrize("uninstall", [True, False])
def test_without_root_the_whole_sudo_line_is_given(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch, uninstall: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    words = ["--uninstall"] if uninstall else [str(model), "--camera", "v4l2://0"]
    assert f"sudo {sys.executable} -m edgeloc install-service" in refused(capsys, *words)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "my secret"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    return path


def unit(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["install-service", *words, "--print"]) == 0
    return capsys.readouterr().out


def test_files_of_secrets_become_credentials(
    capsys: pytest.CaptureFixture[str], model: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(secret.parent)
    sinks = [
        "--sink",
        "http://0.0.0.0:8080?token_file=my%20secret",
        "--sink",
        f"mqtt://robot@broker/boxes?picture=1&password_file={secret}",
    ]
    text = unit(capsys, str(model), "--camera", "v4l2://0", *sinks, "--name", "robot")
    assert f"LoadCredential=sink:{secret}\nLoadCredential=sink-1:{secret}\n" in text
    assert '"http://0.0.0.0:8080?token_file=/run/credentials/robot.service/sink"' in text
    assert '"mqtt://robot@broker/boxes?picture=1&password_file=/run/credentials/robot.service/sink-1"' in text
    assert "battery" not in text


def test_a_uri_with_a_password_comes_out_of_a_file(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    camera = tmp_path / "camera.uri"
    camera.write_text("rtsp://admin:geheim@192.0.2.7/stream\n")
    camera.chmod(0o600)
    text = unit(capsys, str(model), "--camera", f"@{camera}")
    assert "--camera @/run/credentials/edgeloc.service/camera" in text
    assert f"LoadCredential=camera:{camera}" in text
    assert "AF_INET6" in text and "geheim" not in text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--camera", "rtsp://admin:geheim@192.0.2.7/stream"], "rtsp://admin:***@192.0.2.7/stream holds a secret"),
        (["--camera", "gst://rtspsrc location=rtsp://h user-pw=geheim ! appsink"], "user-pw=*** ! appsink holds"),
        (["--camera", "v4l2://0", "--sink", "mqtt://robot:geheim@broker"], "mqtt://robot:***@broker holds a secret"),
        (["--camera", "rtsp://192.0.2.7/stream?token=geheim"], r"stream\?token=*** holds a secret"),
    ],
)
def test_a_password_in_a_command_line_is_refused(
    capsys: pytest.CaptureFixture[str], model: Path, words: list[str], shown: str
) -> None:
    said = refused(capsys, str(model), *words, "--print")
    assert shown.replace("\\", "") in said
    assert "geheim" not in said
    assert f"give {'--sink' if '--sink' in words else '--camera'} @FILE" in said


def test_a_secret_of_the_shell_is_not_the_services(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELOC_WEB_TOKEN", "correct horse battery staple")
    said = refused(capsys, str(model), "--camera", "v4l2://0", "--sink", "http://0.0.0.0:8080", "--print")
    assert "demands a token" in said and "?token_file=" in said
    assert os.environ["EDGELOC_WEB_TOKEN"]


def test_a_secret_that_others_can_read_is_warned_of(
    capsys: pytest.CaptureFixture[str], model: Path, secret: Path
) -> None:
    secret.chmod(0o644)
    sink = f"mqtt://robot@broker?password_file={secret}"
    assert main(["install-service", str(model), "--camera", "v4l2://0", "--sink", sink, "--print"]) == 0
    assert f"chmod 600 {secret}" in capsys.readouterr().err
    assert "is not there" in refused(capsys, str(model), "--camera", "v4l2://0", "--sink", sink + "x", "--print")


def test_a_function_of_your_own_is_shown_with_its_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "robot"
    folder.mkdir()
    (folder / "detect.py").write_text("def find(frame): ...")
    monkeypatch.chdir(folder)
    text = unit(capsys, "detect.py:find", "--camera", "v4l2://0")
    assert f'run "{folder}/detect.py:find" --camera' in text
    hidden = any(folder.is_relative_to(one) for one in HIDDEN)
    assert (f"BindReadOnlyPaths={folder}\n" in text) == hidden
    assert "MemoryDenyWriteExecute" not in text
    assert "as path/to/FILE.py:find" in refused(capsys, "detect:find", "--camera", "v4l2://0", "--print")
    assert "leave out --threads" in refused(capsys, "detect.py:find", "--camera", "v4l2://0", "--threads", "2")
