"""Hands mutants of packed weights and files to every door that takes bytes: see README.md."""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from mutate import Bytes, mutate_file, mutate_packed, mutate_tensors

import prunus
from prunus import _core
from prunus.packed import DTYPES, FLOAT_FORMATS

GOLDEN = Path(__file__).resolve().parents[1] / "formats" / "golden"
DOT_HEIGHTS = [1, 4, 16, 32]
TOKENS = [1, 2, 3, 4, 5, 8, 9, 17, 64, 70]
MOST_NUMBERS = 1 << 22  # of a dense weight: larger ones that a header claims are right, and take long


def seeds() -> list[Bytes]:
    """Small weights of every format and value type, and the golden ones."""
    rng = np.random.default_rng(0)
    found: list[Bytes] = []
    for n, k, share in ((1, 1, 1.0), (9, 20, 0.5), (40, 70, 0.3), (264, 200, 0.1), (16, 0, 0.5)):
        for format in FLOAT_FORMATS:
            for dtype in DTYPES:
                w = rng.standard_normal((n, k)).astype(np.float32) * (rng.random((n, k)) < share)
                if format == "nm" and k > 1:
                    w *= np.arange(k) % 4 < 2
                if format == "block" and k > 1:
                    w *= _blocks(rng, (n, k), (4, 2), share)
                found.append(prunus.pack(w, dtype=dtype, format=format).buffer)
        for dtype in DTYPES:
            w = rng.standard_normal((n, k)).astype(np.float32) * (rng.random((n, k)) < share)
            found.append(prunus.pack(w, dtype=dtype, format="warp").buffer)
        for height in DOT_HEIGHTS:
            for dtype, columns in (("int8", 4), ("bfloat16", 2)):
                w = rng.standard_normal((n, k)).astype(np.float32)
                w *= _blocks(rng, (n, k), (height, columns), max(share, 0.2))
                found.append(prunus.pack(w, dtype=dtype, format="dot").buffer)
    for file in sorted(GOLDEN.glob("*-*.npz")):
        with np.load(file) as arrays:
            found += [arrays[key] for key in arrays if key.endswith("_packed")]
    return found


def _blocks(
    rng: np.random.Generator, shape: tuple[int, int], block: tuple[int, int], share: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """1 in about this share of the blocks, 0 elsewhere."""
    counts = [-(-size // step) for size, step in zip(shape, block, strict=True)]
    return np.kron(rng.random(counts) < share, np.ones(block))[: shape[0], : shape[1]]


@contextlib.contextmanager
def refusals(*allowed: type[BaseException]) -> Iterator[None]:
    with contextlib.suppress(prunus.FormatError, *allowed):
        yield


class Packed:
    """Mutants through the numpy doors."""

    def __init__(self) -> None:
        self.seeds = seeds()

    def __call__(self, rng: np.random.Generator) -> None:
        bad = mutate_packed(self.seeds[rng.integers(len(self.seeds))], rng)
        with refusals():
            prunus.PackedWeight.from_buffer(bad)
        with refusals():
            info = _core.packed_info(bad)
            n, k = info["n"], info["k"]
            if n * max(k, 1) > MOST_NUMBERS or k > MOST_NUMBERS:
                return
            m = int(rng.choice(TOKENS))
            x = rng.standard_normal((m, k)).astype(np.float32)
            if rng.random() < 0.1 and x.size:
                x.flat[0] = np.nan
            with refusals():
                _core.unpack(bad)
            # What is for CUDA is unpacked here, and not multiplied.
            elsewhere = (ValueError,) if info["format"] == "warp" else ()
            with refusals(*elsewhere):
                _core.explain(bad, m)
            with refusals(*elsewhere):
                assert _core.linear(x, bad, None, 0, None).shape == (m, n)
            with refusals(*elsewhere):
                assert _core.gated(x, bad, bad, None, None, 4).shape == (m, n)


class Op:
    """Mutants through the torch operators and a module's state."""

    def __init__(self) -> None:
        import torch

        from prunus.ops.registered import linear_op  # defines them

        assert linear_op is not None
        self.torch, self.ops, self.seeds = torch, torch.ops.prunus, seeds()

    def __call__(self, rng: np.random.Generator) -> None:
        torch, ops = self.torch, self.ops
        seed = self.seeds[rng.integers(len(self.seeds))]
        bad = torch.from_numpy(mutate_packed(seed, rng))
        info = _core.packed_info(seed)
        n, k, m = info["n"], info["k"], int(rng.choice(TOKENS))
        with contextlib.suppress(prunus.FormatError):
            changed = _core.packed_info(bad.numpy())
            if changed["n"] * max(changed["k"], 1) <= MOST_NUMBERS and changed["k"] <= MOST_NUMBERS:
                n, k = changed["n"], changed["k"]
        x = torch.from_numpy(rng.standard_normal((m, k)).astype(np.float32)).to(
            (torch.float32, torch.bfloat16, torch.float16)[rng.integers(3)]
        )
        with torch.no_grad():
            with refusals(ValueError):
                assert ops.linear(x, bad, None, n, int(rng.integers(5))).shape == (m, n)
            with refusals(ValueError):
                ops.linear_add(x, bad, torch.zeros(n), torch.zeros(m, n, dtype=x.dtype), n, 0)
            with refusals(ValueError):
                ops.gated(x, bad, torch.from_numpy(seed), None, None, n, 4)
            with refusals(ValueError):
                ops.linear_many(x, [torch.from_numpy(seed), bad, bad], [None] * 3, [n] * 3)
            layer = prunus.SparseLinear(k, n, bias=False)
            assign = bool(rng.random() < 0.5)
            with refusals():
                layer.load_state_dict({"packed": bad}, assign=assign)
                layer(x)
                layer.to_linear()


class File:
    """Mutants of the golden checkpoints through `prunus.load`."""

    def __init__(self) -> None:
        spec: Any = importlib.util.spec_from_file_location("golden_write", GOLDEN / "write.py")
        self.writer: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.writer)
        self.files = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.safetensors"))}
        self.fresh = {
            name: self.writer.encoder() if name == "encoder" else self.writer.Layers() for name in self.files
        }
        self.path = Path(tempfile.mkdtemp()) / "mutant.safetensors"

    def __call__(self, rng: np.random.Generator) -> None:
        name = str(rng.choice(list(self.files)))
        self.path.write_bytes(mutate_file(self.files[name], rng))
        model = copy.deepcopy(self.fresh[name])
        before = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                prunus.load(model, self.path)
        except (prunus.FormatError, ValueError):
            after = model.state_dict()
            assert after.keys() == before.keys(), "an error left another model behind"
            assert all(equal(after[key], before[key]) for key in before), "an error left other values behind"


class Foreign:
    """Mutants of what other tools write through the reader of `prunus.load_pretrained`."""

    def __init__(self) -> None:
        import torch
        from safetensors.torch import save

        from prunus.checkpoint.foreign import read_foreign

        self.read, self.folder = read_foreign, Path(tempfile.mkdtemp())
        w = torch.arange(1.0, 61).reshape(5, 12) * (torch.arange(60).reshape(5, 12) % 4 < 2)
        mask = w != 0
        bits = torch.from_numpy(np.packbits(mask.numpy(), axis=-1, bitorder="little"))
        counts = mask.sum(-1)
        parts = {"a.shape": torch.tensor([5, 12]), "a.compressed": w[mask], "a.bitmask": bits}
        half = {
            "a.shape": torch.tensor([[5], [12]]),
            "a.compressed": w[mask].reshape(5, 6),
            "a.bitmask": bits,
        }
        self.files = [
            save({**parts, "a.row_offsets": counts.cumsum(0) - counts, "a.bias": torch.ones(5)}),
            save(half),
            save({"a.weight_orig": w, "a.weight_mask": mask.float(), "a.bias": torch.ones(5)}),
        ]

    def __call__(self, rng: np.random.Generator) -> None:
        bad = mutate_tensors(self.files[rng.integers(len(self.files))], rng)
        (self.folder / "model.safetensors").write_bytes(bad)
        with refusals():
            state = self.read(self.folder, {}, lambda: 1000)
            assert state is None or sum(tensor.numel() for tensor in state.values()) <= 1000 + len(bad)


def equal(a: Any, b: Any) -> bool:
    return bool(a.dtype == b.dtype and a.shape == b.shape and (a == b).all())


TARGETS: dict[str, Callable[[], Callable[[np.random.Generator], None]]] = {
    "packed": Packed,
    "op": Op,
    "file": File,
    "foreign": Foreign,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--only", choices=TARGETS, action="append")
    options = parser.parse_args()
    last = os.environ.get("FUZZ_LAST")
    names = options.only or list(TARGETS)
    for name in names:
        target, number = TARGETS[name](), options.first
        until = time.monotonic() + options.seconds / len(names)
        while time.monotonic() < until:
            if last:
                Path(last).write_text(f"--only {name} --seed {options.seed} --from {number}\n")
            try:
                target(np.random.default_rng([options.seed, number]))
            except BaseException:
                print(f"fault at --only {name} --seed {options.seed} --from {number}", file=sys.stderr)
                raise
            number += 1
        print(f"{name}: {number - options.first} mutants, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
