"""Mutants of packed weights and of checkpoint files, with their checksums repaired."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

HEADER = 64
# Offset and size of the header's fields (csrc/formats/packed.h).
FIELDS = [(5, 1), (6, 1), (7, 1), (8, 8), (16, 8), (24, 8), (32, 8), (40, 2), (42, 2), (44, 2), (46, 2)]
BYTES = [0, 1, 2, 7, 8, 63, 64, 127, 128, 191, 192, 239, 240, 253, 254, 255]
NUMBERS = [
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    32,
    63,
    64,
    65,
    96,
    128,
    192,
    240,
    255,
    256,
    4096,
    65535,
    2**31 - 1,
    2**40,
    2**63,
]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def reseal(buffer: Bytes) -> None:
    """The sum that the header has now (FNV-1a)."""
    total = 2166136261
    for byte in buffer[: HEADER - 4].tolist():
        total = (total ^ byte) * 16777619 & 0xFFFFFFFF
    buffer[HEADER - 4 : HEADER] = np.frombuffer(struct.pack("<I", total), np.uint8)


def mutate_packed(seed: Bytes, rng: np.random.Generator) -> Bytes:
    """One to three changes of a packed weight; most leave the header right enough to get to the payload."""
    out = seed.copy()
    for _ in range(rng.integers(1, 4)):
        out = _PACKED[rng.choice(len(_PACKED), p=_OFTEN)](out, rng)
    if out.size >= HEADER:
        reseal(out)
    return out


def _field(b: Bytes, rng: np.random.Generator) -> Bytes:
    at, size = FIELDS[rng.integers(len(FIELDS))]
    if b.size < HEADER:
        return b
    now = int.from_bytes(b[at : at + size].tobytes(), "little")
    value = rng.choice([now + 1, max(now, 1) - 1, now * 2, now // 2, now ^ 1 << int(rng.integers(8 * size))])
    if rng.random() < 0.5:
        value = NUMBERS[rng.integers(len(NUMBERS))]
    raw = (int(value) % 256**size).to_bytes(size, "little")
    b[at : at + size] = np.frombuffer(raw, np.uint8)
    return b


def _payload(b: Bytes, rng: np.random.Generator) -> Bytes:
    if b.size > HEADER:
        at = rng.integers(HEADER, b.size, rng.integers(1, 12))
        b[at] = rng.choice(BYTES, at.size)
    return b


def _run(b: Bytes, rng: np.random.Generator) -> Bytes:
    if b.size > HEADER:
        at = int(rng.integers(HEADER, b.size))
        b[at : at + int(rng.integers(1, 64))] = rng.choice(BYTES)
    return b


def _offset(b: Bytes, rng: np.random.Generator) -> Bytes:
    """One of the first numbers of the payload: where tiles begin."""
    if b.size < HEADER + 16:
        return b
    at = HEADER + 8 * int(rng.integers(0, min(12, (b.size - HEADER) // 8)))
    now = int.from_bytes(b[at : at + 8].tobytes(), "little")
    value = now + int(rng.choice([-64, -8, -1, 1, 8, 64, 2**32, 2**62])) if rng.random() < 0.7 else b.size
    b[at : at + 8] = np.frombuffer((value % 2**64).to_bytes(8, "little"), np.uint8)
    return b


def _copy(b: Bytes, rng: np.random.Generator) -> Bytes:
    if b.size > HEADER + 1:
        size = int(rng.integers(1, min(64, b.size - HEADER)))
        a, c = (int(v) for v in rng.integers(HEADER, b.size - size + 1, 2))
        b[a : a + size] = b[c : c + size].copy()
    return b


def _resize(b: Bytes, rng: np.random.Generator) -> Bytes:
    """Shorter or longer; the header says so."""
    if b.size < HEADER:
        return b
    size = int(rng.integers(0, b.size)) if rng.random() < 0.3 else b.size + 8 * int(rng.integers(-8, 9))
    out: Bytes = np.zeros(max(size, 0), np.uint8)
    out[: b.size] = b[: out.size]
    if out.size >= HEADER:
        out[32:40] = np.frombuffer(struct.pack("<Q", out.size), np.uint8)
    return out


_PACKED: list[Callable[[Bytes, np.random.Generator], Bytes]] = [
    _field,
    _payload,
    _run,
    _offset,
    _copy,
    _resize,
]
_OFTEN = [0.15, 0.4, 0.15, 0.15, 0.1, 0.05]

VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, 2**70, 0.5, "", "x", ":mask", "float32", "int8", "dense", "masked",
    "scaled", "gelu", [], [1], [2**62, 4], [0, 2**62], [-1], ["a"], {}, {"kind": "dense"}, [[]], "\ud800",
]  # fmt: skip


def mutate_file(seed: bytes, rng: np.random.Generator) -> bytes:
    """A checkpoint (safetensors) with other values in one of its two JSON texts, or other bytes."""
    if rng.random() < 0.1:
        return _anything(seed, rng)
    size = struct.unpack("<Q", seed[:8])[0]
    header, data = json.loads(seed[8 : 8 + size]), bytearray(seed[8 + size :])
    about = json.loads(header["__metadata__"]["prunus"])
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] = int(rng.choice(BYTES))
    where: Any = about if rng.random() < 0.8 else header
    for _ in range(int(rng.integers(0, 3))):
        _change(where, rng)
    if rng.random() < 0.7:
        _repair_sums(about, header, data)
    try:
        text = json.dumps(about)
        if isinstance(header.get("__metadata__"), dict):
            header["__metadata__"] |= {"prunus": text, "prunus_crc32": f"{zlib.crc32(text.encode()):08x}"}
        raw = json.dumps(header).encode()
    except (TypeError, ValueError, UnicodeError):
        return seed
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


SAME_SIZE = [["I64", "F64", "U64"], ["I32", "F32"], ["F16", "BF16", "I16"], ["U8", "I8", "BOOL", "F8_E4M3"]]


def mutate_tensors(seed: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file with other bytes, dtypes, shapes or names; most still fit the file's size."""
    if rng.random() < 0.1:
        return _anything(seed, rng)
    size = struct.unpack("<Q", seed[:8])[0]
    header, data = json.loads(seed[8 : 8 + size]), bytearray(seed[8 + size :])
    for _ in range(int(rng.integers(1, 4))):
        key, other = (str(key) for key in rng.choice(list(header), 2))
        entry = header[key]
        how = rng.random()
        if not isinstance(entry, dict) or how < 0.05:
            _change(header, rng)
            break
        if how < 0.5:
            begin, end = entry["data_offsets"]
            for _ in range(int(rng.integers(1, 6)) if end > begin else 0):
                data[int(rng.integers(begin, end))] = int(rng.choice(BYTES))
        elif how < 0.65:
            same = next((words for words in SAME_SIZE if entry["dtype"] in words), [entry["dtype"]])
            entry["dtype"] = same[int(rng.integers(len(same)))]
        elif how < 0.75:
            entry["shape"] = entry["shape"][::-1] if rng.random() < 0.5 else [int(np.prod(entry["shape"]))]
        elif how < 0.85:
            header[key], header[other] = header[other], header[key]
        else:
            end = str(rng.choice([".shape", ".bitmask", ".compressed", ".row_offsets", "_orig", "_mask", ""]))
            header[key.rpartition(".")[0] + end] = header.pop(key)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


def _anything(seed: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(seed[: int(rng.integers(len(seed)))] if rng.random() < 0.3 else seed)
    for _ in range(int(rng.integers(1, 8))):
        if out:
            out[int(rng.integers(len(out)))] = int(rng.integers(256))
    return bytes(out)


def _change(node: Any, rng: np.random.Generator) -> None:
    """Goes down to some value of a JSON tree and puts another there, takes it away, or doubles it."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        below = node[key]
        if isinstance(below, (dict, list)) and below and rng.random() < 0.85:
            node = below
            continue
        how = rng.random()
        if how < 0.2:
            del node[key]
        elif how < 0.35 and isinstance(node, dict):
            node[f"{key}{rng.integers(3)}"] = node.pop(key)
        elif how < 0.55 and type(below) is int:
            node[key] = below + int(rng.choice([-1, 1, 8, 64]))
        else:
            node[key] = VALUES[int(rng.integers(len(VALUES)))]
        return


def _repair_sums(about: dict[str, Any], header: dict[str, Any], data: bytearray) -> None:
    sums = about.get("crc32")
    if not isinstance(sums, dict):
        return
    for key in sums:
        place = header.get(key)
        if (
            isinstance(place, dict)
            and isinstance(place.get("data_offsets"), list)
            and len(place["data_offsets"]) == 2
        ):
            begin, end = place["data_offsets"]
            if type(begin) is int and type(end) is int:
                sums[key] = zlib.crc32(bytes(data[begin:end]))
