"""Recordings and serial meters: rows that fit, rows that do not, their own clock, and a meter that falls silent."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from edgeloc.device.power import PowerSampler, open_meter
from edgeloc.device.power.recording import SerialMeter, read_recording
from edgeloc.errors import DataError, DeviceError, EdgelocError, MissingExtra
from edgeloc.testing.power import FakeMeter


class Port:
    """A serial port that gives these lines, then nothing."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)

    def readline(self) -> bytes:
        return next(self._lines, b"")

    def close(self) -> None:
        pass


def written(folder: Path, text: str) -> Path:
    (folder / "power.csv").write_text(text)
    return folder / "power.csv"


def test_a_recording_of_watts(tmp_path: Path) -> None:
    trace = read_recording(written(tmp_path, "time_s,watts\n100.0,2.00\n101.0,4.00\n102.5,4.00\n"))
    assert trace.energy(100, 102.5).joules == pytest.approx(3 + 6)
    assert trace.resolution_w == pytest.approx(0.01)


def test_zeros_left_out_at_the_end_do_not_make_a_recording_coarser(tmp_path: Path) -> None:
    trace = read_recording(written(tmp_path, "time_s,watts\n0,2\n1,2.25\n2,2.5\n"))
    assert trace.resolution_w == pytest.approx(0.01)
    trace = read_recording(written(tmp_path, "time_s,volts,amps\n0,5,0.5\n1,5.1,0.45\n"))
    assert trace.resolution_w == pytest.approx(0.5 * 0.1 + 5.1 * 0.01)


def test_a_recording_of_volts_and_amps_among_other_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "Time_s, Volts ,Amps,note\n0,5.0,0.50,a\n2,5.0,0.50,b\n")
    trace = read_recording(path)
    assert trace.energy(0, 2).joules == pytest.approx(5.0)
    assert trace.resolution_w == pytest.approx(0.5 * 0.1 + 5 * 0.01)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no header in its first line: it needs time_s and watts, or volts and amps"),
        ("watts\n1\n2\n", "no column time_s"),
        ("time_s,volts\n0,5\n1,5\n", "volts and amps"),
        ("time_s,watts\n0,1\n", "holds 1 readings"),
        ("time_s,watts\n0,1\n1,x\n", "line 3: 'x' is no number"),
        ("time_s,watts\n0,1\n1,nan\n", "line 3: 'nan' is no number"),
        ("time_s,watts\n0,1\n1,2,3\n", "line 3: 3 cells instead of 2"),
        ("time_s,watts\n1,1\n1,2\n", "line 3: its time is not after"),
    ],
)
def test_a_recording_that_does_not_fit_names_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(EdgelocError, match=says):
        read_recording(written(tmp_path, text))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "power.csv").write_bytes(b"\xff\xfe\x00\x01" * 40)
    with pytest.raises(DataError, match="no CSV file"):
        read_recording(tmp_path / "power.csv")


def test_a_replay_keeps_the_recordings_own_pace(tmp_path: Path) -> None:
    rows = "".join(f"{1000 + index * 0.05 + 0.15 * (index > 3)},{index}\n" for index in range(6))
    path = written(tmp_path, "time_s,watts\n" + rows)
    with open_meter(f"csv://{path}") as meter:
        opened = time.monotonic()
        samples = [meter.read() for _ in range(6)]
        with pytest.raises(DeviceError, match=r"the recording ended after 0\.4 s"):
            meter.read()
    steps = [after.t - before.t for before, after in itertools.pairwise(samples)]
    assert steps == pytest.approx([0.05, 0.05, 0.05, 0.2, 0.05], abs=1e-6)
    assert opened <= samples[0].t <= time.monotonic() - 0.4
    assert [sample.watts["recorded"] for sample in samples] == list(range(6))
    assert meter.replayed


def test_lines_of_a_serial_meter() -> None:
    lines = [b"07,0.4\r\n", b"V A\r\n", b"5.00,0.400\r\n", b"5.00;0.410\r\n", b"5.00 0.420\r\n", b"5.00 0.430\r\n"]
    with SerialMeter("/dev/ttyX", port=Port(lines[1:])) as meter:
        assert meter.read().watts["supply"] == pytest.approx(5 * 0.43)


def test_columns_of_a_serial_meter_may_hold_others() -> None:
    lines = [b"17 5.0 0.4 2.0 23\n"] * 4
    columns = ("count", "volts", "amps", "power", "temperature")
    with SerialMeter("/dev/ttyX", columns=columns, port=Port(lines)) as meter:
        assert meter.read().watts["supply"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "sent nothing for 2 s"),
        ([b"hello\n"] * 9, "'hello', which do not hold volts, amps: name their columns with columns="),
    ],
)
def test_a_serial_meter_that_sends_nothing_of_use(lines: list[bytes], says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        SerialMeter("/dev/ttyX", port=Port(lines)).open()


def test_a_serial_meter_that_is_unplugged() -> None:
    class Unplugged(Port):
        def readline(self) -> bytes:
            line = super().readline()
            if not line:
                raise OSError("device reports readiness to read but returned no data")
            return line

    with (
        SerialMeter("/dev/ttyX", port=Unplugged([b"5,1\n"] * 3)) as meter,
        pytest.raises(DeviceError, match="was unplugged"),
    ):
        meter.read()


def test_a_serial_meter_without_pyserial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "serial", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeloc\[power\]'"):
        open_meter("serial:///dev/ttyX")


def test_a_real_port() -> None:
    """A pseudo-terminal stands in for the meter's cable; pyserial is the real one."""
    pytest.importorskip("serial")
    ours, theirs = os.openpty()
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.01):
            os.write(ours, b"5.00,0.400\r\n")

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with open_meter(f"serial://{os.ttyname(theirs)}") as meter, PowerSampler(meter) as sampler:
            time.sleep(0.3)
        trace = sampler.trace()
        assert trace.energy(float(trace.t[0]), float(trace.t[-1])).mean_w == pytest.approx(2.0)
    finally:
        done.set()
        sender.join()
        os.close(ours)
        os.close(theirs)


def test_a_port_that_is_not_there() -> None:
    pytest.importorskip("serial")
    with pytest.raises(DeviceError, match=r"there is no /dev/ttyNONE; plug the meter in"):
        open_meter("serial:///dev/ttyNONE")


def test_the_sampler_keeps_what_it_read_before_the_meter_was_lost() -> None:
    with FakeMeter(lambda t: 5.0, rate_hz=500, lost_after=20) as meter:
        sampler = PowerSampler(meter)
        sampler.start()
        while sampler.error is None:
            time.sleep(0.005)
        sampler.stop()
    assert len(sampler.samples) == 20
    assert "is gone" in str(sampler.error)
    trace = sampler.trace()
    assert trace.energy(float(trace.t[0]), float(trace.t[-1])).mean_w == pytest.approx(5.0)


def test_the_sampler_refuses_a_meter_that_never_reads() -> None:
    with FakeMeter(lambda t: 5.0, lost_after=0) as meter, pytest.raises(DeviceError, match="is gone"):
        PowerSampler(meter).start()


def test_a_driver_that_raises_anything_ends_as_a_sentence() -> None:
    def broken(t: float) -> float:
        raise ZeroDivisionError("division by zero")

    with (
        FakeMeter(broken) as meter,
        pytest.raises(DeviceError, match="power meter fake failed: division by zero"),
    ):
        PowerSampler(meter).start()


def test_the_sampler_integrates_a_power_that_changes() -> None:
    with FakeMeter(lambda t: 2.0 + t, rate_hz=200) as meter, PowerSampler(meter) as sampler:
        time.sleep(0.4)
    trace = sampler.trace()
    start, end = float(trace.t[1]), float(trace.t[-2])
    estimate = trace.energy(start, end)
    exact = (trace.watts[1] + trace.watts[-2]) / 2 * (end - start)  # type: ignore[index]
    assert estimate.joules == pytest.approx(exact, rel=0.01)
