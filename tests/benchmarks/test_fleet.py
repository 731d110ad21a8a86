"""`edgeloc bench --fleet` with a real Dask scheduler and three real workers over TLS, of which some die or freeze."""

from __future__ import annotations

import argparse
import dataclasses
import json
import operator
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest

from edgeloc.benchmarks.commands import bench as command
from edgeloc.benchmarks.commands.fleet import job_of
from edgeloc.benchmarks.measurement import BenchOptions, bench
from edgeloc.benchmarks.result import read_result
from edgeloc.cli import main
from edgeloc.model.file import read_model
from edgeloc.models import SHIPPED_INT8
from edgeloc.scenes import SceneGenerator

BOARDS = ("orin", "pi4", "pi5")
IMAGES = 120
# How long a board may take: a loaded machine is slow to start a process.
DEADLINE_S = 90
# Where a frozen one has to be waited for.
SHORT_S = 20


class Cluster:
    """The processes of a scheduler and of a worker for each board."""

    def __init__(self, folder: Path, certificates: Path) -> None:
        self._folder, self.certificates = folder, certificates
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start("scheduler", "scheduler", "--host", "tls://127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._wait("scheduler", "Scheduler at:").split()[-1]

    @property
    def alive(self) -> list[str]:
        return [name for name in BOARDS if name in self._processes]

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """As when a board loses its power."""
        self._processes[name].kill()
        self._processes.pop(name).wait()

    def freeze(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGSTOP)

    def revive(self) -> None:
        """Start every board that is dead, and let the frozen ones run again."""
        dead = [name for name in BOARDS if name not in self.alive]
        for name in dead:
            line = ["worker", self.address, "--name", name, "--resources", "BOARD=1", "--nthreads", "1"]
            space = str(self._folder / "space")
            self._start(name, *line, "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--local-directory", space)
        for name in BOARDS:
            self._processes[name].send_signal(signal.SIGCONT)
        for name in dead:
            self._wait(name, "Registered to:")

    def close(self) -> None:
        for name in reversed([*self._processes]):
            self.kill(name)

    def _start(self, name: str, *words: str) -> None:
        files = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
        tls = [f"--tls-{flag}={self.certificates / file}" for flag, file in files.items()]
        command = [sys.executable, "-W", "ignore", "-m", "dask", *words, *tls]
        with open(self._folder / f"{name}.log", "wb") as log:
            self._processes[name] = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)

    def _wait(self, name: str, sign: str) -> str:
        log = self._folder / f"{name}.log"
        for _ in range(600):
            line = next((one for one in log.read_text().splitlines() if sign in one), None)
            if line is not None:
                return line
            if self._processes[name].poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"{name} did not start: {log.read_text()}")


def make_certificates(folder: Path) -> Path:
    """ca.pem, cert.pem and key.pem, by the lines of docs/guide/fleet.md."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650"
    authority = "-subj /CN=fleet-ca -addext keyUsage=critical,keyCertSign -keyout ca-key.pem -out ca.pem"
    signed = "-subj /CN=fleet -addext basicConstraints=critical,CA:false -CA ca.pem -CAkey ca-key.pem"
    for line in (f"{new} {authority}", f"{new} {signed} -keyout key.pem -out cert.pem"):
        subprocess.run(shlex.split(line), cwd=folder, check=True, capture_output=True)
    return folder


def trust(certificates: Path) -> Any:
    """Dask's configuration with these certificates for a client."""
    import dask

    names = {"ca-file": "ca.pem", "client.cert": "cert.pem", "client.key": "key.pem"}
    return dask.config.set({f"distributed.comm.tls.{name}": str(certificates / file) for name, file in names.items()})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'edgeloc[fleet]'")
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), certificates)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """Three boards, alive and connected, and a client that has their certificates."""
    running.revive()
    with trust(running.certificates):
        yield running


def bare(folder: Path) -> tuple[Path, Path]:
    """The network of the shipped model, and its contract beside it."""
    file = read_model(SHIPPED_INT8)
    assert file.contract is not None
    network, contract = folder / "net.tflite", folder / "net.json"
    network.write_bytes(file.payload)
    contract.write_text(file.contract.to_json())
    return network, contract


def fleet_bench(cluster: Cluster, out: Path, *words: object, frames: int = 5, deadline_s: int = DEADLINE_S) -> int:
    timed = [] if "--spread" in words else ["--frames", frames, "--warmup", 2, "--power", "none"]
    line = ["bench", SHIPPED_INT8, "--out", out, *timed]
    return main([*map(str, line), "--fleet", cluster.address, "--deadline", str(deadline_s), *map(str, words)])


def when_all_measure(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Call `act` once, as soon as every board has reported that it times frames."""
    from edgeloc.benchmarks.commands.fleet import _Bars

    seen: set[str] = set()

    def move(self: _Bars, board: str, report: Mapping[str, Any]) -> None:
        if report["label"] == "latency" and report["done"] and board not in seen:
            seen.add(board)
            if len(seen) == len(BOARDS):
                act()

    monkeypatch.setattr(_Bars, "move", move)


@pytest.mark.slow
@pytest.mark.long
def test_every_board_measures_the_same_and_has_a_file(cluster: Cluster, tmp_path: Path) -> None:
    data = "synthetic?count=8&size=64x64"
    assert fleet_bench(cluster, tmp_path, "--validation", data, "--against", SHIPPED_INT8) == 0
    results = {name: read_result(tmp_path / f"{name}.json") for name in BOARDS}
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.json" for name in BOARDS}
    for result in results.values():
        assert result.complete and result.latency["invoke"].count == 5
        assert result.model.path == str(SHIPPED_INT8)
        assert result.command.startswith(f"edgeloc bench {SHIPPED_INT8} --against {SHIPPED_INT8} --validation")
        assert result.against is not None and result.against.path == str(SHIPPED_INT8)
    assert len({result.regression and result.regression.rows for result in results.values()}) == 1


@pytest.mark.slow
def test_the_dead_the_frozen_and_the_unknown_are_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    psutil = pytest.importorskip("psutil")
    measuring: list[Any] = []

    def harm() -> None:
        measuring.extend(psutil.Process(cluster.pid("orin")).children())
        cluster.kill("orin")
        cluster.freeze("pi4")

    when_all_measure(cluster, monkeypatch, harm)
    (tmp_path / "orin.json").write_text("{}")  # of another day
    status = fleet_bench(
        cluster, tmp_path, "--boards", "orin,pi4,pi5,nano", "--json", frames=20_000, deadline_s=SHORT_S
    )
    printed = capsys.readouterr()
    assert status == 3 and printed.out, printed.err
    boards = json.loads(printed.out)["boards"]
    assert "not connected" in boards["nano"]["error"]
    assert "died" in boards["orin"]["error"]
    assert "frozen" in boards["pi4"]["error"]
    # The one that is alive and too slow says what it measured in its time.
    assert boards["pi5"]["error"] == f"it was not done within {SHORT_S} s"
    assert "holds other results, too (1, as orin.json)" in printed.err
    kept = read_result(tmp_path / "pi5.json")
    assert not kept.complete and kept.latency["total"].count > 0
    # A dead worker leaves no benchmark behind that would disturb the next.
    assert measuring and not any(process.is_running() for process in measuring)


def answer(fleet: Any, *task: Any, deadline_s: float = DEADLINE_S) -> Any:
    """What becomes of one task on the board pi5."""
    fleet.start("pi5", *task, deadline_s=deadline_s)
    (found,) = fleet.answers()
    return found


@pytest.mark.slow
@pytest.mark.long
def test_who_waits_for_another_has_its_whole_time_and_can_leave(cluster: Cluster) -> None:
    from edgeloc.benchmarks.fleet.boards import Fleet

    with Fleet(cluster.address) as first, Fleet(cluster.address) as second:
        first.start("pi5", time.sleep, 8.0, deadline_s=DEADLINE_S)
        found = answer(second, operator.add, 20, 22, deadline_s=6.0)
        assert (found.value, found.lost) == (42, None)
        first.start("pi5", time.sleep, 3.0, deadline_s=DEADLINE_S)
        second.start("pi5", operator.add, 20, 22, deadline_s=DEADLINE_S)
        second.stop()
        (left,) = second.answers()
        assert left.value is None and left.lost == "it had not begun: another benchmark is running there"


@pytest.mark.slow
def test_two_spread_benchmarks_share_a_board(cluster: Cluster, tmp_path: Path) -> None:
    from edgeloc.benchmarks.fleet.boards import Fleet
    from edgeloc.benchmarks.fleet.onboard import SpreadJob, close_images, open_images, place_of, rows
    from edgeloc.benchmarks.options import BenchOptions

    options = BenchOptions(SHIPPED_INT8, tmp_path / "r.json", validation="synthetic?count=4&size=64x64", power="none")
    files = {place_of("model", SHIPPED_INT8): SHIPPED_INT8.read_bytes()}
    with Fleet(cluster.address) as first, Fleet(cluster.address) as second:
        for fleet in (first, second):
            assert answer(fleet, open_images, SpreadJob(fleet.run, options, files)).error is None
        found = [answer(fleet, rows, fleet.run, 0, 4) for fleet in (first, second)]
        assert found[0].error is None and found[0].value == found[1].value
        answer(second, close_images, second.run)
        assert "started again" in str(answer(second, rows, second.run, 0, 4).error)
        assert answer(first, rows, first.run, 0, 1).error is None


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_keeps_what_the_boards_have_measured(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_all_measure(cluster, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert fleet_bench(cluster, tmp_path, frames=20_000) == 130
    for name in BOARDS:
        result = read_result(tmp_path / f"{name}.json")
        assert not result.complete and result.latency["total"].count > 0


@pytest.mark.slow
@pytest.mark.long
def test_images_spread_over_boards_give_the_figures_of_one_process(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One board dies and another freezes in the middle: no image is left out, none is counted twice."""
    from edgeloc.benchmarks.commands.fleet import _Bars

    seen: list[int] = []

    def count(self: _Bars, done: int, total: int) -> None:
        seen.append(done)
        assert total == IMAGES
        if len(seen) == 3:
            cluster.kill("orin")
        elif len(seen) == 4:
            cluster.freeze("pi4")

    monkeypatch.setattr(_Bars, "count", count)
    data = f"synthetic?count={IMAGES}&size=200x200"
    words = ("--validation", data, "--against", SHIPPED_INT8, "--spread")
    assert fleet_bench(cluster, tmp_path / "spread.json", *words, deadline_s=SHORT_S) == 0
    problems = [line for line in capsys.readouterr().err.splitlines() if "board-failed" in line]
    assert sorted(line.split(":")[1].strip() for line in problems) == ["orin", "pi4"]
    assert seen == sorted(seen) and seen[-1] == IMAGES
    spread = read_result(tmp_path / "spread.json")
    alone = bench(
        BenchOptions(SHIPPED_INT8, tmp_path / "alone.json", SHIPPED_INT8, data, frames=1, warmup=0, power="none")
    )
    assert spread.complete and spread.latency == {}
    assert f" {SHIPPED_INT8} " in spread.command and "/tmp" not in spread.command
    assert spread.data == alone.data
    assert spread.regression is not None and alone.regression is not None
    names = [(row.name, row.kind) for row in spread.regression.rows]
    assert names == [(row.name, row.kind) for row in alone.regression.rows] and len(names) == len(set(names))
    assert numbers(spread.regression) == pytest.approx(numbers(alone.regression), abs=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_rows_outlive_the_boards(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloc.benchmarks.commands.fleet import _Bars

    def count(self: _Bars, done: int, total: int) -> None:
        if done:
            for name in cluster.alive:
                cluster.kill(name)

    monkeypatch.setattr(_Bars, "count", count)
    out = tmp_path / "spread.json"
    assert fleet_bench(cluster, out, "--validation", f"synthetic?count={IMAGES}", "--spread") == 3
    result = read_result(out)
    assert not result.complete and result.accuracy is not None and len(result.accuracy.rows) > 0


def numbers(value: Any) -> list[float]:
    """Every number in it, in order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [number for field in dataclasses.fields(value) for number in numbers(getattr(value, field.name))]
    if isinstance(value, Mapping):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, tuple):
        return [number for item in value for number in numbers(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


@pytest.mark.slow
def test_a_damaged_image_ends_a_spread_benchmark_as_it_ends_one_process(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for index in range(24):
        cv2.imwrite(str(data / f"{index:02}.png"), SceneGenerator(1, (80, 80)).scene(index).pixels)
        rows.append({"file": f"{index:02}.png", "box_xyxy": [8, 8, 40, 40], "cls": "thing"})
    (data / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "23.png").write_bytes((data / "23.png").read_bytes()[:200])
    out = tmp_path / "spread.json"
    assert fleet_bench(cluster, out, "--validation", data, "--spread") == 2
    assert "23.png" in capsys.readouterr().err
    assert fleet_bench(cluster, out, "--validation", data, "--spread", "--skip-bad") == 0
    result = read_result(out)
    assert result.complete and result.data is not None and result.data.skipped_names == ("23.png",)


@pytest.mark.slow
@pytest.mark.long
def test_data_that_a_board_does_not_have_is_named(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "photos"
    assert fleet_bench(cluster, tmp_path / "out", "--validation", missing, "--boards", "pi5") == 3
    assert f"pi5: the data set {missing} is not on this board" in capsys.readouterr().err
    assert fleet_bench(cluster, tmp_path / "r.json", "--validation", missing, "--boards", "pi5", "--spread") == 3
    assert f"pi5: the data set {missing} is not on this board" in capsys.readouterr().err


@pytest.mark.slow
def test_who_has_no_certificate_of_the_ca_is_refused(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distributed import Client

    with pytest.raises((OSError, TimeoutError)):
        Client(cluster.address.replace("tls://", "tcp://"), timeout=2, set_as_default=False)
    with trust(make_certificates(tmp_path)):
        assert fleet_bench(cluster, tmp_path / "out") == 3
    assert "no scheduler answers" in capsys.readouterr().err
    with trust(tmp_path / "nowhere"):
        assert fleet_bench(cluster, tmp_path / "out") == 2
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--fleet", "tcp://127.0.0.1:8786"), "--fleet is 'tcp://127.0.0.1:8786': it must be the scheduler's tls://"),
        (
            ("--fleet", "tls://127.0.0.1:8786", "--validation", "photos"),
            "--validation is 'photos': it must be the",
        ),
        (("--fleet", "tls://127.0.0.1:8786", "--out", "a.json"), "--out is 'a.json': it must be a folder"),
        (("--fleet", "tls://127.0.0.1:8786", "--spread"), "no labelled images to share between boards: give --valid"),
        (("--spread",), "shared between the boards of a fleet: give --fleet"),
        (("--boards", "pi5"), "there is no fleet for --boards to mean something: give --fleet, or leave --boards out"),
        (("--deadline", "5"), "there is no fleet for --deadline to mean something"),
        (
            ("--fleet", "tls://h:1", "--spread", "--validation", "synthetic", "--frames", "5"),
            "boards that share images time no frames, so that frames means nothing: leave --frames or --spread out",
        ),
        (("--fleet", "tls://h:1", "--minutes", "3"), "the scenario single-stream has no minutes"),
        (("--frames", "5", "--max-seconds", "1"), "5 frames are timed, however long they take: leave --frames or"),
    ],
)
def test_what_a_fleet_cannot_do_is_refused_first(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(SHIPPED_INT8), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_board_runs_the_same_flags() -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    line = [str(SHIPPED_INT8), "--frames", "7", "--skip-bad", "--validation", "synthetic", "--threads", "2"]
    ours = ["--fleet", "tls://here:8786", "--boards", "pi5", "--out", "somewhere", "--json"]
    arguments = parser.parse_args([*line, *ours])
    job = job_of("run", arguments, command.options(arguments), parser)
    again = parser.parse_args(job.words)
    assert (again.frames, again.skip_bad, again.threads, again.validation) == (7, True, 2, "synthetic")
    assert again.fleet is None and not again.json
    assert job.files == {again.model: SHIPPED_INT8.read_bytes()}


def test_a_contract_beside_the_model_goes_along(tmp_path: Path) -> None:
    network, contract = bare(tmp_path)
    parser = argparse.ArgumentParser()
    command.configure(parser)
    arguments = parser.parse_args([str(network), "--fleet", "tls://here:8786"])
    job = job_of("run", arguments, command.options(arguments), parser)
    assert job.files == {"model/net.tflite": network.read_bytes(), "model/net.json": contract.read_bytes()}


@pytest.mark.parametrize("words", [("card",), ("bench", "--frames", "3")])
def test_the_contract_beside_a_model_is_not_written_over(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, contract = bare(tmp_path)
    before = contract.read_bytes()
    assert main([words[0], str(network), *words[1:], "--out", str(contract)]) == 2
    assert "it is one of the files that are read" in capsys.readouterr().err
    assert contract.read_bytes() == before
    # Beside a model that carries its contract, such a name is free.
    whole = tmp_path / "whole.tflite"
    whole.write_bytes(SHIPPED_INT8.read_bytes())
    for _ in range(2):
        assert main([words[0], str(whole), *words[1:], "--out", str(whole.with_suffix(".json"))]) == 0


def test_nothing_of_dask_is_imported_without_a_fleet(tmp_path: Path) -> None:
    line = ["bench", str(SHIPPED_INT8), "--frames", "2", "--warmup", "0", "--out", str(tmp_path / "r.json")]
    program = f"""
import sys
from edgeloc.cli import main
assert main({line!r}) == 0
sys.exit(", ".join(name for name in sys.modules if name.partition(".")[0] in ("dask", "distributed")) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
