"""A run at full speed for many minutes, with a fault every few seconds from a seeded script.

    python tests/soak/run.py --minutes 20 --seed 1

Faults: a camera that stalls, is unplugged, freezes, turns black or sends what cannot be decoded; an engine that fails,
answers NaN, hangs and crashes in its own process; a disk that is full, a broker and a server that go away; slow and
hostile clients of the page. At the end: was each fault one finding, did each result reach the lossless sink once and in
order, did memory, threads and descriptors stay where they were after the first minute?

The full disk needs root (a small tmpfs), the broker mosquitto; without them their faults are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeloc import Localizer, Observation, RunSummary, open_engine, read_model, run
from edgeloc.cameras.reconnect import ReconnectingCamera
from edgeloc.loop import outlets
from edgeloc.models import SHIPPED_INT8
from edgeloc.sinks.web import HttpSink
from edgeloc.testing import FakeCamera

FPS, SIZE = 60.0, (320, 240)
MOST_GROWTH = 0.05
# What is watched from here on, in seconds: pages, caches and pools have filled.
SETTLED_S = 60.0
# Faults of one part leave it time to heal, and last longer than the camera is ever away, so that somebody notices.
OFTEN, SELDOM, AWAY_S = (7.0, 11.0), (45.0, 60.0), (6.0, 9.0)
EVERY_S = {"camera": (11.0, 15.0), "engine": OFTEN, "disk": SELDOM, "broker": SELDOM, "server": SELDOM}
# The finding with which each fault begins.
FINDING = {
    "stall": "camera-away", "unplug": "camera-away", "freeze": "camera-frozen", "black": "camera-black",
    "fail": "inference-failed", "nan": "inference-failed", "hang": "inference-failed", "crash": "inference-failed",
    "disk": "sink-down", "broker": "sink-down", "server": "sink-down",
}  # fmt: skip


@dataclass
class Script:
    """What happens when; times in seconds from the start."""

    seconds: float
    seed: int
    camera: dict[str, dict[int, Any]] = field(default_factory=dict)
    engine: dict[str, list[int]] = field(default_factory=dict)
    others: list[tuple[float, str]] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        values: dict[str, Callable[[], Any]] = {
            "stall": lambda: chance.uniform(2.6, 3.6),
            "unplug": lambda: chance.uniform(0.5, 2.0),
            "freeze": lambda: chance.uniform(2.5, 3.5),
            "black": lambda: chance.randint(60, 150),
            "corrupt": lambda: chance.randint(1, 5),
        }
        for at in self._times(chance, "camera"):
            kind = chance.choice(list(values))
            self.camera.setdefault(kind, {})[round(at * FPS)] = values[kind]()
            self.count[kind] += 1
        for at in self._times(chance, "engine"):
            # By the number of the invoke: there are fewer of them than frames.
            kind = chance.choice(("fail", "nan", "hang", "crash"))
            self.engine.setdefault(kind, []).append(round(at * FPS * 0.75))
        for part in ("disk", "broker", "server"):
            self.others += [(at, part) for at in self._times(chance, part)]
        self.others.sort()

    def _times(self, chance: random.Random, part: str) -> Iterator[float]:
        at = 10.0
        # The last faults have time to heal.
        while at < self.seconds - 40:
            yield at
            at += chance.uniform(*EVERY_S[part])


class Watch:
    """Samples of memory, threads and descriptors of this process."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, int, int]] = []

    def sample(self, at_s: float) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        descriptors = len(os.listdir("/proc/self/fd"))
        self.samples.append((at_s, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, threading.active_count(), descriptors))

    def growth(self) -> tuple[float, float]:
        """Memory in MB: the most in the minute after it has settled, and the most in the last minute."""
        end = self.samples[-1][0]
        early = [mb for at, mb, _, _ in self.samples if SETTLED_S <= at < 2 * SETTLED_S]
        late = [mb for at, mb, _, _ in self.samples if at >= end - 60]
        return max(early), max(late)

    def spread(self, column: int) -> tuple[int, int]:
        """The same of threads (2) and descriptors (3)."""
        end = self.samples[-1][0]
        early = [int(one[column]) for one in self.samples if SETTLED_S <= one[0] < 2 * SETTLED_S]
        late = [int(one[column]) for one in self.samples if one[0] >= end - 60]
        return max(early), max(late)


class Broker:
    """A mosquitto that goes away and comes back."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        folder.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [_mosquitto() or "mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def away(self, seconds: float) -> None:
        self.stop()
        time.sleep(seconds)
        self.start()


class Server:
    """A server of lines that goes away and comes back."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._drain, args=(connection,), daemon=True).start()

    @staticmethod
    def _drain(connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(65536):
                pass

    def stop(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections = []

    def away(self, seconds: float) -> None:
        self.stop()
        time.sleep(seconds)
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()


class BadClients:
    """Clients of the page: some read, some do not, some send nonsense."""

    def __init__(self, sink: HttpSink, seed: int) -> None:
        self._sink, self._chance, self._stop = sink, random.Random(seed), threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()

    def _visit(self) -> None:
        while not self._stop.wait(self._chance.uniform(0.2, 1.0)):
            with suppress(OSError), ExitStack() as stack:
                self._one(stack)

    def _one(self, stack: ExitStack) -> None:
        kind = self._chance.choice(("result", "metrics", "slow", "half", "garbage", "large"))
        if kind in ("result", "metrics"):
            urllib.request.urlopen(f"{self._sink.name}/{kind}", timeout=5).read()
            return
        data = {
            "slow": b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "half": b"GET /stream HTTP/1.1\r\nHo",
            "garbage": self._chance.randbytes(2000),
            "large": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000,
        }[kind]
        client = stack.enter_context(socket.create_connection(("127.0.0.1", self._sink.port), timeout=2))
        client.sendall(data)
        self._stop.wait(self._chance.uniform(0.1, 2.0))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system that can be filled; None where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    try:
        yield None if mounted.returncode else folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(folder: Path, seconds: float) -> None:
    """Leave no byte free for a while."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(2**20)):
            pass
    with open(filler, "ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(64)):
            pass
    time.sleep(seconds)
    filler.unlink()


def _mosquitto() -> str | None:
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def engine_uri(script: Script) -> str:
    """The real model's answers are not needed: the fake engine answers at once, and fails by the script."""
    texts = {
        "hang": ",".join(f"{at}:5" for at in script.engine.get("hang", [])),
        "crash": ",".join(map(str, script.engine.get("crash", []))),
        "fail": ",".join(map(str, script.engine.get("fail", []))),
        "nan": ",".join(map(str, script.engine.get("nan", []))),
    }
    return "fake://?" + "&".join(f"{name}={text}" for name, text in texts.items() if text)


def soak(script: Script, folder: Path) -> list[str]:
    """Run, and return what did not hold."""
    model = read_model(SHIPPED_INT8)
    localizer = Localizer(model, open_engine(engine_uri(script), model, deadline_ms=400))
    events = {{"unplug": "disconnect"}.get(kind, kind): at for kind, at in script.camera.items()}
    camera = ReconnectingCamera(FakeCamera(size=SIZE, fps=FPS, seed=script.seed, **events), frozen_s=1.0)
    page, watch, seen = HttpSink("127.0.0.1", 0), Watch(), Counter[str]()
    sinks: list[Any] = [page, lambda one: count(one, seen)]
    with ExitStack() as stack, camera:
        disk = stack.enter_context(small_disk(folder / "disk"))
        lines = (disk or folder) / "soak.jsonl"
        sinks.append(str(lines))
        parts: dict[str, Callable[[float], None]] = {}
        if disk is not None:
            parts["disk"] = lambda seconds: fill(disk, seconds)
        if _mosquitto():
            broker = Broker(folder)
            stack.callback(broker.stop)
            sinks.append(f"mqtt://127.0.0.1:{broker.port}/soak?discovery=0")
            parts["broker"] = broker.away
        server = Server()
        stack.callback(server.stop)
        sinks.append(f"tcp://127.0.0.1:{server.port}")
        parts["server"] = server.away
        stop = threading.Event()
        driver = threading.Thread(target=drive, args=(script, parts, watch, page, stop), daemon=True)
        driver.start()
        summary = run(camera, localizer, *sinks)
        stop.set()
        driver.join()
        return judge(script, parts, summary, watch, lines, seen)


def count(observation: Observation, seen: Counter[str]) -> None:
    """Faults as they reach a sink that keeps the newest alone."""
    seen.update(finding.code for finding in observation.findings)


def drive(
    script: Script, parts: dict[str, Callable[[float], None]], watch: Watch, page: HttpSink, stop: threading.Event
) -> None:
    """Cause the faults of disk, broker and server, sample, and end the run."""
    began_at, chance, todo = time.monotonic(), random.Random(script.seed), list(script.others)
    while not page.port:
        time.sleep(0.05)
    bad_clients = BadClients(page, script.seed)
    while (now := time.monotonic() - began_at) < script.seconds and not stop.is_set():
        while todo and todo[0][0] <= now:
            _, part = todo.pop(0)
            if part in parts:
                script.count[part] += 1
                threading.Thread(target=parts[part], args=(chance.uniform(*AWAY_S),), daemon=True).start()
        watch.sample(now)
        if int(now) % 60 == 0:
            at, mb, threads, descriptors = watch.samples[-1]
            print(f"{at:6.0f} s: {mb:.1f} MB, {threads} threads, {descriptors} descriptors", flush=True)
        time.sleep(1)
    bad_clients.stop()
    os.kill(os.getpid(), signal.SIGINT)


def judge(
    script: Script,
    parts: dict[str, Callable[[float], None]],
    summary: RunSummary,
    watch: Watch,
    lines: Path,
    seen: Counter[str],
) -> list[str]:
    """What did not hold, after a table of what there was."""
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    numbers = [record["sequence"] for record in records]
    found = Counter(finding["code"] for record in records for finding in record.get("findings", ()))
    for kind, times in script.engine.items():
        script.count[kind] = sum(at < summary.frames + summary.failed for at in times)
    expected = Counter[str]()
    for kind, number in script.count.items():
        if kind in FINDING:
            expected[FINDING[kind]] += number
    early, late = watch.growth()
    print(summary)
    print("faults:", dict(script.count), "left out:", [one for one in ("disk", "broker") if one not in parts])
    print("findings:", dict(found))
    for sink in summary.sinks:
        print(f"{sink.name}: {sink.delivered} delivered, {sink.skipped} skipped, p50 {sink.delivered_ms_p50:.1f} ms")
    print(f"memory {early:.1f} -> {late:.1f} MB ({late / early - 1:+.1%}); threads, descriptors (most in a minute):",
          watch.spread(2), watch.spread(3))  # fmt: skip
    wrong = [
        f"{code}: {number} faults, {found[code]} findings" for code, number in expected.items() if found[code] != number
    ]
    if numbers != sorted(set(numbers)):
        wrong.append("results in the .jsonl are out of order or twice")
    if len(records) != summary.frames:
        wrong.append(f"the .jsonl has {len(records)} of {summary.frames} results")
    if late > early * (1 + MOST_GROWTH):
        wrong.append(f"memory grew by {late / early - 1:.1%}")
    for name, column in (("threads", 2), ("descriptors", 3)):
        before, after = watch.spread(column)
        if after > before + 3:
            wrong.append(f"{name} grew from {before} to {after}")
    if seen != found:
        wrong.append(f"a sink that skips saw other findings: {dict(seen)}")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Soak and report; exit status 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    logging.getLogger("edgeloc").addHandler(logging.NullHandler())
    logging.getLogger("edgeloc").propagate = False
    # The pauses of a sink that failed before stay short, so that faults every few seconds heal in between.
    outlets.SETTLED_S = 5.0
    with tempfile.TemporaryDirectory(prefix="edgeloc-soak-") as folder:
        wrong = soak(Script(args.minutes * 60, args.seed), Path(folder))
    print("held" if not wrong else "did not hold:\n" + "\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
