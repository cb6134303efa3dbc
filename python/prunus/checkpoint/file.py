"""The file of `save` and `load`: safetensors with bit mask + values, described by JSON metadata.

The metadata has two strings: "prunus", a JSON object, and "prunus_crc32", the checksum of that string (hex).
The object: version; entries, tensor name -> {"kind", "shape"}; ties, name -> the name it shares memory with;
sparse, module path -> {"activation", "dtype"} of a SparseLinear, whose weight is the entry PATH.weight
(n, k); geometry, the shape of a shrunk model (`prunus.shrink.geometry`); fused, names of the modules that
`fuse_` had replaced (missing in older files); crc32, stored tensor -> checksum of its bytes.
Kinds: "dense", stored under its own name. "masked": NAME:mask, uint8, one bit per element in row-major order,
lowest bit first, and NAME:values, the kept elements in the same order. "scaled": values are int8, and
NAME:scales holds one float32 factor per row.
Everything a file says is looked up in a fixed table or compared with the tensors: it never names code.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus._core import FormatError
from prunus._tools.files import replacing
from prunus.checkpoint.writer import write_tensors
from prunus.ops import ACTIVATIONS

__all__ = ["Saved", "SparseEntry", "read", "write"]

VERSION = 1
# dtype of a SparseLinear's values -> of its weight while it is unpacked
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,
}
# dtypes that a mask saves space of
MASKED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WEIGHTS = ("float32", "float64", "float16", "bfloat16")
# kind of an entry -> what is behind its name in the names of the stored tensors
PARTS = {"dense": ("",), "masked": (":mask", ":values"), "scaled": (":mask", ":values", ":scales")}
# Below this share of zeros the mask costs as much as it saves, or is not worth the detour.
MIN_ZEROS = 1 / 16


@dataclass(frozen=True)
class SparseEntry:
    """What a SparseLinear is besides its weight and bias."""

    activation: str | None
    dtype: str
    #: "dot" where the layer multiplies in its dtype; "auto": any format that suits the machine.
    format: str = "auto"
    #: Of the dense weight that the layer stands for; None: as it is stored.
    weight_dtype: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What the file says; what is as in the first version's files is left out."""
        said: dict[str, Any] = {"activation": self.activation, "dtype": self.dtype}
        if self.format != "auto":
            said["format"] = self.format
        if self.weight_dtype is not None:
            said["weight_dtype"] = self.weight_dtype
        return said


@dataclass
class Saved:
    """A model as a file holds it. tensors: name -> dense tensor (packed weights unpacked, under
    PATH.weight)."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    sparse: dict[str, SparseEntry] = field(default_factory=dict)
    geometry: dict[str, Any] = field(default_factory=dict)
    fused: list[str] = field(default_factory=list)


def write(saved: Saved, path: str | os.PathLike[str]) -> None:
    """Write a file in one step; raises OSError, and ValueError when two tensors would get the same name."""
    stored: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    packed = {_weight_name(path): entry.dtype for path, entry in saved.sparse.items()}
    for name, tensor in saved.tensors.items():
        kind, parts = _encode(tensor, packed.get(name))
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
        used: set[str] = set()
        tensors = {}
        for name, entry in self._table("entries").items():
            _expect(isinstance(entry, dict), f"entries[{name!r}]", "an object", entry)
            given = entry.get("kind")
            kind = given if isinstance(given, str) else ""
            _expect(kind in PARTS, f"entries[{name!r}].kind", f"one of {', '.join(PARTS)}", given)
            keys = [name + suffix for suffix in PARTS[kind]]
            missing = [key for key in keys if key not in self.stored]
            _expect(not missing, f"entries[{name!r}]", f"tensors {keys} in the file", f"no {missing}")
            used.update(keys)
            sizes = self._sizes(name, entry)
            tensors[name] = self._dense(name, sizes) if kind == "dense" else self._masked(name, sizes, kind)
        extra = sorted(self.stored.keys() - used)
        _expect(not extra, "entries", "an entry for every tensor of the file", f"none for {extra[:3]}")
        geometry = self._table("geometry")
        fused = self.about.get("fused", [])
        names = isinstance(fused, list) and all(isinstance(name, str) for name in fused)
        _expect(names, "fused", "a list of names", fused)
        return Saved(tensors, self._ties(tensors), self._sparse(tensors), geometry, fused)

    def _check_sums(self) -> None:
        sums = self._table("crc32")
        _expect(
            sums.keys() == self.stored.keys(), "crc32", "a checksum for every tensor", f"{len(sums)} of them"
        )
        for key, tensor in self.stored.items():
            got = _crc32(tensor)
            _expect(sums[key] == got, f"tensor {key!r}", f"checksum {sums[key]!r}", str(got))

    def _sizes(self, name: str, entry: dict[str, Any]) -> list[int]:
        shape = entry.get("shape")
        good = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**31 for size in shape)
        _expect(good, f"entries[{name!r}].shape", "a list of sizes", shape)
        self.left -= math.prod(shape) if isinstance(shape, list) else 0
        _expect(self.left >= 0, f"entries[{name!r}].shape", "no more elements than the model has", shape)
        return shape if isinstance(shape, list) else []

    def _dense(self, name: str, sizes: list[int]) -> Tensor:
        tensor = self.stored[name]
        _expect(list(tensor.shape) == sizes, f"tensor {name!r}", f"shape {sizes}", _describe(tensor))
        return tensor

    def _masked(self, name: str, sizes: list[int], kind: str) -> Tensor:
        bits, values = self.stored[name + ":mask"], self.stored[name + ":values"]
        count = math.prod(sizes)
        good = bits.dtype == torch.uint8 and bits.dim() == 1 and bits.numel() == -(-count // 8)
        _expect(
            good, f"tensor {name + ':mask'!r}", f"{-(-count // 8)} bytes for shape {sizes}", _describe(bits)
        )
        right = values.dtype in ((torch.int8,) if kind == "scaled" else MASKED)
        what = "1-D int8" if kind == "scaled" else "1-D floating-point"
        good = right and values.dim() == 1
        _expect(good, f"tensor {name + ':values'!r}", f"a {what} tensor", _describe(values))
        kept = np.unpackbits(bits.numpy(), bitorder="little")
        _expect(
            not kept[count:].any(), f"tensor {name + ':mask'!r}", "zero bits after the last element", "ones"
        )
        mask = torch.from_numpy(kept[:count].view(np.bool_))
        total = int(mask.sum())
        _expect(
            total == values.numel(), f"tensor {name + ':values'!r}", f"{total} values", str(values.numel())
        )
        dense = torch.zeros(count, dtype=values.dtype)
        dense[mask] = values
        dense = dense.reshape(sizes)
        if kind == "masked":
            return dense
        scales = self.stored[name + ":scales"]
        good = len(sizes) == 2 and scales.dtype == torch.float32 and list(scales.shape) == sizes[:1]
        _expect(good, f"tensor {name + ':scales'!r}", f"float32 of shape {sizes[:1]}", _describe(scales))
        return dense * scales[:, None]

    def _ties(self, tensors: dict[str, Tensor]) -> dict[str, str]:
        ties = self._table("ties")
        for name, other in ties.items():
            good = isinstance(other, str) and other in tensors and name not in tensors
            _expect(good, f"ties[{name!r}]", "the name of an entry", other)
        return ties

    def _sparse(self, tensors: dict[str, Tensor]) -> dict[str, SparseEntry]:
        found = {}
        for path, entry in self._table("sparse").items():
            where = f"sparse[{path!r}]"
            _expect(isinstance(entry, dict), where, "an object", entry)
            activation, dtype = entry.get("activation"), entry.get("dtype")
            good = activation is None or isinstance(activation, str)
            names = ", ".join(str(name) for name in ACTIVATIONS)
            _expect(good and activation in ACTIVATIONS, f"{where}.activation", f"one of {names}", activation)
            _expect(isinstance(dtype, str) and dtype in DTYPES, f"{where}.dtype", ", ".join(DTYPES), dtype)
            form = entry.get("format", "auto")  # which the first files lack
            allowed = ("auto", "dot") if dtype in ("bfloat16", "int8") else ("auto",)
            _expect(form in allowed, f"{where}.format", " or ".join(allowed), form)
            stands_for = entry.get("weight_dtype")
            _expect(
                stands_for is None or stands_for in WEIGHTS, f"{where}.weight_dtype", str(WEIGHTS), stands_for
            )
            name = _weight_name(path)
            name = self.about["ties"].get(name, name)
            weight = tensors.get(name)
            good = weight is not None and weight.dim() == 2 and weight.dtype == DTYPES[dtype]
            _expect(good, where, f"a 2-D {dtype} tensor {name!r}", _describe(weight))
            found[path] = SparseEntry(activation, dtype, form, stands_for)
        return found

    def _table(self, key: str) -> dict[str, Any]:
        value = self.about.get(key)
        _expect(isinstance(value, dict), key, "an object", value)
        return value if isinstance(value, dict) else {}


def _parse(metadata: dict[str, str]) -> dict[str, Any]:
    text, checksum = metadata.get("prunus"), metadata.get("prunus_crc32")
    if text is None or checksum is None:
        raise FormatError(
            "metadata: expected a file written by prunus.save, got a safetensors file of another kind"
        )
    got = f"{zlib.crc32(text.encode()):08x}"
    _expect(checksum == got, "metadata", f"checksum {checksum!r}", got)
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"metadata: expected JSON, got {error}") from None
    version = about.get("version") if isinstance(about, dict) else None
    number = version if type(version) is int else 0
    _expect(number >= 1, "version", "a number from 1 up", version)
    newer = f"{number}: a newer prunus wrote this file, please upgrade"
    _expect(number <= VERSION, "version", f"at most {VERSION}", newer)
    found: dict[str, Any] = about
    return found


def _expect(ok: bool, name: str, expected: str, got: Any) -> None:
    if not ok:
        text = repr(got) if not isinstance(got, str) else got
        raise FormatError(f"{name}: expected {expected}, got {text[:200]}")


def _encode(tensor: Tensor, packed: str | None) -> tuple[str, list[Tensor]]:
    """Kind and stored parts of a tensor; packed: the dtype of the values if it is a SparseLinear's weight."""
    kept = _kept(tensor)
    if kept is None or (packed is None and int(kept.sum()) > (1 - MIN_ZEROS) * tensor.numel()):
        return "dense", [tensor]
    mask = torch.from_numpy(np.packbits(kept.numpy(), bitorder="little"))
    if packed != "int8":
        return "masked", [mask, tensor.reshape(-1)[kept]]
    # As pack does it: the largest value of a row becomes 127. Exact up to the last bit of the scale.
    largest = tensor.abs().amax(1) if tensor.numel() else torch.zeros(tensor.shape[0])
    scales = largest / 127
    values = torch.round(tensor / torch.where(scales > 0, scales, 1.0)[:, None]).to(torch.int8)
    return "scaled", [mask, values.reshape(-1)[kept], scales]


def _kept(tensor: Tensor) -> Tensor | None:
    """Flat bool mask of the elements that are not +0.0 in bits (a -0.0 is kept: the file is exact); None
    where a mask makes no sense."""
    if tensor.dim() < 2 or not tensor.is_floating_point() or tensor.element_size() == 1:
        return None
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.reshape(-1).view(bits) != 0


def _weight_name(path: str) -> str:
    return f"{path}.weight" if path else "weight"


def _crc32(tensor: Tensor) -> int:
    # reshape first: a tensor without dimensions cannot be viewed as bytes
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value)
