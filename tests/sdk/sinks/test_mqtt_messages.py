"""The MQTT sink without a broker: its URI, what Home Assistant is told, and what a missing part says."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeloc.errors import MissingExtra, OutputError, UsageError
from edgeloc.sinks import open_sink
from edgeloc.sinks.mqtt.connection import Broker
from edgeloc.sinks.mqtt.sink import MqttSink, device_id, discovery
from edgeloc.testing import example_frame, example_observation

SECRET = "S3cr3t"


def opened(uri: str) -> MqttSink:
    sink = open_sink(uri)
    assert isinstance(sink, MqttSink)
    return sink


@pytest.mark.parametrize(
    ("uri", "broker", "prefix"),
    [
        ("mqtt://broker", Broker("broker"), f"edgeloc/{device_id()}"),
        ("mqtt://broker/?id=deck", Broker("broker"), "edgeloc/deck"),
        ("mqtt://broker:1884/a/b/", Broker("broker", 1884), "a/b"),
        ("mqtts://me@[::1]:8884/a", Broker("::1", 8884, True, user="me"), "a"),
        ("mqtts://broker/a?ca=ca.crt", Broker("broker", None, True, "ca.crt"), "a"),
        ("mqtt://me%40home@broker/a?password_file=p", Broker("broker", user="me@home", password_file="p"), "a"),
        (f"mqtt://me:a@{SECRET}/:b@broker:1/a", Broker("broker", 1, user="me", password=f"a@{SECRET}/:b"), "a"),
    ],
)
def test_a_uri_names_broker_user_and_prefix(uri: str, broker: Broker, prefix: str) -> None:
    sink = opened(uri)
    assert (sink.broker, sink.prefix) == (broker, prefix)
    assert sink.name == f"{broker}/{prefix}"
    assert SECRET not in f"{sink.name} {broker!r}" and "me" not in sink.name


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("mqtt://", "names no broker"),
        ("mqtt:///robots", "names no broker"),
        ("mqtt://me@/robots", "names no broker"),
        ("mqtt://a..b", "the name or the address of a broker"),
        ("mqtt://broker:70000", "port is 70000: it must be 1 to 65535"),
        ("mqtt://broker/a/+/b", r"prefix is 'a/\+/b'"),
        ("mqtt://broker/$SYS", "begins with no \\$"),
        ("mqtt://broker?id=a b", "id is 'a b'.*letters, digits"),
        ("mqtt://broker?picture=yes", "picture=yes must be 1 or 0"),
        ("mqtt://broker?qos=2", "no option 'qos'"),
        ("mqtt://broker?ca=ca.crt", "write mqtts://"),
        ("mqtt://broker?password_file=p", "a password needs a user"),
        (f"mqtt://:{SECRET}@broker", "a password needs a user"),
    ],
)
def test_a_uri_that_cannot_work_is_refused(uri: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        open_sink(uri)
    assert SECRET not in str(caught.value)


def test_the_devices_name_stays_and_gives_no_id_away(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "other-id").write_text("0123456789abcdef0123456789abcdee\n")
    name = device_id(tmp_path / "machine-id")
    assert name == device_id(tmp_path / "machine-id") != device_id(tmp_path / "other-id")
    assert re.fullmatch("[0-9a-f]{12}", name) and name not in "0123456789abcdef0123456789abcdef"
    assert device_id(tmp_path / "none") == device_id(tmp_path / "neither")


# What Home Assistant demands of a device's message: homeassistant/components/mqtt/schemas.py, the schemas of the
# platforms beside it, and the units in homeassistant/components/sensor/const.py.
DEVICE = {"ids", "cns", "name", "mf", "mdl", "mdl_id", "hw", "sw", "sn", "sa", "cu", "via_device"}
ORIGIN = {"name", "sw", "url"}
SHARED = {"state_topic", "command_topic", "availability_topic", "payload_available", "payload_not_available"}
ENTITY = {"p", "name", "unique_id", "default_entity_id", "icon", "entity_category", "enabled_by_default"}
STATE = {"state_topic", "value_template", "expire_after", "device_class", "force_update", "json_attributes_topic"}
PLATFORMS = {
    "binary_sensor": STATE | {"payload_on", "payload_off", "off_delay"},
    "sensor": STATE | {"unit_of_measurement", "state_class", "suggested_display_precision", "options"},
    "camera": {"topic", "image_encoding"},
}
REQUIRED = {"binary_sensor": "state_topic", "sensor": "state_topic", "camera": "topic"}
UNITS = {"duration": {"d", "h", "min", "s", "ms"}, "frequency": {"Hz", "kHz", "MHz", "GHz"}}


def faults(message: dict[str, Any]) -> list[str]:
    """What Home Assistant would refuse, or leave out with a warning."""
    found = [f"{key} is missing" for key in ("dev", "o", "cmps") if not message.get(key)]
    found += [f"unknown: {key}" for key in set(message) - SHARED - {"dev", "o", "cmps"}]
    device, origin, entities = (message.get(key, {}) for key in ("dev", "o", "cmps"))
    if not (device.get("ids") or device.get("cns")):
        found.append("a device needs ids or connections")
    found += [f"unknown: {key}" for key in (set(device) - DEVICE) | (set(origin) - ORIGIN)]
    if not origin.get("name"):
        found.append("an origin needs a name")
    if len({entity.get("unique_id") for entity in entities.values()}) < len(entities):
        found.append("unique_id is missing or not unique")
    shared = {key: message[key] for key in message if key in SHARED}
    return found + [fault for key, entity in entities.items() for fault in entity_faults(key, entity, shared)]


def entity_faults(key: str, entity: dict[str, Any], shared: dict[str, Any]) -> list[str]:
    platform = entity.get("p", "")
    if platform not in PLATFORMS:
        return [f"{key}: no platform {platform!r}"]
    found = [f"{key}: unknown: {name}" for name in set(entity) - ENTITY - PLATFORMS[platform]]
    if REQUIRED[platform] not in {**shared, **entity}:
        found.append(f"{key}: {REQUIRED[platform]} is missing")
    if not entity.get("unique_id"):
        found.append(f"{key}: unique_id is missing")
    if not isinstance(entity.get("expire_after", 1), int) or entity.get("expire_after", 1) < 1:
        found.append(f"{key}: expire_after is no whole number of seconds")
    topics = [value for name, value in {**shared, **entity}.items() if name.endswith("topic")]
    found += [f"{key}: topic {topic!r}" for topic in topics if not topic or re.search(r"[+#\0]", topic)]
    return found + (measurement_faults(key, entity) if platform == "sensor" else [])


def measurement_faults(key: str, entity: dict[str, Any]) -> list[str]:
    unit, kind = entity.get("unit_of_measurement"), entity.get("device_class")
    found = [f"{key}: {unit} is no unit of {kind}"] if kind is not None and unit not in UNITS.get(kind, {unit}) else []
    if entity.get("entity_category", "diagnostic") != "diagnostic":
        found.append(f"{key}: a sensor is no configuration")
    return found


@pytest.mark.parametrize("picture", [False, True])
def test_home_assistant_accepts_the_announcement(picture: bool) -> None:
    message = json.loads(json.dumps(discovery("deck", "robots/deck", picture=picture)))
    assert faults(message) == []
    assert ("picture" in message["cmps"]) == picture
    assert message["availability_topic"] == "robots/deck/status"


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ({"o": None}, "o is missing"),
        ({"dev": {"name": "x"}}, "a device needs ids or connections"),
        ({"state_topic": "a/#"}, "object: topic 'a/#'"),
        ({"cmps": {"a": {"p": "sensor", "unique_id": "a", "object_id": "a"}}}, "a: unknown: object_id"),
        ({"cmps": {"a": {"p": "camera", "unique_id": "a"}}}, "a: topic is missing"),
        (
            {"cmps": {"a": {"p": "sensor", "unique_id": "a", "device_class": "duration", "unit_of_measurement": "Hz"}}},
            "a: Hz is no unit of duration",
        ),
    ],
)
def test_what_home_assistant_refuses_is_noticed(broken: dict[str, Any], fault: str) -> None:
    message = {**discovery("deck", "robots/deck", picture=False), **broken}
    assert fault in faults({key: value for key, value in message.items() if value is not None})


def test_templates_take_the_states_from_a_summary() -> None:
    jinja2 = pytest.importorskip("jinja2")
    summary = {"present": True, "label": "nut", "presence": 0.91234, "age_ms": 14.0, "rate": 29.97}
    entities = discovery("deck", "robots/deck", picture=True)["cmps"]
    states = {
        key: jinja2.Template(entity["value_template"]).render(value_json=summary)
        for key, entity in entities.items()
        if "value_template" in entity
    }
    assert states == {"object": "ON", "label": "nut", "score": "91.2", "age": "14.0", "rate": "29.97"}


def test_home_assistant_itself_accepts_the_announcement(tmp_path: Path) -> None:
    """Opt-in: pip install homeassistant, 475 MB."""
    pytest.importorskip("homeassistant.components.mqtt.schemas", reason="homeassistant is not installed")
    from homeassistant.components.mqtt import binary_sensor, camera, sensor
    from homeassistant.components.mqtt.discovery import _merge_common_device_options, _parse_device_payload
    from homeassistant.core import HomeAssistant
    from homeassistant.helpers import frame

    platforms = {"binary_sensor": binary_sensor, "camera": camera, "sensor": sensor}

    async def check() -> None:
        hass = HomeAssistant(str(tmp_path))
        frame.async_setup(hass)
        message = discovery("deck", "robots/deck", picture=True)
        device = _parse_device_payload(hass, json.dumps(message), "deck", None)
        assert list(device["components"]) == list(message["cmps"])
        for entity in device["components"].values():
            platform = entity.pop("platform")
            _merge_common_device_options(entity, device)
            platforms[platform].DISCOVERY_SCHEMA({**entity, "device": device["device"]})
        await hass.async_stop(force=True)

    asyncio.run(check())


def test_a_host_that_nobody_knows_is_named_and_waited_for() -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    sink = open_sink("mqtt://broker.invalid")
    sink.open(live=True)
    frame = example_frame(0, time.monotonic())
    with pytest.raises(OutputError, match="mqtt://broker.invalid: no machine of the name broker.invalid is found"):
        sink.write(example_observation(frame), lambda: frame.pixels)
    sink.close()


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("mqtt://me@broker?password_file=none", "none gives no password: No such file"),
        ("mqtt://me@broker?password_file=binary", "binary gives no password: it is not UTF-8"),
        ("mqtts://broker?ca=none", "none gives no certificate: No such file"),
        ("mqtts://broker?ca=binary", "binary gives no certificate: "),
    ],
)
def test_a_file_that_gives_nothing_is_named(
    uri: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\xff\xfe")
    sink = open_sink(uri)
    with pytest.raises(OutputError, match=sentence):
        sink.open(live=True)
    sink.close()


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(
        MissingExtra, match=r"the sink mqtt:// needs the package paho-mqtt: pip install 'edgeloc\[mqtt\]'"
    ):
        open_sink("mqtt://broker").open()


def test_a_run_without_it_loads_nothing_of_it(tmp_path: Path) -> None:
    code = f"""
import sys
import edgeloc
edgeloc.run("synthetic://?frames=2&live=0", lambda frame: edgeloc.Result(), {str(tmp_path / "out.jsonl")!r})
print([name for name in sys.modules if name.startswith(("paho", "edgeloc.sinks.mqtt"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
