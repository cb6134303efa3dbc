"""Pruned weights as other tools write them into a model directory, read as dense tensors with their zeros.

compressed-tensors, "sparse-bitmask": PATH.compressed, the kept values row after row; PATH.bitmask, uint8
(n, ceil(k/8)), a bit per weight, lowest first, each row from a new byte on; PATH.shape, the sizes;
PATH.row_offsets, where each row begins among the values. "sparse-24-bitmask" has no row_offsets, and keeps
two of four even where they are zero. The oldest files have whole tensor names where PATH is.
torch.nn.utils.prune: NAME_orig and NAME_mask.

Sizes are compared with the file and with the model before anything is allocated: a mask needs a bit for what
becomes a number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus._core import FormatError
from prunus.checkpoint.expect import expect

__all__ = ["forget_compression", "read_foreign"]

METHOD = "compressed-tensors"
SPARSE = ("sparse-bitmask", "sparse-24-bitmask")
# What configs call it; the last two are of files from before transformers knew the first.
CONFIG_KEYS = ("quantization_config", "compression_config", "sparsity_config")
PARTS = (".compressed", ".bitmask", ".shape")
# No tensor of a model of transformers is called so: what ends like this is a part of a pruned weight,
MARKS = (".compressed", ".bitmask")
# or of a quantised one.
QUANTISED = (".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_global_scale", ".scale_packed")
FLOATS = ("F64", "F32", "F16", "BF16")
MASKS = (*FLOATS, "BOOL", "U8", "I8", "I32", "I64")
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def forget_compression(config: dict[str, Any]) -> dict[str, Any]:
    """Takes what a config says about compressed-tensors out of it, and returns that.

    >>> config = {"hidden_size": 8, "quantization_config": {"quant_method": "compressed-tensors"}}
    >>> forget_compression(config), config
    ({'quant_method': 'compressed-tensors'}, {'hidden_size': 8})
    """
    found: dict[str, Any] = {}
    for key in CONFIG_KEYS:
        value = config.get(key)
        if not isinstance(value, dict) or value.get("quant_method", METHOD) != METHOD:
            continue  # of another method, which transformers knows
        del config[key]
        found |= {"sparsity_config": value} if key == "sparsity_config" else value
    return found


def read_foreign(
    folder: Path, compression: Mapping[str, Any], most: Callable[[], int]
) -> dict[str, Tensor] | None:
    """The dense state of a directory of one of these kinds; None: it is of none, transformers can open it.

    compression: what `forget_compression` took from the config. most: how many elements the tensors may have
    together; asked only where there are such weights. Raises FormatError naming the tensor or the field.
    """
    declared = _sparse_format(compression)
    with ExitStack() as files:
        names = _open(folder, files)
        if not names:
            return None
        quantised = sorted(name for name in names if name.endswith(QUANTISED))
        sparse = any(name.endswith(MARKS) for name in names)
        masked = [name.removesuffix("_orig") for name in names if name.endswith("_orig")]
        masked = [name for name in masked if f"{name}_mask" in names]
        if not (compression or sparse or masked):
            return None
        if compression or sparse:
            some = f"quantised {quantised[:1]}"
            expect(not quantised, "model directory", "weights that are pruned only", some)
        state = _State(names, most())
        if sparse or declared:
            state.read_sparse()
        for name in masked:
            state.read_masked(name)
        return state.rest()


def _sparse_format(compression: Mapping[str, Any]) -> bool:
    """Whether the config says that weights are sparse; FormatError where it says that they are quantised."""
    for key in ("config_groups", "kv_cache_scheme"):
        value = compression.get(key)
        expect(not value, key, "none: prunus opens pruned weights, not quantised ones", value)
    inner = compression.get("sparsity_config") or {}
    expect(isinstance(inner, dict), "sparsity_config", "an object", inner)
    formats = [about.get("format") for about in (compression, inner)]
    for given in formats:
        expect(given in (None, "dense", *SPARSE), "compression format", f"dense, {', '.join(SPARSE)}", given)
    return any(given in SPARSE for given in formats)


def _open(folder: Path, files: ExitStack) -> dict[str, Any]:
    """Tensor name -> the open file that has it, of the directory's one file or of those in its index."""
    from safetensors import SafetensorError, safe_open

    names: dict[str, Any] = {}
    for path in _weight_files(folder):
        try:
            file = files.enter_context(safe_open(path, framework="pt"))
            keys = list(file.keys())
        except (SafetensorError, OSError, UnicodeError) as error:
            raise FormatError(
                f"model directory: expected complete safetensors files in {str(folder)!r}, "
                f"got {path.name!r} ({error})"
            ) from None
        for key in keys:
            expect(key not in names, f"tensor {key!r}", "in one file", "in two")
            names[key] = file
    return names


def _weight_files(folder: Path) -> list[Path]:
    if (folder / ONE_FILE).exists():
        return [folder / ONE_FILE]
    if not (folder / INDEX).exists():
        return []
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{INDEX}: expected JSON, got {error}") from None
    table = index.get("weight_map") if isinstance(index, dict) else None
    expect(isinstance(table, dict), f"{INDEX}: weight_map", "an object", table)
    values = list(table.values()) if isinstance(table, dict) else []
    for value in values:
        # A name with a folder in it could lead out of the directory.
        plain = isinstance(value, str) and Path(value).name == value and value.endswith(".safetensors")
        expect(plain, f"{INDEX}: weight_map", "names of safetensors files", value)
    return [folder / value for value in sorted(set(values))]


class _State:
    """The tensors that were read; `names`: which open file has a stored one, until it was used."""

    def __init__(self, names: dict[str, Any], most: int) -> None:
        self.names, self.left = names, most
        self.tensors: dict[str, Tensor] = {}

    def read_sparse(self) -> None:
        for base in list(self._bases()):
            which = f"tensor {base!r}"
            missing = [base + part for part in PARTS if base + part not in self.names]
            expect(not missing, which, "compressed, bitmask and shape in the files", f"no {missing}")
            sizes = self._sizes(base)
            count = math.prod(sizes)
            mask = self._mask(base, sizes)
            kept = int(mask.sum())
            _check_values(f"{which}: compressed", self._about(f"{base}.compressed"), kept)
            values = self._take(f"{base}.compressed").reshape(-1)
            self._check_offsets(base, mask)
            dense = torch.zeros(count, dtype=values.dtype, device="cpu")
            dense[torch.from_numpy(mask.reshape(-1))] = values
            whole = base.rpartition(".")[2] in ("weight", "bias")
            self._put(base if whole else f"{base}.weight", dense.reshape(sizes))

    def read_masked(self, name: str) -> None:
        which = f"tensor '{name}_mask'"
        (shape, dtype), (mask_shape, mask_dtype) = (
            self._about(f"{name}_{part}") for part in ("orig", "mask")
        )
        expect(shape == mask_shape, which, f"shape {shape}", str(mask_shape))
        expect(mask_dtype in MASKS, which, "numbers or booleans", mask_dtype)
        expect(dtype in FLOATS, f"tensor '{name}_orig'", "floating-point numbers", dtype)
        self._spend(name, shape)
        original, mask = self._take(f"{name}_orig"), self._take(f"{name}_mask")
        expect(bool(((mask == 0) | (mask == 1)).all()), which, "zeros and ones", "other numbers")
        # Not a product: what is masked out may be infinite.
        self._put(name, original.masked_fill(mask == 0, 0.0))

    def rest(self) -> dict[str, Tensor]:
        for name in list(self.names):
            self._put(name, self._take(name))
        return self.tensors

    def _bases(self) -> Iterator[str]:
        marked = (name.removesuffix(mark) for name in self.names for mark in MARKS if name.endswith(mark))
        yield from dict.fromkeys(marked)

    def _sizes(self, base: str) -> list[int]:
        name = f"tensor '{base}.shape'"
        shape, dtype = self._about(f"{base}.shape")
        small = math.prod(shape) in (1, 2) and dtype in ("I64", "I32")
        expect(small, name, "one or two integers", f"{dtype} {tuple(shape)}")
        sizes: list[int] = self._take(f"{base}.shape").reshape(-1).tolist()
        expect(all(0 <= size < 2**31 for size in sizes), name, "sizes", sizes)
        self._spend(base, sizes)
        return sizes

    def _spend(self, name: str, sizes: list[int]) -> None:
        self.left -= math.prod(sizes)
        limit = "no more elements than the model of this config has"
        expect(self.left >= 0, f"tensor {name!r}", limit, sizes)

    def _mask(self, base: str, sizes: list[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        name, columns = f"tensor '{base}.bitmask'", sizes[-1]
        shape, dtype = self._about(f"{base}.bitmask")
        wanted = [*sizes[:-1], -(-columns // 8)]
        expect(dtype == "U8" and shape == wanted, name, f"U8 {tuple(wanted)}", f"{dtype} {tuple(shape)}")
        bits = np.unpackbits(self._take(f"{base}.bitmask").numpy(), axis=-1, bitorder="little")
        expect(not bits[..., columns:].any(), name, "zero bits after the last column", "ones")
        return np.ascontiguousarray(bits[..., :columns]).view(np.bool_)

    def _check_offsets(self, base: str, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        key = f"{base}.row_offsets"
        if key not in self.names:  # 2:4 files have none
            return
        counts = np.atleast_1d(mask.sum(axis=-1, dtype=np.int64))
        shape, dtype = self._about(key)
        good = dtype in ("I64", "I32") and math.prod(shape) == counts.size
        expect(good, f"tensor {key!r}", f"{counts.size} integers", f"{dtype} {tuple(shape)}")
        same = np.array_equal(self._take(key).numpy().reshape(-1), np.cumsum(counts) - counts)
        expect(same, f"tensor {key!r}", "where the rows of the bitmask begin", "other numbers")

    def _about(self, name: str) -> tuple[list[int], str]:
        """Shape and dtype by the file's header, which was compared with the file's size."""
        about = self.names[name].get_slice(name)
        return list(about.get_shape()), str(about.get_dtype())

    def _take(self, name: str) -> Tensor:
        from safetensors import SafetensorError

        try:
            tensor: Tensor = self.names.pop(name).get_tensor(name)
        except (SafetensorError, RuntimeError, ValueError, KeyError, AttributeError) as error:
            # Of a dtype that this torch does not have.
            raise FormatError(f"tensor {name!r}: expected one that torch can read, got {error}") from None
        return tensor

    def _put(self, name: str, tensor: Tensor) -> None:
        expect(name not in self.tensors and name not in self.names, f"tensor {name!r}", "once", "twice")
        self.tensors[name] = tensor


def _check_values(which: str, about: tuple[list[int], str], count: int) -> None:
    shape, dtype = about
    expect(dtype in FLOATS, which, f"numbers of {', '.join(FLOATS)}", dtype)
    got = math.prod(shape)
    expect(got == count, which, f"{count} values for the bits that are set", str(got))
