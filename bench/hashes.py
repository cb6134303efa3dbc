"""Do two builds give the same bits? `python -m bench.hashes FILE` writes one hash per case as JSON.

`python -m bench.hashes BEFORE AFTER` compares two such files; the exit status is 1 where a case that both
have differs or one is missing from AFTER. Only public functions are called, so that builds of different days
can be compared: run it once in the environment of each build. All numbers are made from fixed seeds.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import prunus
from prunus import _core
from prunus.packed import CPU_FORMATS, DTYPES

TOKENS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 24, 33, 64, 65, 128)
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
KINDS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SHAPE = (200, 328)
LONG = (40, 4104)  # a strip of more than 64 thousand floats
# What happens at the store; "bias" is the plain product.
VARIANTS = ("bias", "relu", "gelu", "gelu_tanh", "silu", "residual", "gated", "nonfinite", "2 threads")


def digest(array: np.ndarray) -> str:
    """The first 16 hex digits of the SHA-256 of dtype, shape and bytes; all NaN are one."""
    if array.dtype != np.uint8:
        array = np.where(np.isnan(array.astype(np.float32)), np.array(np.nan, array.dtype), array)
    about = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(about + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def weight(shape: tuple[int, int], format: str, sparsity: float, seed: int = 0) -> np.ndarray:
    """A float32 weight (n, k) in the pattern of the format; N:M is the nearest N of 4 or of 8."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape, dtype=np.float32)
    kept = max(1, round((1 - sparsity) * 8))
    pattern = {
        "nm": prunus.NM(kept // 2, 4) if kept % 2 == 0 else prunus.NM(kept, 8),
        "block": prunus.Block((4, 4) if sparsity < 0.85 else (16, 1), sparsity),
    }.get(format, prunus.Unstructured(sparsity))
    mask = prunus.select(rng.random(shape, dtype=np.float32), pattern)
    prunus.apply_mask_(w, mask)
    return w


def run(variant: str, x: np.ndarray, packed: Any, other: Any, bias: np.ndarray) -> np.ndarray:
    """One output of a variant; x (m, k), bias (n,)."""
    if variant == "gated":
        return prunus.gated(x, packed, other, bias, bias)
    if variant == "residual":
        residual = np.outer(np.arange(len(x)) - 2.5, bias).astype(x.dtype)
        return prunus.linear(x, packed, bias, residual=residual)
    if variant == "nonfinite":
        x = x.copy()
        x[0, 3], x[-1, -1] = np.nan, np.inf
        return prunus.linear(x, packed, bias)
    _core.set_num_threads(2 if variant == "2 threads" else 1)
    y = prunus.linear(x, packed, bias, variant if variant in prunus.ops.ACTIVATIONS else None)
    _core.set_num_threads(1)
    return y


def activations(m: int, k: int, kind: str) -> np.ndarray:
    """m tokens (m, k); the first rows are the same for every m."""
    return np.random.default_rng(1).standard_normal((m, k), dtype=np.float32).astype(KINDS[kind])


def product_cases(shape: tuple[int, int], variants: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(name, hash) of packed buffers and of every variant, for the isa that is set."""
    n, k = shape
    bias = np.linspace(-1, 1, n, dtype=np.float32)
    for format in (*CPU_FORMATS, "auto"):
        for sparsity in SPARSITIES:
            first, second = (weight(shape, format, sparsity, seed) for seed in (0, 2))
            for dtype in ("bfloat16", "int8") if format == "dot" else DTYPES:
                packed, other = (prunus.pack(w, dtype=dtype, format=format) for w in (first, second))
                case = f"{_core.active_isa()} {n}x{k} {format} {sparsity} {dtype}"
                yield f"{case} packed", digest(packed.buffer)
                yield f"{case} dense", digest(packed.to_dense())
                if format == "auto":
                    continue
                for kind, m, variant in product(KINDS, TOKENS, variants):
                    y = run(variant, activations(m, k, kind), packed, other, bias)
                    yield f"{case} {kind} m={m} {variant}", digest(y)


def shared_cases() -> Iterator[tuple[str, str]]:
    """(name, hash) of query, key and value that share one pass over their input, as `fuse_` makes them."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=8, hidden_size=96, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8
    )
    for dtype in DTYPES:
        for sparsity in SPARSITIES:
            model = BertModel(config).eval().requires_grad_(False)
            attention = model.encoder.layer[0].attention.self
            for seed, name in enumerate(("query", "key", "value")):
                linear = getattr(attention, name)
                linear.weight.copy_(torch.from_numpy(weight((96, 96), "auto", sparsity, seed)))
                linear.bias.copy_(torch.linspace(-1, 1, 96) * (seed + 1))
                setattr(attention, name, prunus.SparseLinear.from_linear(linear, dtype=dtype))
            prunus.fuse_(model)
            layers = [getattr(attention, name) for name in ("query", "key", "value")]
            assert all(type(layer) is not prunus.SparseLinear for layer in layers), "not fused"
            for m in TOKENS:
                x = torch.from_numpy(activations(m, 96, "float32"))
                y = np.concatenate([layer(x).numpy() for layer in layers], axis=1)
                yield f"{_core.active_isa()} shared {sparsity} {dtype} m={m}", digest(y)


def hashes(isas: list[str]) -> dict[str, str]:
    """Case -> hash, over all isas."""
    found: dict[str, str] = {}
    for isa in isas:
        _core.set_isa(isa)
        _core.set_num_threads(1)
        for cases in (product_cases(SHAPE, VARIANTS), product_cases(LONG, ("bias",)), shared_cases()):
            found.update(cases)
        print(f"{isa}: {len(found)} cases so far", file=sys.stderr)
    _core.set_isa("auto")
    _core.set_num_threads(0)
    return found


def compare(before: dict[str, str], after: dict[str, str]) -> int:
    """Prints what differs or is missing; 1 where something does."""
    missing = [case for case in before if case not in after]
    differ = [case for case in before if case in after and before[case] != after[case]]
    for title, cases in (("differ", differ), ("missing", missing)):
        words = Counter(word for case in cases for word in case.split())
        print(f"{len(cases)} of {len(before)} cases {title}")
        for case in cases[:20]:
            print(f"  {case}")
        if len(cases) > 20:
            print("  most in common: " + ", ".join(f"{w} ({c})" for w, c in words.most_common(8)))
    return int(bool(missing or differ))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.hashes", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="one: to write; two: to compare")
    parser.add_argument("--isas", help="names with commas; default: all that this machine has")
    options = parser.parse_args(arguments)
    if len(options.files) == 2:
        before, after = (json.loads(path.read_text()) for path in options.files)
        return compare(before, after)
    isas = options.isas.split(",") if options.isas else list(_core.available_isas())
    options.files[0].write_text(json.dumps(hashes(isas), indent=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
