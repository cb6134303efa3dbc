"""A few tokens times a pruned weight on a GPU, against cuBLAS: `python -m bench.cuda_decode FILE`.

Weights rotate through more memory than the caches hold, and the calls of a round are one CUDA graph, so that
neither launches nor caches are measured. Every answer is checked before it is timed. JSON lines: one that
describes the device, then one record per peer of a case; `share` is the rate at which the bytes of the weight
are read, against that of a copy on the same device.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import prunus
import prunus.ops.torch_ops  # torch.ops.prunus
from prunus._tools.cuda import open_library

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008))
SPARSITIES = (0.5, 0.8, 0.9)
TOKENS = (1, 2, 4, 8, 16)
ROTATED = 400 << 20  # bytes of weights that one round reads, several times any cache
REPEATS = 30


def pruned(n: int, k: int, sparsity: float) -> Tensor:
    w = torch.randn(n, k, device="cuda") / k**0.5
    return w * prunus.select(w.abs(), prunus.Unstructured(sparsity))


def microseconds(calls: list[Callable[[], Any]]) -> float:
    """Of one call: the median of rounds of all, each round one graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls:
            call()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)


def copy_rate() -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (microseconds([lambda: target.copy_(source)] * 4) * 1e-6)


def close(y: Tensor, x: Tensor, w: Tensor) -> bool:
    right = x.double() @ w.double().t()
    return bool((y.double() - right).abs().max() <= 2e-2 * right.abs().max())


def dense_calls(w: Tensor, x: Tensor, count: int) -> list[Callable[[], Tensor]]:
    weights = [w.clone() for _ in range(count)]
    return [lambda v=v: torch.nn.functional.linear(x, v) for v in weights]


def sparse_calls(packed: Tensor, n: int, x: Tensor, count: int) -> list[Callable[[], Tensor]]:
    weights = [packed.clone() for _ in range(count)]
    return [lambda v=v: torch.ops.prunus.linear(x, v, None, n, 0) for v in weights]


def case(n: int, k: int, sparsity: float, tokens: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    w = pruned(n, k, sparsity).bfloat16()
    for stored in ("bfloat16", "int8"):
        p = prunus.pack(w.cpu(), dtype=stored, format="warp")
        packed = torch.from_numpy(p.buffer).cuda()
        exact = torch.from_numpy(p.to_dense()).cuda()
        for m in tokens:
            x = torch.randn(m, k, device="cuda").bfloat16()
            calls = sparse_calls(packed, n, x, max(2, ROTATED // packed.numel()))
            if not close(calls[0](), x, exact):
                raise SystemExit(f"prunus {stored}: a wrong answer for {n} x {k}, m = {m}")
            yield {"peer": f"prunus {stored}", "m": m, "us": microseconds(calls), "bytes": packed.numel()}
    for m in tokens:
        x = torch.randn(m, k, device="cuda").bfloat16()
        calls = dense_calls(w, x, max(2, ROTATED // (2 * w.numel())))
        yield {"peer": "torch bfloat16", "m": m, "us": microseconds(calls), "bytes": 2 * w.numel()}
    del w


def run(out: Any, shapes: tuple[tuple[int, int], ...], sparsities: tuple[float, ...]) -> None:
    open_library()
    torch.manual_seed(0)
    rate = copy_rate()
    device = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy": rate}
    print(json.dumps(device), file=out, flush=True)
    print(f"{device['device']}, a copy moves {rate / 1e9:.0f} GB/s", file=sys.stderr)
    with torch.inference_mode():
        for n, k in shapes:
            for sparsity in sparsities:
                records = list(case(n, k, sparsity, TOKENS))
                dense = {r["m"]: r["us"] for r in records if r["peer"] == "torch bfloat16"}
                for record in records:
                    record |= {"n": n, "k": k, "sparsity": sparsity}
                    record["share"] = record["bytes"] / (record["us"] * 1e-6) / rate
                    record["speed"] = dense[record["m"]] / record["us"]
                    print(json.dumps(record), file=out, flush=True)
                    print(
                        f"{n:6}x{k:<6} {sparsity:4.0%} m={record['m']:<3} {record['peer']:16} "
                        f"{record['us']:7.2f} us {record['speed']:5.2f}x {record['share']:4.0%}",
                        file=sys.stderr,
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", help="where the JSON lines go")
    parser.add_argument("--quick", action="store_true", help="one shape")
    options = parser.parse_args()
    with open(options.file, "w") as out:
        run(out, SHAPES[:1] if options.quick else SHAPES, SPARSITIES)


if __name__ == "__main__":
    main()
