"""What is measured: layers named by the models that have them, and the suites made of them."""

import os
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Layer:
    """A Linear: y (m, n) = x (m, k) . w (n, k)^T."""

    model: str
    name: str
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.model} {self.name} {self.n}x{self.k}"


def model_layers(model: str, hidden: int, inner: int) -> tuple[Layer, Layer, Layer]:
    return (
        Layer(model, "attention", hidden, hidden),
        Layer(model, "up", inner, hidden),
        Layer(model, "down", hidden, inner),
    )


MINILM = model_layers("MiniLM", 384, 1536)
BERT = model_layers("BERT-base", 768, 3072)  # OPT-125M has the same three shapes
LLAMA = model_layers("Llama-7B", 4096, 11008)
LAYERS = {(layer.n, layer.k): layer for layer in (*MINILM, *BERT, *LLAMA)}

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


def find_layer(n: int, k: int) -> Layer:
    return LAYERS.get((n, k), Layer("custom", "layer", n, k))


@dataclass(frozen=True)
class LinearSuite:
    """Every combination of layers x m x threads is one group; all peers of a group are interleaved."""

    text: str
    layers: tuple[Layer, ...]
    m: tuple[int, ...]
    threads: tuple[int, ...] = (1, 2)
    sparsities: tuple[float, ...] = SPARSITIES
    peers: tuple[str, ...] | None = None  # None: all that are installed
    rotate: bool = False  # walk over copies of the weight that do not fit the caches together
    bias: bool = False
    activation: str | None = None

    def quick(self) -> "LinearSuite":
        few = tuple(s for s in self.sparsities if s in (0.5, 0.8, 0.9))
        peers = self.peers or (*CORE_PEERS, "onnxruntime", "onnxruntime-int8")
        return replace(
            self, layers=self.layers[:1], m=self.m[:1], threads=self.threads[:1], sparsities=few, peers=peers
        )


CORE_PEERS = ("torch", "numpy", "torch-csr", "prunus")
CPUS = len(os.sched_getaffinity(0))
THREADS = tuple(sorted({1, min(2, CPUS)}))

LINEAR_SUITES = {
    "linear": LinearSuite(
        "many tokens, every peer",
        layers=(BERT[1], BERT[0], BERT[2], *MINILM, LLAMA[0], LLAMA[1]),
        m=(128, 8, 32, 512),
        threads=THREADS,
    ),
    "encoder": LinearSuite(
        "m = 128 on encoder layers, the peers that set the goals",
        layers=(BERT[1], BERT[0], BERT[2], *MINILM),
        m=(128,),
        threads=THREADS,
        sparsities=(0.2, 0.3, 0.4, *SPARSITIES),
        peers=(*CORE_PEERS, "onnxruntime", "onnxruntime-int8"),
    ),
    "dot": LinearSuite(
        "products of int8 and bfloat16, pruned and whole, against the dense engines",
        layers=(BERT[1], BERT[0]),
        m=(128, 1, 8, 512),
        threads=(1,),
        sparsities=(0.5, 0.8),
        peers=(
            "torch",
            "torch-bf16",
            "torch-int8",
            "onnxruntime-int8",
            "openvino-bf16",
            *(f"prunus-dot-int8-{pattern}" for pattern in ("dense", "1x4", "4x4", "16x4")),
            *(f"prunus-dot-bfloat16-{pattern}" for pattern in ("dense", "16x2")),
        ),
    ),
    "decode": LinearSuite(
        "few tokens, weights rotated through memory",
        layers=(LLAMA[0], LLAMA[1]),
        m=(1, 2, 4, 7),
        threads=THREADS,
        rotate=True,
    ),
    "cliffs": LinearSuite(
        "time per token at every m from 1 to 130",
        layers=(BERT[1],),
        m=tuple(range(1, 131)),
        threads=THREADS,
        sparsities=(0.8, 0.9),
        peers=("torch", "prunus"),
    ),
    "threads": LinearSuite(
        "scaling over threads",
        layers=(BERT[1], LLAMA[0]),
        m=(128, 1),
        threads=tuple(range(1, CPUS + 1)),
        sparsities=(0.8, 0.9),
        peers=("torch", "numpy", "onnxruntime", "prunus"),
    ),
    "calls": LinearSuite(
        "overhead of one small call",
        layers=(MINILM[0],),
        m=(1,),
        threads=THREADS,
        sparsities=(0.9,),
        peers=("torch", "numpy", "torch-csr", "prunus", "prunus-numpy"),
    ),
    "fused": LinearSuite(
        "bias and exact GELU fused at the store",
        layers=(BERT[1], MINILM[1]),
        m=(128, 8),
        threads=THREADS,
        sparsities=(0.5, 0.8, 0.9),
        bias=True,
        activation="gelu",
    ),
}
OTHER_SUITES = {
    "selection": "scores to masks and row normalisation, against torch, numpy and torch.nn.utils.prune",
    "fusions": "activation, residual sum, gated product, query key value: in one pass against in steps",
    "train": "a training step, forward and all gradients: on the packed weight against dense",
    "pack": "packing and unpacking, GB/s of dense weight, and the memory peak",
}
