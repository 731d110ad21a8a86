"""Hostile files made of whole ones: each mutation depends on a seed and the number of the file alone.

A file is its network (`payload`), and the members of its zip by name. A kind of mutation is a function of a random
generator and such parts; it returns the bytes of a file and a few words on what was done.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hostile_networks import mutate_network

from edgeloc.model.containers import encode_varint

__all__ = ["KINDS", "Made", "Parts", "make_file", "take_apart"]

CONTRACT, CALIBRATION, LABELS = "edgeloc.json", "calibration.json", "labels.txt"
EXPECTED, IMAGE = "golden/expected.json", "golden/image.png"
ZIP_FIELD = 18765
INTEGERS = (0, 1, 2, 4, 8, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


@dataclass(frozen=True)
class Parts:
    """A whole model file taken apart; `format` is tflite or onnx."""

    format: str
    payload: bytes
    members: tuple[tuple[str, bytes], ...]

    def member(self, name: str) -> bytes:
        return dict(self.members).get(name, b"")

    def replacing(self, name: str, content: bytes) -> Parts:
        members = tuple((one, content if one == name else old) for one, old in self.members)
        return replace(self, members=members)


@dataclass(frozen=True)
class Made:
    """A mutated file: its kind, what was done, whether its hash fits, and the contract beside it where one is."""

    kind: str
    what: str
    hash: str
    data: bytes
    beside: bytes | None = None


def take_apart(data: bytes) -> Parts:
    """The parts of a whole file, by the zip behind the network."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = tuple((name, archive.read(name)) for name in archive.namelist())
        start = min(entry.header_offset for entry in archive.infolist())
    if data[4:8] == b"TFL3":
        return Parts("tflite", data[:start], members)
    # The zip is the content of the message's last field; before it stand the field's tag and length.
    start = data.index(b"PK\x03\x04")
    header = encode_varint(ZIP_FIELD << 3 | 2) + encode_varint(len(data) - start)
    return Parts("onnx", data[: start - len(header)], members)


def put_together(parts: Parts, archive: bytes | None = None) -> bytes:
    """The file of the parts, or of the network and other bytes in the zip's place."""
    if parts.format == "tflite":
        return parts.payload + (_zip(parts.members, len(parts.payload)) if archive is None else archive)
    archive = _zip(parts.members, 0) if archive is None else archive
    return parts.payload + encode_varint(ZIP_FIELD << 3 | 2) + encode_varint(len(archive)) + archive


def _zip(members: Sequence[tuple[str, bytes]], offset: int, methods: Sequence[int] = ()) -> bytes:
    """A zip whose offsets count from `offset` bytes before it."""
    stream = io.BytesIO(bytes(offset))
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for index, (name, content) in enumerate(members):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, content, methods[index] if index < len(methods) else zipfile.ZIP_STORED)
    return stream.getvalue()[offset:]


def make_file(rng: random.Random, parts: Parts) -> Made:
    """One mutated file."""
    kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    return KINDS[kind][1](rng, parts)


# --- bytes


def mutate_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Flip, overwrite, cut, insert or copy at one to four places."""
    done = []
    for _ in range(rng.choices((1, 2, 4), (7, 2, 1))[0]):
        step = rng.choice((_flip, _flip, _overwrite, _number, _cut, _cut_middle, _insert, _copy))
        data, what = step(rng, data, _place(rng, len(data)))
        done.append(what)
    return data, ", ".join(done)


def _place(rng: random.Random, size: int) -> int:
    """Anywhere, but often in the first or last kilobytes, where structure lies close."""
    low, high = rng.choice(((0, size), (0, min(size, 512)), (0, min(size, 8192)), (max(0, size - 8192), size)))
    return rng.randrange(low, high) if high > low else 0


def _flip(rng: random.Random, data: bytes, at: int) -> tuple[bytes, str]:
    bit = rng.randrange(8)
    return data[:at] + bytes([(data[at : at + 1] or b"\0")[0] ^ 1 << bit]) + data[at + 1 :], f"flip bit {bit} at {at}"


def _overwrite(rng: random.Random, data: bytes, at: int) -> tuple[bytes, str]:
    size = rng.choice((1, 2, 4, 8, 64, 1024))
    fill = rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))
    return data[:at] + fill + data[at + size :], f"overwrite {size} at {at}"


def _number(rng: random.Random, data: bytes, at: int) -> tuple[bytes, str]:
    at -= at % 4
    value = rng.choice(INTEGERS)
    return data[:at] + struct.pack("<I", value) + data[at + 4 :], f"{value} at {at}"


def _cut(rng: random.Random, data: bytes, at: int) -> tuple[bytes, str]:
    return data[:at], f"cut at {at}"


def _cut_middle(rng: random.Random, data: bytes, at: int) -> tuple[bytes, str]:
    size = rng.choice((1, 4, 64, 4096))
    return data[:at] + data[at + size :], f"cut out {size} at {at}"


def _insert(rng: random.Random, data: bytes, at: int) -> tuple[bytes, str]:
    size = rng.choice((1, 4, 64, 4096))
    return data[:at] + rng.randbytes(size) + data[at:], f"insert {size} at {at}"


def _copy(rng: random.Random, data: bytes, at: int) -> tuple[bytes, str]:
    size, to = rng.choice((4, 16, 256)), _place(rng, len(data))
    return data[:to] + data[at : at + size] + data[to + size :], f"copy {size} from {at} to {to}"


def _bytes(rng: random.Random, parts: Parts) -> Made:
    if rng.random() < 0.5:
        data, what = mutate_bytes(rng, put_together(parts))
        return Made("bytes", what, "stale", data)
    payload, what = mutate_bytes(rng, parts.payload)
    return _around(rng, "bytes", what, parts, payload)


def _around(rng: random.Random, kind: str, what: str, parts: Parts, payload: bytes) -> Made:
    """A changed network in its file: with the hash of the whole one, its own, or none, or with a contract beside it."""
    way = rng.choices(("stale", "refit", "none", "beside"), (1, 5, 2, 2))[0]
    parts = replace(parts, payload=payload)
    contract = json.loads(parts.member(CONTRACT))
    if way == "refit":
        contract["hashes"]["payload"] = hashlib.sha256(payload).hexdigest()
    elif way != "stale":
        del contract["hashes"]["payload"]
    text = json.dumps(contract).encode()
    if rng.random() < 0.15:
        text, more = mutate_json(rng, text)
        what = f"{what}; contract: {more}"
    if way == "beside":
        return Made(kind, what, way, payload, text)
    return Made(kind, what, way, put_together(parts.replacing(CONTRACT, text)))


# --- zip


def _zips(rng: random.Random, parts: Parts) -> Made:
    offset = len(parts.payload) if parts.format == "tflite" else 0
    step = rng.choice(_ZIP_STEPS)
    archive, what = step(rng, parts.members, offset)
    return Made("zip", what, "kept", put_together(parts, archive))


Members = Sequence[tuple[str, bytes]]


def _packed(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    methods = [rng.choice((0, 8, 12, 14)) for _ in members]
    return _zip(members, offset, methods), f"methods {methods}"


def _bomb(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    """A member of much more than it takes; its size in the headers is true or not."""
    name, size = rng.choice((CONTRACT, LABELS, IMAGE, "extra")), rng.choice((70 << 20, 300 << 20, 1500 << 20))
    claimed = rng.choice((size, 0, 100, 1 << 20, 0xFFFFFFFE))
    rest = [one for one in members if one[0] != name]
    content = _deflated_zeros(size)
    archive = bytearray(_zip([(name, content), *rest], offset))
    for header, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = archive.index(header)
        struct.pack_into("<H", archive, start + at, 8)
        struct.pack_into("<I", archive, start + at + 14, claimed)
    return bytes(archive), f"{name} unpacks to {size}, claims {claimed}"


@lru_cache(maxsize=4)
def _deflated_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size >> 20) + packer.flush()


def _order(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    mixed = list(members)
    rng.shuffle(mixed)
    step = rng.choice(("as it is", "one twice", "one less", "many"))
    if step == "one twice":
        name, content = rng.choice(mixed)
        mixed.append((name, mutate_bytes(rng, content)[0]))
    elif step == "one less":
        mixed.pop()
    elif step == "many":
        mixed += [(f"extra/{index}", b"") for index in range(rng.choice((300, 20_000, 66_000)))]
    return _zip(mixed, offset), f"another order, {step}"


def _named(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    name = rng.choice(
        ("", "/", "../../../etc/passwd", "/etc/passwd", "edgeloc.json\0", "EDGELOC.JSON", "a" * 65_000, "\x1b[31m.txt",
         "golden/", "golden/image.png/", ".", "\u202e.json", "con", "edgeloc.json/../edgeloc.json")
    )  # fmt: skip
    place = rng.randrange(len(members) + 1)
    changed = [*members[:place], (name, rng.randbytes(20)), *members[place + rng.randrange(2) :]]
    return _zip(changed, offset), f"a member called {name[:40]!r}"


def _headers(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    """Fields of one header: flags, method, sizes, lengths, offsets, counts."""
    archive = bytearray(_zip(members, offset))
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        mark, size = rng.choice(((b"PK\x03\x04", 30), (b"PK\x01\x02", 46), (b"PK\x05\x06", 22)))
        starts = [found.start() for found in re.finditer(re.escape(mark), archive)]
        at = rng.choice(starts) + rng.randrange(4, size, 2) if starts else 0
        value = rng.choice((*INTEGERS, rng.randrange(1 << 16), len(archive), offset))
        form = rng.choice(("<H", "<I"))
        if at + 4 <= len(archive):
            struct.pack_into(form, archive, at, value & (0xFFFF if form == "<H" else 0xFFFFFFFF))
        done.append(f"{value} at {at} of the zip")
    return bytes(archive), ", ".join(done)


def _overlapping(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    """Every entry of the directory means the same bytes."""
    archive = bytearray(_zip([*members, *((f"same/{index}", b"") for index in range(50))], offset))
    starts = [found.start() for found in re.finditer(b"PK\x01\x02", archive)]
    for start in starts[1:]:
        archive[start + 10 : start + 28] = archive[starts[0] + 10 : starts[0] + 28]
        archive[start + 42 : start + 46] = archive[starts[0] + 42 : starts[0] + 46]
    return bytes(archive), "all members lie at one place"


def _surrounded(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    archive, extra = _zip(members, offset), rng.randbytes(rng.choice((1, 30, 5000)))
    other = _zip([(CONTRACT, b"{}")], offset + len(archive))
    return rng.choice(
        ((extra + archive, "bytes before"), (archive + extra, "bytes behind"), (archive + other, "two zips"),
         (archive[:-2] + struct.pack("<H", len(other)) + other, "a zip in the comment"),
         (archive + archive[-22:], "two ends"))
    )  # fmt: skip


def _damaged(rng: random.Random, members: Members, offset: int) -> tuple[bytes, str]:
    archive, what = mutate_bytes(rng, _zip(members, offset))
    return archive, f"in the zip: {what}"


_ZIP_STEPS = (_packed, _bomb, _order, _named, _headers, _headers, _overlapping, _surrounded, _damaged, _damaged)


# --- JSON

# Text that stands in the JSON as it is; `json.dumps` can write none of it.
RAW = {
    "nan": "NaN", "infinity": "-Infinity", "1e400": "1e400", "-0": "-0.0", "tiny": "1e-400",
    "digits": "9" * 5000, "deep list": "[" * 100_000 + "]" * 100_000, "open list": "[" * 100_000,
    "deep object": '{"a":' * 50_000 + "1" + "}" * 50_000, "thousand deep": "[" * 990 + "]" * 990,
    "surrogate": '"\\ud800"', "nul": '"\\u0000"', "nothing": "", "twice": '1, "tensor": 2', "hex": "0x10",
}  # fmt: skip
PLAIN: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1e-30, 1e300, -1e300, 1e38, 2**31 - 1, 2**31, 2**63, 10**30, "", "x", "0",
    "\x1b[31mred\x1b]0;title\x07", "a\nb\r\t", "\u202eabc", "é" * 100, "a" * 1_000_000, "none", "softmax", "sigmoid",
    [], {}, [0], [None], [[]], [1, 2, 3], [0.0] * 3, ["a"] * 10_000, list(range(4)), {"a": {}}, {"": None},
    [255.0, 255.0, 255.0], [1e-30], [1e38, 1e38, 1e38],
    "presence", "class", "box", "vector", "box-bins", "grid-weights", "grid-distances", "detections",
    "objectness", "score", "class-number", "count", "unused:3", "distances", "cell", "stride", "anchor",
    "cxcywh", "xyxy", "distribution", "grid", "pixels", "fraction", "gray", "bgr",
    "center-crop", "stretch", "letterbox", "cubic", "nearest", "area", 16, 28, 32, 224, 784, 10_000, 65_536, 100_000,
)  # fmt: skip


def mutate_json(rng: random.Random, text: bytes) -> tuple[bytes, str]:
    """Change one to three values, keys or the text itself."""
    if rng.random() < 0.2:
        return _json_text(rng, text)
    data = json.loads(text)
    raw: dict[str, str] = {}
    done = []
    for _ in range(rng.choices((1, 2, 3), (6, 2, 1))[0]):
        done.append(_json_step(rng, data, raw))
    changed = json.dumps(data)
    for mark, value in raw.items():
        changed = changed.replace(f'"{mark}"', value)
    return changed.encode(), ", ".join(done)


def _json_step(rng: random.Random, data: Any, raw: dict[str, str]) -> str:
    holder, key, path = rng.choice(_places(data))
    step = rng.choice(("value", "value", "value", "value", "raw", "delete", "add", "copy", "repeat"))
    if step == "value":
        holder[key] = rng.choice(PLAIN)
        return f"{path} = {str(holder[key])[:40]!r}"
    if step == "raw":
        name = rng.choice(list(RAW))
        mark = f"@{len(raw)}@"
        raw[mark], holder[key] = RAW[name], mark
        return f"{path} = {name}"
    if step == "delete":
        del holder[key]
    elif step == "add" and isinstance(holder, dict):
        holder[rng.choice(("extra", "", "__class__", "\x1b[2J", "a" * 5000))] = rng.choice(PLAIN)
    elif step == "copy":
        other, name, source = rng.choice(_places(data))
        # A copy: a value that holds itself could not be written.
        holder[key] = json.loads(json.dumps(other[name]))
        return f"{path} = {source}"
    elif isinstance(holder.get(key) if isinstance(holder, dict) else holder[key], list) and len(holder[key]) < 1000:
        holder[key] = holder[key] * rng.choice((2, 100))
    return f"{step} {path}"


def _places(data: Any, path: str = "") -> list[tuple[Any, Any, str]]:
    """Every value within: what holds it, its key, and its path; nothing within "measured" is read by anyone."""
    found: list[tuple[Any, Any, str]] = []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found.append((data, key, f"{path}.{key}"))
        if key != "measured":
            found += _places(value, f"{path}.{key}")
    return found or [({"": None}, "", path)]


def _json_text(rng: random.Random, text: bytes) -> tuple[bytes, str]:
    name = rng.choice(list(RAW))
    return rng.choice(
        ((RAW[name].encode(), name), (b"", "empty"), (text.decode().encode("utf-16"), "UTF-16"),
         (b"\xef\xbb\xbf" + text, "a byte order mark"), (text + text, "twice"), (b"[" + text + b"]", "in a list"),
         (text.replace(b'"', b"'"), "other quotes"), (b"\xff\xfe" + text[:50], "no text"),
         mutate_bytes(rng, text), mutate_bytes(rng, text), (b" " * 5_000_000 + text, "five million spaces"))
    )  # fmt: skip


def _contract(rng: random.Random, parts: Parts) -> Made:
    name = rng.choices((CONTRACT, CALIBRATION, LABELS), (8, 2, 1))[0]
    if name == LABELS:
        text, what = rng.choice(
            ((b"\xff\xfe\n", "no text"), (b"\x1b[31mred\n" * 16, "escapes"), (b"\n" * 3_000_000, "empty lines"),
             (b"", "empty"), (b"a" * 3_000_000, "one long line"))
        )  # fmt: skip
        contract = json.loads(parts.member(CONTRACT))
        contract["labels"] = []
        parts = parts.replacing(CONTRACT, json.dumps(contract).encode())
        parts = replace(parts, members=(*(one for one in parts.members if one[0] != LABELS), (LABELS, text)))
    else:
        text, what = mutate_json(rng, parts.member(name))
        parts = parts.replacing(name, text)
    if name == CONTRACT and rng.random() < 0.15:
        return Made("contract", f"beside: {what}", "beside", parts.payload, text)
    return Made("contract", f"{name}: {what}", "kept", put_together(parts))


# --- golden


def _golden(rng: random.Random, parts: Parts) -> Made:
    if rng.random() < 0.5:
        text, what = mutate_json(rng, parts.member(EXPECTED))
        return Made("golden", what, "kept", put_together(parts.replacing(EXPECTED, text)))
    content, what = _picture(rng, parts.member(IMAGE))
    return Made("golden", what, "kept", put_together(parts.replacing(IMAGE, content)))


def _picture(rng: random.Random, png: bytes) -> tuple[bytes, str]:
    step = rng.randrange(10)
    if step < 3:
        return mutate_bytes(rng, png)
    if step == 3:
        return rng.choice(((b"", "empty picture"), (b"\x89PNG\r\n\x1a\n", "a PNG's mark alone"), (b"BM", "BM alone")))
    if step == 4:
        return _other_picture(rng)
    width, height = rng.choice(
        ((16_000, 16_000), (30_000, 30_000), (1, 1_000_000), (1_000_000, 1), (65_535, 65_535), (5000, 5000), (1, 1),
         (2, 30_000), (0, 10), (2**31 - 1, 2**31 - 1), (4000, 4000))
    )  # fmt: skip
    depth, color = rng.choice(((8, 0), (8, 2), (8, 6), (16, 6), (1, 0), (8, 3), (16, 2), (5, 9)))
    rows = rng.choice((0, 1, height))
    return _png(width, height, depth, color, rows), f"a PNG of {width} x {height}, {depth} bits, kind {color}"


def _png(width: int, height: int, depth: int, color: int, rows: int) -> bytes:
    """A PNG of zeros; of very large ones the rows after the first 300 MB are left out."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}.get(color, 1)
    size = min(rows * (1 + (width * channels * depth + 7) // 8), 300 << 20)
    content = b"\x78\x9c" + _deflated_zeros(max(size, 1 << 20))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    palette = _chunk(b"PLTE", bytes(6)) if color == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + palette + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _other_picture(rng: random.Random) -> tuple[bytes, str]:
    """Other formats that OpenCV reads, with sizes from their headers."""
    import cv2
    import numpy as np

    suffix = rng.choice((".bmp", ".jpg", ".tiff", ".webp", ".ppm", ".jp2", ".hdr", ".gif", ".sr", ".pxm"))
    image = np.random.default_rng(rng.randrange(100)).integers(0, 256, (40, 50, 3), np.uint8)
    try:
        done, content = cv2.imencode(suffix, image.astype(np.float32) if suffix == ".hdr" else image)
    except cv2.error:
        done = False
    data = content.tobytes() if done else b"P6\n60000 60000\n255\n"
    if rng.random() < 0.5:
        data, what = mutate_bytes(rng, data)
        return data, f"a {suffix}, {what}"
    large = struct.pack("<II", 40_000, 40_000)
    return data.replace(struct.pack("<II", 50, 40), large).replace(b"50 40", b"60000 60000"), f"a {suffix}"


# --- the network by its schema


def _schema(rng: random.Random, parts: Parts) -> Made:
    payload, what = mutate_network(rng, parts.format, parts.payload)
    return _around(rng, "schema", what, parts, payload)


# Each kind with its weight.
KINDS: dict[str, tuple[int, Callable[[random.Random, Parts], Made]]] = {
    "bytes": (25, _bytes),
    "zip": (15, _zips),
    "contract": (20, _contract),
    "golden": (12, _golden),
    "schema": (28, _schema),
}
