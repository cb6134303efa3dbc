"""Two models side by side: quality, milliseconds, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prunus._tools.report import Column, Report
from prunus._tools.running import (
    Batch,
    as_batches,
    check_model,
    device_of,
    device_word,
    evaluating,
    module_bytes,
    output_tensors,
    torch_threads,
)
from prunus._tools.timing import take_turns
from prunus.report.closeness import Closeness

if TYPE_CHECKING:
    from rich.console import RenderableType

    from prunus.report.frontier import EnginesReport

__all__ = ["CompareReport", "compare"]

# Enough for a median over noise on a shared machine, short enough to wait for.
SECONDS = 5.0


class CompareReport(Report):
    """What `compare` found; one row per figure, `summary` has the figures by name.

    Summary keys: ms_before, ms_after (median over all batches together), speedup, bytes_before, bytes_after,
    cosine (mean over positions), relative_error (L2), threads, devices (of both models), batches.
    """

    title = "Before and after"
    columns = (
        Column("figure", ""),
        Column("before", spec=",.2f"),
        Column("after", spec=",.2f"),
        Column("change"),
    )

    #: The table of all engines; None where it was not asked for.
    engines: EnginesReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `Report.to_dict`, with the table of the engines where there is one."""
        whole = super().to_dict()
        return whole | {"engines": self.engines.to_dict()} if self.engines is not None else whole

    def __rich__(self) -> RenderableType:
        """The table, or both, for `rich.print`."""
        if self.engines is None:
            return super().__rich__()
        from rich.console import Group

        return Group(super().__rich__(), "", self.engines)

    def summary_line(self) -> str:
        s = self.summary
        where = f"with {s['threads']} thread{'s' * (s['threads'] != 1)}"
        if set(s["devices"]) != {"cpu"}:
            where = f"on {' and '.join(dict.fromkeys(s['devices']))}"
        return (
            f"{s['speedup']:.2f}x the speed {where}, "
            f"{s['bytes_after'] / max(1, s['bytes_before']):.2f}x the bytes, "
            f"outputs at cosine {s['cosine']:.4f} and relative error {s['relative_error']:.3g}."
        )


def compare(
    before: nn.Module,
    after: nn.Module,
    inputs: Any,
    engines: bool | Sequence[str] = False,
    threads: int | None = None,
) -> CompareReport:
    """Run two models on the same inputs and report quality, time and size.

    inputs: a tensor, a tuple (positional), a dict or BatchEncoding (keywords; what the `preprocess` of a
    sentence-transformers model makes too), or a list of such batches. Both models run in evaluation mode
    without gradients, taking turns, with `threads` threads (None: torch's); times are medians in milliseconds
    over all batches together. Quality: every floating-point output of `after`
    against the same output of `before`: relative error |a - b| / |b| in the L2 norm over everything, and
    the mean cosine along the last dimension. Positions where an `attention_mask` (batch, tokens) is 0 are
    left out. The inputs follow each model to its device.
    engines: True measures both models in every engine that is installed as well: torch in float32 and
    bfloat16, ONNX Runtime in float32 and int8, OpenVINO as it comes, and prunus; `report.engines` has the
    table, `report.engines.plot(path)` draws the frontier. A list of names (`prunus.report.frontier.ENGINES`)
    measures those. All are in memory at once and take turns, each with the same number of threads; the models
    must be on the CPU.

    Raises TypeError (not models, inputs of another kind), ValueError (no comparable outputs, other shapes,
    an unknown engine, engines for models on a GPU, threads) and ImportError (an engine that is not
    installed).

    >>> import torch, prunus
    >>> model = torch.nn.Linear(4, 4)
    >>> round(prunus.compare(model, model, torch.ones(2, 4)).summary["cosine"], 6)
    1.0
    """
    check_model(before, "before")
    check_model(after, "after")
    batches = as_batches(inputs, "inputs")
    names = _names(engines)
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    devices = [device_of(before), device_of(after)]
    _check_engines(names, devices)
    placed = [[batch.to(device) for batch in batches] for device in devices]
    with evaluating(before, after), torch_threads(threads):
        quality = Closeness()
        for batch, mine, other in zip(batches, *placed, strict=True):
            quality.add(batch, output_tensors(mine.run(before)), output_tensors(other.run(after)))
        times = take_turns(
            [lambda: _run_all(before, placed[0]), lambda: _run_all(after, placed[1])],
            SECONDS,
            at_least=5,
            devices=devices,
        )
    sizes = module_bytes(before), module_bytes(after)
    outputs = quality.rows()
    speedup = times[0].ms / times[1].ms
    rows: list[dict[str, Any]] = [
        {
            "figure": "time, ms",
            "before": times[0].ms,
            "after": times[1].ms,
            "change": f"{speedup:.2f}x the speed",
        },
        {"figure": "spread, ms", "before": times[0].spread_ms, "after": times[1].spread_ms},
        {
            "figure": "size, MB",
            "before": sizes[0] / 1e6,
            "after": sizes[1] / 1e6,
            "change": f"{sizes[1] / max(1, sizes[0]):.2f}x the bytes",
        },
    ]
    for name, error, cosine in outputs:
        change = f"cosine {cosine:.4f}, relative error {error:.3g}"
        rows.append({"figure": name, "change": change, "cosine": cosine, "relative_error": error})
    summary = {
        "ms_before": times[0].ms,
        "ms_after": times[1].ms,
        "speedup": speedup,
        "bytes_before": sizes[0],
        "bytes_after": sizes[1],
        "cosine": quality.cosine,
        "relative_error": quality.relative_error,
        "threads": threads,
        "devices": [device_word(device) for device in devices],
        "batches": len(batches),
    }
    report = CompareReport(rows, summary)
    if names:
        from prunus.report.frontier import measure_engines

        report.engines = measure_engines(before, after, batches, names, threads)
    return report


def _check_engines(names: list[str], devices: list[torch.device | None]) -> None:
    words = {device_word(device) for device in devices} - {"cpu"}
    if names and words:
        raise ValueError(f"engines: expected none for models off the cpu, got {', '.join(sorted(words))}")


def _names(engines: bool | Sequence[str]) -> list[str]:
    if not engines:
        return []
    from prunus.report.frontier import choose_engines

    return choose_engines(engines)


def _run_all(model: nn.Module, batches: list[Batch]) -> None:
    for batch in batches:
        batch.run(model)
