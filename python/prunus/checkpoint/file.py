"""The file of `save` and `load`: safetensors whose tensors are described by JSON metadata.

The metadata has two strings: "prunus", a JSON object, and "prunus_crc32", the checksum of that string (hex).
The object: version; entries, tensor name -> {"kind", "shape"}, kinds as in `masked.py`; ties, name -> the
name it shares memory with; sparse, module path -> {"activation", "dtype"} of a SparseLinear, whose weight is
the entry PATH.weight (n, k); geometry, the shape of a shrunk model (`prunus.shrink.geometry`); fused, names
of the modules that `fuse_` had replaced (missing in older files); attention, true where it is our operator
(missing elsewhere); experts, names of the modules whose 3-D parameters are a layer per matrix (missing
where there are none); crc32, stored tensor -> checksum of its bytes.
Everything a file says is looked up in a fixed table or compared with the tensors: it never names code.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from typing import Any

import torch
from torch import Tensor

from prunus._core import FormatError
from prunus._tools.files import replacing
from prunus.checkpoint.expect import describe, expect
from prunus.checkpoint.masked import PARTS, decode, encode
from prunus.checkpoint.saved import DTYPES, Saved, SparseEntry, weight_name
from prunus.checkpoint.writer import write_tensors
from prunus.ops import ACTIVATIONS

__all__ = ["read", "write"]

VERSION = 1
WEIGHTS = ("float32", "float64", "float16", "bfloat16")


def write(saved: Saved, path: str | os.PathLike[str]) -> None:
    """Write a file in one step; raises OSError, and ValueError when two tensors would get the same name."""
    stored: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    packed = {weight_name(path): entry.dtype for path, entry in saved.sparse.items()}
    for name, tensor in saved.tensors.items():
        kind, parts = encode(tensor, packed.get(name))
        entries[name] = {"kind": kind, "shape": list(tensor.shape)}
        for suffix, part in zip(PARTS[kind], parts, strict=True):
            key = name + suffix
            if key in stored:
                raise ValueError(f"model: expected tensor names without ':mask' and ':values', got {key!r}")
            stored[key] = part
    text = json.dumps(
        {
            "version": VERSION,
            "entries": entries,
            "ties": saved.ties,
            "sparse": {path: entry.to_dict() for path, entry in saved.sparse.items()},
            "geometry": saved.geometry,
            "fused": saved.fused,
            **({"attention": True} if saved.attention else {}),
            **({"experts": saved.experts} if saved.experts else {}),
            "crc32": {key: _crc32(tensor) for key, tensor in stored.items()},
        }
    )
    metadata = {"prunus": text, "prunus_crc32": f"{zlib.crc32(text.encode()):08x}"}
    with replacing(path) as temporary:
        write_tensors(stored, metadata, temporary)


def read(path: str | os.PathLike[str], most: int) -> Saved:
    """Read and check a whole file, whose tensors have at most `most` elements together.

    A mask needs a bit for what becomes a number, so a small file could take all memory. Raises FormatError
    naming the field, and OSError.
    """
    from safetensors import SafetensorError, safe_open

    os.stat(path)  # a missing file is an OSError, whatever the reader below makes of it
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise FormatError(
            f"file: expected a complete safetensors file, got {os.fspath(path)!r} ({error})"
        ) from None
    return _Reader(metadata, stored, most).saved()


class _Reader:
    def __init__(self, metadata: dict[str, str], stored: dict[str, Tensor], most: int) -> None:
        self.stored, self.left = stored, most
        self.about = _parse(metadata)

    def saved(self) -> Saved:
        self._check_sums()
        tensors = self._tensors()
        geometry = self._table("geometry")
        fused, split = self._names("fused"), self._names("experts")
        attention = self.about.get("attention", False)
        expect(isinstance(attention, bool), "attention", "true or false", attention)
        ties, sparse = self._ties(tensors), self._sparse(tensors)
        return Saved(tensors, ties, sparse, geometry, fused, attention, split)

    def _check_sums(self) -> None:
        sums = self._table("crc32")
        expect(
            sums.keys() == self.stored.keys(), "crc32", "a checksum for every tensor", f"{len(sums)} of them"
        )
        for key, tensor in self.stored.items():
            got = _crc32(tensor)
            expect(sums[key] == got, f"tensor {key!r}", f"checksum {sums[key]!r}", str(got))

    def _tensors(self) -> dict[str, Tensor]:
        used: set[str] = set()
        tensors = {}
        for name, entry in self._table("entries").items():
            expect(isinstance(entry, dict), f"entries[{name!r}]", "an object", entry)
            given = entry.get("kind")
            kind = given if isinstance(given, str) else ""
            expect(kind in PARTS, f"entries[{name!r}].kind", f"one of {', '.join(PARTS)}", given)
            keys = [name + suffix for suffix in PARTS[kind]]
            missing = [key for key in keys if key not in self.stored]
            expect(not missing, f"entries[{name!r}]", f"tensors {keys} in the file", f"no {missing}")
            used.update(keys)
            tensors[name] = decode(name, kind, self._sizes(name, entry), [self.stored[key] for key in keys])
        extra = sorted(self.stored.keys() - used)
        expect(not extra, "entries", "an entry for every tensor of the file", f"none for {extra[:3]}")
        return tensors

    def _sizes(self, name: str, entry: dict[str, Any]) -> list[int]:
        shape = entry.get("shape")
        good = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**31 for size in shape)
        expect(good, f"entries[{name!r}].shape", "a list of sizes", shape)
        self.left -= math.prod(shape) if isinstance(shape, list) else 0
        expect(self.left >= 0, f"entries[{name!r}].shape", "no more elements than the model has", shape)
        return shape if isinstance(shape, list) else []

    def _ties(self, tensors: dict[str, Tensor]) -> dict[str, str]:
        ties = self._table("ties")
        for name, other in ties.items():
            good = isinstance(other, str) and other in tensors and name not in tensors
            expect(good, f"ties[{name!r}]", "the name of an entry", other)
        return ties

    def _sparse(self, tensors: dict[str, Tensor]) -> dict[str, SparseEntry]:
        found = {}
        for path, entry in self._table("sparse").items():
            where = f"sparse[{path!r}]"
            found[path] = _sparse_entry(where, entry)
            dtype = found[path].dtype
            name = weight_name(path)
            name = self.about["ties"].get(name, name)
            weight = tensors.get(name)
            good = weight is not None and weight.dim() == 2 and weight.dtype == DTYPES[dtype]
            expect(good, where, f"a 2-D {dtype} tensor {name!r}", describe(weight))
        return found

    def _names(self, key: str) -> list[str]:
        """A list of module names; empty in files that do not have it."""
        value = self.about.get(key, [])
        good = isinstance(value, list) and all(isinstance(name, str) for name in value)
        expect(good, key, "a list of names", value)
        return value if isinstance(value, list) else []

    def _table(self, key: str) -> dict[str, Any]:
        value = self.about.get(key)
        expect(isinstance(value, dict), key, "an object", value)
        return value if isinstance(value, dict) else {}


def _sparse_entry(where: str, entry: Any) -> SparseEntry:
    """What the file says about one SparseLinear; `where`: its name in an error."""
    expect(isinstance(entry, dict), where, "an object", entry)
    activation, dtype = entry.get("activation"), entry.get("dtype")
    good = activation is None or isinstance(activation, str)
    names = ", ".join(str(name) for name in ACTIVATIONS)
    expect(good and activation in ACTIVATIONS, f"{where}.activation", f"one of {names}", activation)
    expect(isinstance(dtype, str) and dtype in DTYPES, f"{where}.dtype", ", ".join(DTYPES), dtype)
    form = entry.get("format", "auto")  # which the first files lack
    allowed = ("auto", "dot") if dtype in ("bfloat16", "int8") else ("auto",)
    expect(form in allowed, f"{where}.format", " or ".join(allowed), form)
    stands_for = entry.get("weight_dtype")
    expect(stands_for is None or stands_for in WEIGHTS, f"{where}.weight_dtype", str(WEIGHTS), stands_for)
    return SparseEntry(activation, dtype, form, stands_for)


def _parse(metadata: dict[str, str]) -> dict[str, Any]:
    text, checksum = metadata.get("prunus"), metadata.get("prunus_crc32")
    if text is None or checksum is None:
        raise FormatError(
            "metadata: expected a file written by prunus.save, got a safetensors file of another kind"
        )
    got = f"{zlib.crc32(text.encode()):08x}"
    expect(checksum == got, "metadata", f"checksum {checksum!r}", got)
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"metadata: expected JSON, got {error}") from None
    version = about.get("version") if isinstance(about, dict) else None
    number = version if type(version) is int else 0
    expect(number >= 1, "version", "a number from 1 up", version)
    newer = f"{number}: a newer prunus wrote this file, please upgrade"
    expect(number <= VERSION, "version", f"at most {VERSION}", newer)
    found: dict[str, Any] = about
    return found


def _crc32(tensor: Tensor) -> int:
    # reshape first: a tensor without dimensions cannot be viewed as bytes
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)
