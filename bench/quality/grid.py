"""Which models are made: cells of words, and the words as methods and patterns."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from prunus import (
    NM,
    OWL,
    Block,
    Heads,
    Layers,
    Method,
    Neurons,
    Sensitivity,
    Unstructured,
)
from prunus.methods.known import METHODS as BY_WORD

SPARSITIES = (0.5, 0.6, 0.7, 0.8)
SEEDS = (0, 1, 2)
# Within a row, scaling rows changes nothing.
NOT_IN_ROWS = ("magnitude/row",)
WORDS = {word.replace("-", "/"): method for word, method in BY_WORD.items()}
METHODS = tuple(word for word in WORDS if word not in NOT_IN_ROWS)
# Without the seed: neither the calibration nor a generator matters to them.
FIXED = tuple(word for word in METHODS if not (WORDS[word].needs or WORDS[word].takes("seed")))
OPTIONS = ("magnitude+repair", "wanda+repair", "wanda x4", "sparsegpt x4", "taylor x4", "magnitude+repair x4")
PATTERNS = ("row", "tensor", "2:4", "4:8", "4x4", "16x1")
ALLOCATIONS = ("global", "owl", "sensitivity")
STRUCTURES = ("neurons", "heads", "layers")
COMPENSATIONS = ("none", "bias", "weight")


@dataclass(frozen=True)
class Cell:
    """One pruned model. sparsity: asked for; N:M fixes it; "layers": share of the blocks dropped."""

    method: str
    pattern: str
    sparsity: float
    seed: int = 0

    def key(self) -> tuple[Any, ...]:
        return self.method, self.pattern, self.sparsity, self.seed

    def record(self) -> dict[str, Any]:
        return asdict(self)


def quick_cells() -> Iterator[Cell]:
    """Two minutes on the encoder."""
    for method, sparsity in product(("magnitude", "magnitude/column", "wanda", "sparsegpt"), (0.5, 0.7)):
        yield Cell(method, "row", sparsity)
    yield Cell("sparsegpt", "2:4", 0.5)
    yield Cell("weight", "neurons", 0.25)


def cells() -> Iterator[Cell]:
    """The usual grid: methods x patterns x sparsities x seeds, structure, allocations and options; what tells
    most first."""
    yield from dict.fromkeys(_usual())


def _usual() -> Iterator[Cell]:
    yield from _every(METHODS, ("row",), 0)
    yield from structured(0)
    for allocation, sparsity in product(ALLOCATIONS, (0.6, 0.7)):
        yield Cell("wanda", allocation, sparsity)
    for sparsity, method in product((0.7, 0.6), OPTIONS):
        yield Cell(method, "row", sparsity)
    for seed in SEEDS:
        yield from _every(METHODS, PATTERNS, seed)
        if seed > 0:
            yield from structured(seed)
    yield from _every(NOT_IN_ROWS, ("tensor", "4x4", "16x1"), 0)


def _every(methods: Iterable[str], patterns: Iterable[str], seed: int) -> Iterator[Cell]:
    for pattern, sparsity, method in product(patterns, SPARSITIES, methods):
        fixed = ":" in pattern and sparsity != 0.5
        if not fixed and (seed == 0 or method not in FIXED):
            yield Cell(method, pattern, sparsity, seed)


def structured(seed: int) -> Iterator[Cell]:
    for what, how, sparsity in product(("neurons", "heads"), COMPENSATIONS, (0.25, 0.5)):
        yield Cell(how, what, sparsity, seed)
    for share in (0.25, 0.5):
        yield Cell("bias", "layers", share, seed)


def full_cells() -> Iterator[Cell]:
    """Every option and allocation too: hours."""
    seen = dict.fromkeys(cells())
    for seed in SEEDS:
        seen |= dict.fromkeys(_every((*METHODS, *OPTIONS), (*PATTERNS, *ALLOCATIONS), seed))
    yield from seen


def timed_cells(quick: bool) -> Iterator[Cell]:
    """What the pictures of quality against milliseconds show."""
    if quick:
        yield from (Cell(m, "row", s) for m, s in product(("magnitude", "sparsegpt"), (0.5, 0.7)))
        yield Cell("weight", "neurons", 0.25)
        return
    for sparsity, method in product((0.5, 0.7, 0.8, 0.9), ("wanda", "magnitude", "sparsegpt")):
        yield Cell(method, "row", sparsity)
    yield from (Cell("weight", what, s) for what, s in product(("neurons", "heads"), (0.25, 0.5)))
    yield from (Cell("bias", "layers", s) for s in (0.17, 0.34, 0.5))
    yield from (Cell("sparsegpt", nm, 0.5) for nm in ("2:4", "4:8"))
    yield from (Cell("sparsegpt", block, s) for block, s in product(("16x1", "4x4"), (0.5, 0.7, 0.8)))


def method_of(word: str, seed: int, loss: Any) -> Method:
    """`name[/variant][+repair][ xSTEPS]`."""
    found = re.fullmatch(r"(\w+(?:/\w+)?)(\+repair)?(?: x(\d+))?", word)
    if not found:
        raise ValueError(f"method: expected words such as 'wanda+repair x4', got {word!r}")
    name, repair, steps = found.groups()
    if name not in WORDS:
        raise ValueError(f"method: expected {', '.join(WORDS)}, got {name!r}")
    options = {"repair": bool(repair), "steps": int(steps or 1), "seed": seed, "loss": loss}
    return WORDS[name].of(name.replace("/", "-"), **options)


def pattern_of(word: str, sparsity: float) -> Any:
    """A pattern or an allocation, for `prune_`."""
    if nm := re.fullmatch(r"(\d+):(\d+)", word):
        return NM(int(nm[1]), int(nm[2]))
    if block := re.fullmatch(r"(\d+)x(\d+)", word):
        return Block((int(block[1]), int(block[2])), sparsity)
    row = Unstructured(sparsity, scope="row")
    kinds = {
        "row": row,
        "tensor": Unstructured(sparsity),
        "global": Unstructured(sparsity, scope="model"),
        "owl": OWL(row),
        "sensitivity": Sensitivity(row),
    }
    if word not in kinds:
        raise ValueError(f"pattern: expected {', '.join(kinds)}, N:M or RxC, got {word!r}")
    return kinds[word]


def structure_of(cell: Cell, blocks: int) -> Any:
    """What `shrink_` removes."""
    if cell.pattern == "layers":
        return Layers(max(1, round(cell.sparsity * blocks)), compensate=cell.method)
    kind = {"neurons": Neurons, "heads": Heads}[cell.pattern]
    return kind(cell.sparsity, compensate=cell.method)
