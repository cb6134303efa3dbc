"""Scores to masks on a GPU, against what torch offers there: `python -m bench.cuda_selection FILE`.

Times are CUDA events around whole calls, masks included: gaps in which the GPU waits for Python count.
Every peer's answer is checked. JSON lines: one that describes the device, then one record per peer of a case.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import prunus
from bench.contest import Contestant
from prunus import NM, Block, Unstructured

SHAPES = ((4096, 4096), (11008, 4096))
DTYPES = (torch.float32, torch.bfloat16)
REPEATS, MOST_MS = 20, 300.0


def separates(scores: Tensor, mask: Tensor, dim: int | None = None) -> bool:
    """Whether no pruned entry is larger than a kept one, of all or of every line along `dim`."""
    kept, pruned = scores.masked_fill(~mask, torch.inf), scores.masked_fill(mask, -torch.inf)
    if dim is None:
        return bool(kept.amin() >= pruned.amax())
    return bool((kept.amin(dim) >= pruned.amax(dim)).all())


def tensor_case(t: Tensor) -> list[Contestant]:
    flat, pruned = t.view(-1), t.numel() // 2

    def topk() -> Tensor:
        mask = torch.zeros(t.numel(), dtype=torch.bool, device=t.device)
        mask[torch.topk(flat, t.numel() - pruned, sorted=False).indices] = True
        return mask.view_as(t)

    calls: dict[str, Callable[[], Tensor]] = {
        "prunus": lambda: prunus.select(t, Unstructured(0.5)),
        "torch.topk": topk,
        "torch.kthvalue": lambda: t > torch.kthvalue(flat, pruned).values,
        "torch.sort": lambda: t > torch.sort(flat).values[pruned - 1],
    }
    return [Contestant(peer, call, lambda mask: separates(t, mask)) for peer, call in calls.items()]


def line_case(t: Tensor, dim: int) -> list[Contestant]:
    """A budget for every row (dim 1) or column (dim 0)."""
    pattern, pruned = Unstructured(0.5, "row" if dim == 1 else "column"), t.shape[dim] // 2

    def sort_scatter() -> Tensor:  # the public Wanda code's way
        indices = torch.sort(t, dim=dim, stable=True).indices.narrow(dim, 0, pruned)
        return torch.ones_like(t, dtype=torch.bool).scatter_(dim, indices, False)

    def topk() -> Tensor:
        kept = torch.topk(t, t.shape[dim] - pruned, dim=dim, sorted=False).indices
        return torch.zeros_like(t, dtype=torch.bool).scatter_(dim, kept, True)

    calls: dict[str, Callable[[], Tensor]] = {
        "prunus": lambda: prunus.select(t, pattern),
        "torch.topk": topk,
        "torch.kthvalue": lambda: t > torch.kthvalue(t, pruned, dim=dim, keepdim=True).values,
        "torch.sort": sort_scatter,
    }
    return [Contestant(peer, call, lambda mask: separates(t, mask, dim)) for peer, call in calls.items()]


def group_case(t: Tensor) -> list[Contestant]:
    """2:4."""
    groups = t.view(-1, 4)

    def topk() -> Tensor:
        mask = torch.zeros_like(groups, dtype=torch.bool)
        return mask.scatter_(1, groups.topk(2, dim=1).indices, True).view_as(t)

    def right(mask: Tensor) -> bool:
        return int(mask.sum()) == t.numel() // 2 and separates(groups, mask.view(-1, 4), 1)

    return [
        Contestant("prunus", lambda: prunus.select(t, NM(2, 4)), right),
        Contestant("torch.topk", topk, right),
    ]


def block_case(t: Tensor, side: int) -> list[Contestant]:
    n, k = t.shape
    blocks = t.view(n // side, side, k // side, side)

    def topk() -> Tensor:
        sums = blocks.sum((1, 3), dtype=torch.float64).view(-1)
        keep = torch.zeros(len(sums), dtype=torch.bool, device=t.device)
        keep[torch.topk(sums, len(sums) - len(sums) // 2, sorted=False).indices] = True
        grid = keep.view(n // side, 1, k // side, 1)
        return grid.expand(-1, side, -1, side).reshape(n, k)

    def right(mask: Tensor) -> bool:
        return int(mask.sum()) == t.numel() // 2

    pattern = Block((side, side), 0.5)
    calls = {"prunus": lambda: prunus.select(t, pattern), "torch.topk": topk}
    return [Contestant(peer, call, right) for peer, call in calls.items()]


def norm_case(t: Tensor, axis: int) -> list[Contestant]:
    exact = t.double() / t.double().norm(dim=axis, keepdim=True)

    def right(unit: Tensor) -> bool:
        return bool((unit.double() - exact).abs().amax() < 4 * torch.finfo(t.dtype).eps)

    return [
        Contestant("prunus", lambda: prunus.normalize(t, axis), right),
        Contestant("torch.F.normalize", lambda: torch.nn.functional.normalize(t, dim=axis), right),
        Contestant("(one copy)", t.clone, lambda copy: torch.equal(copy, t)),
    ]


def mask_case(t: Tensor) -> list[Contestant]:
    mask = prunus.select(t, Unstructured(0.5))
    w, other = t.clone(), t.clone()

    def right(w: Tensor) -> bool:
        return torch.equal(w, t * mask)

    return [
        Contestant("prunus", lambda: prunus.apply_mask_(w, mask), right),
        Contestant("torch.masked_fill_", lambda: other.masked_fill_(~mask, 0), right),
    ]


CASES: dict[str, Callable[[Tensor], list[Contestant]]] = {
    "tensor": tensor_case,
    "row": lambda t: line_case(t, 1),
    "column": lambda t: line_case(t, 0),
    "2:4": group_case,
    "block 4x4": lambda t: block_case(t, 4),
    "block 16x16": lambda t: block_case(t, 16),
    "normalize rows": lambda t: norm_case(t, 1),
    "normalize columns": lambda t: norm_case(t, 0),
    "apply_mask_": mask_case,
}


def milliseconds(call: Callable[[], Any]) -> list[float]:
    """Of repeated calls; few of a slow one."""
    samples: list[float] = []
    while len(samples) < REPEATS and (len(samples) < 3 or sum(samples) < MOST_MS):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        call()
        after.record()
        after.synchronize()
        samples.append(before.elapsed_time(after))
    return samples


def measure(what: str, field: list[Contestant], t: Tensor) -> Iterator[dict[str, Any]]:
    for one in field:
        ok = bool(one.right(one.call()))  # warms up too
        samples = milliseconds(one.call)
        yield {
            "record": "cuda_selection",
            "what": what,
            "n": t.shape[0],
            "k": t.shape[1],
            "dtype": str(t.dtype).removeprefix("torch."),
            "peer": one.peer,
            "ok": ok,
            "ms": round(statistics.median(samples), 4),
            "fastest_ms": round(min(samples), 4),
            "samples": len(samples),
        }


def run(words: list[str], shapes: tuple[tuple[int, int], ...] = SHAPES) -> Iterator[dict[str, Any]]:
    """The device, then every case of these names."""
    yield {
        "record": "device",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "prunus": prunus.__version__,
    }
    for shape in shapes:
        scores = torch.randn(shape, generator=torch.Generator("cuda").manual_seed(7), device="cuda").abs()
        for dtype in DTYPES:
            t = scores.to(dtype)
            for what in words:
                yield from measure(what, CASES[what](t), t)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_selection", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cases", default=",".join(CASES), help="names with commas; default: all")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("bench: torch sees no CUDA device", file=sys.stderr)
        return 2
    wrong = 0
    options.file.parent.mkdir(parents=True, exist_ok=True)
    with options.file.open("w", encoding="utf-8") as file:
        for record in run(options.cases.split(",")):
            line = json.dumps(record)
            print(line, flush=True)
            file.write(line + "\n")
            wrong += record.get("ok") is False
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
