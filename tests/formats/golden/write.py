"""Writes the golden files: `python tests/formats/golden/write.py`. A file that exists is never written again.
The files here are of commit 6b3a784, the last one before kernels became rows.

`FORMAT-DTYPE.npz` holds two packed weights, wide and tall, with what today's code makes of them. All numbers
are whole and small, so that every sum is exact in any order and on every instruction set. The largest weight
of a row is 127, so that int8 values have the scale 1 and all value types hold the same weights.
`dot-DTYPE.npz` (of the commit that added it) holds a packed weight for every height of a block; each token
ranges from -127 to 128, so that its 8-bit integers have the scale 1.
`warp-DTYPE.npz` (likewise) holds the shapes of the first, packed for CUDA, with the dense weights.
`DTYPE.safetensors` is a checkpoint of `Layers`, `encoder.safetensors` one of a BERT that was shrunk, pruned
and fused; `checkpoints.npz` has the inputs and outputs of both.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

import prunus
from prunus import SparseLinear
from prunus.packed import DTYPES, FLOAT_FORMATS

FOLDER = Path(__file__).parent
SHAPES = {"wide": (13, 270), "tall": (261, 13)}  # more columns, and more rows, than a tile
TOKENS = 5
DOT_DTYPES, DOT_HEIGHTS = ("bfloat16", "int8"), (1, 4, 16, 32)


def weight(rng: np.random.Generator, n: int, k: int, format: str, sparsity: float) -> np.ndarray:
    """A float32 weight (n, k) of whole numbers in the pattern of the format, with an empty row and holes."""
    w = rng.integers(1, 9, (n, k)) * rng.choice([-1, 1], (n, k))
    scores = rng.random((n, k + -k % 4), dtype=np.float32)  # whole groups; what is beyond k is cut off
    pattern = {"nm": prunus.NM(2, 4), "block": prunus.Block((4, 2), sparsity)}
    w *= prunus.select(scores, pattern.get(format, prunus.Unstructured(sparsity)))[:, :k]
    w[4:8] = 0
    if format in ("nm", "block"):
        fullest = w[np.argmax((w != 0).sum(axis=1))]
        fullest[np.flatnonzero(fullest)[1]] = 0  # a slot of the pattern that holds a zero
    for row in w:
        row[np.flatnonzero(row)[:1]] = 127
    return w.astype(np.float32)


def packed_weights(format: str, dtype: str) -> dict[str, np.ndarray]:
    """The arrays of one file: per shape packed, dense, x, bias and y = x dense^T + bias."""
    rng = np.random.default_rng(FLOAT_FORMATS.index(format))
    arrays = {}
    for name, (n, k) in SHAPES.items():
        w = weight(rng, n, k, format, {"wide": 0.8, "tall": 0.9}[name])
        x = rng.integers(-3, 4, (TOKENS, k)).astype(np.float32)
        bias = rng.integers(-9, 10, n).astype(np.float32)
        packed = prunus.pack(w, dtype=dtype, format=format)
        y = prunus.linear(x, packed, bias)
        assert (y == x.astype(np.float64) @ w.astype(np.float64).T + bias).all()
        whole = {"dense": w.astype(np.int8), "x": x.astype(np.int8), "bias": bias.astype(np.int8)}
        arrays |= {f"{name}_{key}": value for key, value in whole.items()}
        arrays |= {f"{name}_packed": packed.buffer, f"{name}_y": y.astype(np.int32)}
    return arrays


def dot_weights(dtype: str) -> dict[str, np.ndarray]:
    """The arrays of one file: per height packed, dense, x, bias and y."""
    rng = np.random.default_rng(50)
    arrays = {}
    for rows in DOT_HEIGHTS:
        n, k = 37, 150
        kept = np.kron(rng.random((-(-n // rows), -(-k // 4))) >= 0.6, np.ones((rows, 4)))[:n, :k]
        w = rng.integers(1, 9, (n, k)) * rng.choice([-1, 1], (n, k)) * kept
        for row in w:
            row[np.flatnonzero(row)[:1]] = 127
        x = rng.integers(-9, 10, (TOKENS, k))
        x[:, 3], x[:, 77] = -127, 128
        bias = rng.integers(-9, 10, n)
        packed = prunus.pack(w.astype(np.float32), dtype=dtype, format="dot", rows=rows)
        y = prunus.linear(x.astype(np.float32), packed, bias.astype(np.float32))
        assert (y == x @ w.astype(np.int64).T + bias).all()
        whole = {"dense": w.astype(np.int8), "x": x.astype(np.int16), "bias": bias.astype(np.int8)}
        arrays |= {f"{rows}_{key}": value for key, value in whole.items()}
        arrays |= {f"{rows}_packed": packed.buffer, f"{rows}_y": y.astype(np.int32)}
    return arrays


def warp_weights(dtype: str) -> dict[str, np.ndarray]:
    """The arrays of one file: per shape packed and dense."""
    rng = np.random.default_rng(60)
    arrays = {}
    for name, (n, k) in SHAPES.items():
        w = weight(rng, n, k, "bitmap", 0.8)
        packed = prunus.pack(w, dtype=dtype, format="warp").buffer
        arrays |= {f"{name}_packed": packed, f"{name}_dense": w.astype(np.int8)}
    return arrays


class Layers(nn.Module):
    """One layer for every format and a pruned dense one whose weight has a second name."""

    def __init__(self) -> None:
        super().__init__()
        for name in FLOAT_FORMATS:
            setattr(self, name, nn.Linear(40, 24))
        self.dense = nn.Linear(40, 24)
        self.tied = nn.Linear(40, 24, bias=False)
        self.tied.weight = self.dense.weight
        self.register_buffer("steps", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., 40) -> (..., 144): the layers' outputs side by side."""
        return torch.cat([getattr(self, name)(x) for name in (*FLOAT_FORMATS, "dense", "tied")], dim=-1)


def layers(dtype: str) -> Layers:
    """`Layers` with whole numbers, the sparse ones packed with values of `dtype`; nm has an activation."""
    rng = np.random.default_rng(7)
    model = Layers()
    for module in model.children():
        module.requires_grad_(False)
        if module.bias is not None:
            module.bias.copy_(torch.from_numpy(rng.integers(-9, 10, 24).astype(np.float32)))
    for name in (*FLOAT_FORMATS, "dense"):
        linear = getattr(model, name)
        linear.weight.copy_(torch.from_numpy(weight(rng, 24, 40, name, 0.5 if name == "bitmap" else 0.8)))
        if name != "dense":
            activation = "relu" if name == "nm" else None
            setattr(model, name, SparseLinear.from_linear(linear, dtype=dtype, activation=activation))
    return model.eval()


def encoder() -> BertModel:
    """A fresh tiny BERT, the architecture of `encoder.safetensors` before anything was removed."""
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).eval()


def pruned_encoder() -> BertModel:
    """The encoder with half of its neurons, in one block half of its heads, zeros, packed and fused."""
    model = encoder()
    for parameter in model.parameters():
        parameter.data.mul_(8).round_().div_(8)  # few different bytes: a small file
    ids = torch.arange(30).reshape(2, 15)
    prunus.shrink_(model, prunus.Neurons(0.5), calibration=[{"input_ids": ids}])
    prunus.prune_(model, prunus.Unstructured(0.6))
    prunus.accelerate_(model, {"input_ids": ids}, min_speedup=0)
    prunus.fuse_(model)
    return model


def output(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """What the model makes of x: its answer, or the hidden states of a BERT."""
    with torch.no_grad():
        y = model(x)
    return (y if isinstance(y, torch.Tensor) else y.last_hidden_state).numpy()


def checkpoints() -> dict[str, np.ndarray]:
    """Writes the missing checkpoints; returns inputs and outputs of both models."""
    x = torch.from_numpy(np.random.default_rng(8).integers(-3, 4, (TOKENS, 40)).astype(np.float32))
    ids = torch.arange(30).reshape(2, 15)
    for dtype in DTYPES:
        path = FOLDER / f"{dtype}.safetensors"
        if not path.exists():
            prunus.save(layers(dtype), path)
    model = pruned_encoder()
    prunus.save(model, FOLDER / "encoder.safetensors")
    return {
        "x": x.numpy(),
        "y": output(layers("float32"), x),
        "ids": ids.numpy(),
        "hidden": output(model, ids),
    }


def main() -> None:
    """Writes what is missing."""
    for format in FLOAT_FORMATS:
        for dtype in DTYPES:
            path = FOLDER / f"{format}-{dtype}.npz"
            if not path.exists():
                np.savez_compressed(path, **packed_weights(format, dtype))
    for dtype in DOT_DTYPES:
        path = FOLDER / f"dot-{dtype}.npz"
        if not path.exists():
            np.savez_compressed(path, **dot_weights(dtype))
    for dtype in DTYPES:
        path = FOLDER / f"warp-{dtype}.npz"
        if not path.exists():
            np.savez_compressed(path, **warp_weights(dtype))
    if not (FOLDER / "checkpoints.npz").exists():
        np.savez_compressed(FOLDER / "checkpoints.npz", **checkpoints())


if __name__ == "__main__":
    main()
