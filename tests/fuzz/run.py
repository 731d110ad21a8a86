"""Open thousands of hostile model files, and count what becomes of them: `make fuzz`, or this program by hand.

    python tests/fuzz/run.py --seed 7 --count 10000 --out out/fuzz
    python tests/fuzz/run.py --file out/fuzz/failures/12-zip.tflite

Each file is one of five whole models with a mutation of its bytes, its zip, its contract, its self-test or its
network's schema; seed and number alone decide which. It goes through `edgeloc inspect`, a Localizer and its self-test
in a process that should outlive it. The results are appended to results.jsonl one by one, and a run that was
interrupted goes on where it stopped. The exit status is 1 when a file ended its process, raised an error that is not
one of edgeloc's own, took longer than 10 s or more than 1 GB, or left a process behind; failures/ holds such files.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import select
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from models import make_bases

LIMIT_S, LIMIT_MB = 10.0, 1024.0
# When a worker is killed, to spare the machine.
KILL_S, KILL_MB = 60.0, 3072.0
FILES_A_WORKER = 500
COLUMNS = ("refused by load", "refused by call", "self-test differs", "passed", "failure")


class Worker:
    """One process of worker.py, and what it and its children take."""

    program = Path(__file__).with_name("worker.py")

    def __init__(self, folder: Path, bases: Path, seed: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.log, self.done, self._said = folder / "log", 0, b""
        line = [sys.executable, str(self.program), str(bases), str(seed), str(folder)]
        # A cache of its own: a model that was tried before would be loaded without a trial.
        variables = {**os.environ, "XDG_CACHE_HOME": str(folder.resolve() / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            line, stdin=pipe, stdout=pipe, env=variables, bufsize=0, start_new_session=True
        )
        if "ready" not in (answer := self._read(120.0)):
            raise RuntimeError(f"the worker does not start: {answer}")

    def check(self, task: str) -> dict[str, Any]:
        """What became of a file; a worker that ended has told at least which file it was."""
        assert self._process.stdin is not None
        self.done += 1
        start = time.monotonic()
        self._process.stdin.write(f"{task}\n".encode())
        made = self._read(KILL_S)
        answer = self._read(KILL_S) if "made" in made else made
        record = {"file": task, **made, **answer}
        record.setdefault("seconds", round(time.monotonic() - start, 1))
        left = [] if self.is_over else self._descendants()[1:]
        if left and not record.get("failure"):
            record["failure"] = f"left {len(left)} process(es) behind"
        return {**record, "failure": record.get("failure") or _beyond_limits(record)}

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def _read(self, limit_s: float) -> dict[str, Any]:
        """The next line, while the time and the memory of the process and its children are watched."""
        assert self._process.stdout is not None
        stream, end = self._process.stdout, time.monotonic() + limit_s
        while b"\n" not in self._said:
            if select.select([stream], [], [], 0.1)[0]:
                said = stream.read(1 << 16)
                if not said:
                    return self._died()
                self._said += said
            memory = sum(map(_resident_mb, self._descendants()))
            if memory > KILL_MB:
                return self._killed(f"more than {KILL_MB:.0f} MB at once", memory_mb=memory)
            if time.monotonic() > end:
                return self._killed(f"did not end within {limit_s:.0f} s", seconds=limit_s)
        line, _, self._said = self._said.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self) -> dict[str, Any]:
        status = self._process.wait()
        tail = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
        return {"outcome": "died", "failure": f"ended its process with status {status}", "trace": tail}

    def _killed(self, why: str, **figures: float) -> dict[str, Any]:
        self._kill()
        return {"outcome": "killed", "failure": why, **figures}

    def _descendants(self) -> list[int]:
        found = [self._process.pid]
        for pid in found:
            try:
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
        return found

    def close(self) -> None:
        """End the worker and what it started."""
        self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _kill(self) -> None:
        for pid in reversed(self._descendants()):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self._process.wait()


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def _beyond_limits(record: dict[str, Any]) -> str:
    if record.get("seconds", 0) > LIMIT_S:
        return f"took {record['seconds']:.1f} s"
    if record.get("memory_mb", 0) > LIMIT_MB:
        return f"took {record['memory_mb']:.0f} MB"
    return ""


class Run:
    """All files of one seed: what is done already, what is to do, and where the results go."""

    def __init__(self, out: Path, seed: int, count: int, jobs: int) -> None:
        self.out, self.seed, self.jobs = out, seed, jobs
        self.bases = out / "bases"
        make_bases(self.bases)
        self._results = out / "results.jsonl"
        self.records = list(_read_results(self._results, seed))
        done = {record["file"] for record in self.records}
        self._tasks: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(count):
            if number not in done:
                self._tasks.put(number)
        self._again: set[int] = set()
        self.total, self._lock = count, threading.Lock()
        self._stop = threading.Event()

    def go(self) -> None:
        """Work until all is done; Ctrl-C ends it after the files at hand."""
        threads = [threading.Thread(target=self._work, args=(index,)) for index in range(self.jobs)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(1.0)
        except KeyboardInterrupt:
            self._stop.set()
            print("stopping; the same command goes on from here", file=sys.stderr)
            for thread in threads:
                thread.join()

    def _work(self, index: int) -> None:
        folder = self.out / f"worker-{index}"
        worker = Worker(folder, self.bases, self.seed)
        try:
            while not self._stop.is_set():
                try:
                    number = self._tasks.get_nowait()
                except queue.Empty:
                    return
                record = worker.check(str(number))
                if record["failure"].startswith(("took", "did not end")) and number not in self._again:
                    # The machine may have been busy with something else: once more, behind all the others.
                    self._again.add(number)
                    self._tasks.put(number)
                else:
                    self._keep({**record, "file": number})
                if record["failure"] or worker.is_over or worker.done >= FILES_A_WORKER:
                    worker.close()
                    worker = Worker(folder, self.bases, self.seed)
                _remove(record.get("made"))
        finally:
            worker.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _keep(self, record: dict[str, Any]) -> None:
        made = record.pop("made", None)
        with self._lock:
            if record["failure"]:
                self._keep_failure(record, made)
            self.records.append(record)
            with self._results.open("a", encoding="utf-8") as results:
                results.write(json.dumps({"seed": self.seed, **record}) + "\n")
            if len(self.records) % 100 == 0:
                print(f"{len(self.records)} of {self.total}", file=sys.stderr, flush=True)

    def _keep_failure(self, record: dict[str, Any], made: str | None) -> None:
        folder = self.out / "failures"
        folder.mkdir(exist_ok=True)
        again = f"--seed {self.seed} --only {record['file']}"
        if made and Path(made).is_file():
            again = f"--file {shutil.copy(made, folder)}"
            with suppress(FileNotFoundError):
                shutil.copy(Path(made).with_suffix(".json"), folder)
        what = f"{record.get('base')}, {record.get('what')}"
        line = f"{record['failure']}: {what}; python tests/fuzz/run.py {again}"
        print(line, file=sys.stderr, flush=True)
        with (folder / "failures.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n{record.get('trace', '')}\n")


def _remove(made: str | None) -> None:
    if made:
        Path(made).unlink(missing_ok=True)
        Path(made).with_suffix(".json").unlink(missing_ok=True)


def _read_results(path: Path, seed: int) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # the run was killed while it wrote
        path.write_text(whole, encoding="utf-8")
    for line in whole.splitlines():
        record = json.loads(line)
        if record.pop("seed") != seed:
            raise SystemExit(f"{path} is of another seed: give another folder with --out")
        yield record


def table(records: list[dict[str, Any]]) -> str:
    """Outcomes by kind of mutation, and the most that a file took."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        counts.setdefault(record.get("kind", "?"), Counter())[_column(record)] += 1
    lines = [" | ".join(("kind", "files", *COLUMNS)), " | ".join(["---"] * (len(COLUMNS) + 2))]
    for kind, found in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        lines.append(" | ".join((kind, str(found.total()), *(str(found[column]) for column in COLUMNS))))
    slowest = max((record.get("seconds", 0.0) for record in records), default=0.0)
    largest = max((record.get("memory_mb", 0.0) for record in records), default=0.0)
    seconds = sum(record.get("seconds", 0.0) for record in records)
    return "\n".join([*lines, "", f"longest {slowest:.1f} s, most memory {largest:.0f} MB, {seconds:.0f} s in all"])


def _column(record: dict[str, Any]) -> str:
    if record["failure"]:
        return "failure"
    step = record["outcome"].split(":")[0]
    return {"load": "refused by load", "call": "refused by call", "self-test": "self-test differs"}.get(step, "passed")


def main() -> int:
    """Run the program; 1 when a file failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--seed", type=int, default=0, help="which files (default: %(default)s)")
    add("--count", type=int, default=10_000, help="how many (default: %(default)s)")
    add("--out", type=Path, default=Path("out/fuzz"), help="where results go (default: %(default)s)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="workers at once (default: one for each core)")
    add("--only", type=int, metavar="N", help="make and check this one file of the seed")
    add("--file", type=Path, nargs="+", help="check these files alone, and print what became of them")
    args = parser.parse_args()
    if args.file or args.only is not None:
        tasks = [str(path.resolve()) for path in args.file or ()] or [str(args.only)]
        return _check_given(args.out, args.seed, tasks)
    run = Run(args.out, args.seed, args.count, args.jobs)
    start = time.monotonic()
    run.go()
    print(table(run.records), f"{time.monotonic() - start:.0f} s this time, seed {args.seed}", sep="\n")
    return 1 if any(record["failure"] for record in run.records) else 0


def _check_given(out: Path, seed: int, tasks: list[str]) -> int:
    make_bases(out / "bases")
    failed = False
    for task in tasks:
        worker = Worker(out / "worker-given", out / "bases", seed)
        record = worker.check(task)
        worker.close()
        failed = failed or bool(record["failure"])
        print(json.dumps(record, indent=2), record.get("trace", ""), sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
