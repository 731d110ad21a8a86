#!/opt/edgeloc/bin/python3
"""In the guest of guest.sh: INA219 and INA3221 on a stub bus, through the kernel's own drivers, read by our meters."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from smbus2 import SMBus

from edgeloc.device.power import PowerSampler, find_meters, open_meter
from edgeloc.errors import EdgelocError

INA3221, INA219, BARE = 0x40, 0x41, 0x42
# The drivers' own shunt where no device tree tells one.
SHUNT_OHM = 0.01
STEPS_W = (4.08, 8.16)
failed = 0


def check(what: str, good: bool, said: object) -> None:
    """One line of the report."""
    global failed
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {what}: {said}", flush=True)


def sentence(what: str, call, *words: str) -> None:
    """The call must fail, and its sentence must hold these words."""
    try:
        check(what, False, call())
    except EdgelocError as error:
        check(what, all(word in str(error) for word in words), error)


def put(bus: SMBus, chip: int, register: int, value: int) -> None:
    """Chips send the high byte first, SMBus the low one."""
    bus.write_word_data(chip, register, (value & 0xFF) << 8 | value >> 8)


def set_ina219(bus: SMBus, chip: int, volts: float, amps: float) -> None:
    """What the chip's registers would hold, for the stub computes nothing; the driver's steps are 1 mA and 20 mW."""
    put(bus, chip, 2, round(volts / 4e-3) << 3)
    put(bus, chip, 1, round(amps * SHUNT_OHM / 10e-6))
    put(bus, chip, 4, round(amps / 1e-3))
    put(bus, chip, 3, round(volts * amps / 20e-3))


def set_ina3221(bus: SMBus, channels: list[tuple[float, float]]) -> None:
    """Volts and amps of the three channels, and the flag that a conversion is through."""
    for number, (volts, amps) in enumerate(channels):
        put(bus, INA3221, 2 * number + 1, round(amps * SHUNT_OHM / 40e-6) << 3)
        put(bus, INA3221, 2 * number + 2, round(volts / 8e-3) << 3)
    put(bus, INA3221, 0x0F, 0x0003)


def stub_bus() -> int:
    """The number of the bus that i2c-stub makes, with three chips on it."""
    for module in (("i2c-dev",), ("i2c-stub", f"chip_addr={INA3221},{INA219},{BARE}"), ("ina2xx",), ("ina3221",)):
        subprocess.run(["modprobe", *module], check=True)
    adapters = Path("/sys/bus/i2c/devices").glob("i2c-*")
    return next(int(path.name[4:]) for path in adapters if "stub" in (path / "name").read_text().lower())


def told(bus: int, file: str, text: str) -> None:
    """Tell the bus of a chip that is there, or gone."""
    Path(f"/sys/bus/i2c/devices/i2c-{bus}/{file}").write_text(text)
    time.sleep(0.5)


def tree() -> None:
    """The files that the drivers made, as they are."""
    for folder in sorted(Path("/sys/class/hwmon").glob("hwmon*")):
        files = {path.name: path for path in folder.iterdir() if path.name.endswith(("_input", "_label", "_resistor"))}
        values = []
        for name, path in sorted(files.items()):
            try:
                values.append(f"{name}={path.read_text().strip()}")
            except OSError as error:
                values.append(f"{name}: {error.strerror}")
        print(f"     {folder.name} {(folder / 'name').read_text().strip()}: {' '.join(values)}")


def powers(uri: str) -> dict[str, float]:
    """One reading, W by rail."""
    with open_meter(uri) as meter:
        print(f"     {meter.source}; {meter.rate_hz:g} Hz; resolution {meter.resolution_w * 1e3:.0f} mW")
        return dict(meter.read().watts)


def near(found: float, wanted: float, step: float) -> bool:
    """Within one step of the sensor."""
    return abs(found - wanted) <= step


def drivers(bus: SMBus, number: int) -> None:
    """Each driver's tree, read by name and by what `auto` finds."""
    rails = powers("hwmon://ina219")
    check("INA219 through ina2xx, 5.1 V x 0.8 A", near(sum(rails.values()), STEPS_W[0], 0.02), rails)
    rails = powers("hwmon://ina3221")
    wanted = (5.08 * 1.5, 1.0 * 0.4, 3.3 * 0.25)
    steps = (0.035, 0.01, 0.015)
    good = len(rails) == 3 and all(map(near, rails.values(), wanted, steps))
    check("INA3221, 5.08 V x 1.5 A, 1 V x 0.4 A, 3.3 V x 0.25 A", good, rails)
    found = find_meters()
    for uri, finding in found.items():
        print(f"     {uri}: {finding.severity}: {finding}")
    readable = sum(finding.severity == "ok" for finding in found.values())
    check("found by themselves", readable >= 2, "INA219 and INA3221")
    sentence(
        "ina219:// on a chip that a driver holds",
        lambda: powers(f"ina219://{number}/{INA219:#x}?shunt=0.01"),
        "hwmon://",
    )
    sentence("two chips of a kind that is not there", lambda: powers("hwmon://ina226"), "ina219", "ina3221")


def without_driver(bus: SMBus, number: int) -> None:
    """The same registers through I2C alone; the settings are put back."""
    set_ina219(bus, BARE, 5.1, 0.8)
    put(bus, BARE, 0, 0x399F)
    rails = powers(f"ina219://{number}/{BARE:#x}?shunt={SHUNT_OHM}")
    check("INA219 by I2C, 5.1 V x 0.8 A", near(sum(rails.values()), STEPS_W[0], 0.01), rails)
    check("its settings are as before", bus.read_word_data(BARE, 0) == 0x9F39, hex(bus.read_word_data(BARE, 0)))
    sentence("an address where no chip is", lambda: powers(f"ina219://{number}/0x44?shunt=0.01"), "i2cdetect")


def energy(bus: SMBus) -> None:
    """A load that steps up in the middle, sampled through the driver: its energy is known."""
    with open_meter("hwmon://ina219") as meter:
        sampler = PowerSampler(meter)
        sampler.start()
        time.sleep(0.5)
        start = time.monotonic()
        time.sleep(3)
        set_ina219(bus, INA219, 5.1, 1.6)
        step = time.monotonic()
        time.sleep(3)
        end = time.monotonic()
        time.sleep(0.5)
        sampler.stop()
    found = sampler.trace().energy(start, end)
    truth = STEPS_W[0] * (step - start) + STEPS_W[1] * (end - step)
    said = (
        f"{found.joules:.3f} J of {truth:.3f} J, told to within {found.uncertainty_j:.3f} J, {found.samples} readings"
    )
    check("energy within 1 %", abs(found.joules - truth) < 0.01 * truth, said)
    check("its uncertainty covers the truth", abs(found.joules - truth) <= found.uncertainty_j, said)


def unplugged(number: int) -> None:
    """The chip goes while it is read."""
    with open_meter("hwmon://ina219") as meter:
        sampler = PowerSampler(meter)
        sampler.start()
        threading.Timer(1, told, (number, "delete_device", f"{INA219:#x}")).start()
        time.sleep(3)
        sampler.stop()
    check("unplugged in the middle: the readings stay", len(sampler.samples) > 2, f"{len(sampler.samples)} readings")
    check("unplugged in the middle: said in a sentence", sampler.error is not None, sampler.error)


def main() -> int:
    """All of it; the exit status is 1 where anything is not as it should be."""
    number = stub_bus()
    # The chips' own side of the bus: it writes whoever holds them.
    with SMBus(number, force=True) as bus:
        set_ina219(bus, INA219, 5.1, 0.8)
        set_ina3221(bus, [(5.08, 1.5), (1.0, 0.4), (3.3, 0.25)])
        told(number, "new_device", f"ina3221 {INA3221:#x}")
        told(number, "new_device", f"ina219 {INA219:#x}")
        tree()
        drivers(bus, number)
        without_driver(bus, number)
        energy(bus)
        unplugged(number)
    return int(failed > 0)


sys.exit(main())
