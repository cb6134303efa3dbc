"""What `accelerate_` tells."""

from __future__ import annotations

from collections import Counter

from prunus._tools.report import Column, Report

__all__ = ["AccelerateReport"]


#: Relative errors of the outputs below this are float32 sums in another order.
TELLING = 1e-4


class AccelerateReport(Report):
    """What `accelerate_` did with every Linear and every matrix of an expert; one row per layer, summary for
    the model.

    Row: name, shape (n, k), sparsity, m (tokens per call); dense_ms, sparse_ms (in its own pattern, the
    values in the fastest type allowed), two_four_ms (torch's 2:4 products on a GPU), bfloat16_ms and int8_ms
    (multiplied so), each the fastest of several runs for all calls of the example inputs together, on a GPU
    the device's own time; speedup, runs ("dense", "sparse", "sparse bfloat16", "sparse int8", "bfloat16",
    "int8", "int8, zeros stored" or "2:4"), error (relative, L2, of the layer's answers to random inputs),
    converted, reason (why it stayed dense), bytes_before, bytes_after. Summary: precision,
    layers, converted, reached (the share that converted layers have of all weights of the model),
    linear_ms_before, linear_ms_after and linear_speedup over all timed layers, converted or not, bytes_before
    and bytes_after of the model, relative_error of its outputs (L2, against dense with the same zeros),
    device, threads, isa, fused: what is done in one pass with a packed layer, and attention by our own
    operator (name, kind, ms_before, ms_after), and experts: those of each block as a whole, as they came and
    with packed matrices (name, ms_before, ms_after, converted: whether they won).
    """

    title = "Linear layers: dense or sparse, as measured"
    columns = (
        Column("name", "layer"),
        Column("shape", "n x k"),
        Column("sparsity", spec=".1%"),
        Column("m"),
        Column("dense_ms", "dense ms", ".3f"),
        Column("sparse_ms", "sparse ms", ".3f"),
        Column("two_four_ms", "2:4 ms", ".3f", optional=True),
        Column("bfloat16_ms", "bf16 ms", ".3f", optional=True),
        Column("int8_ms", "int8 ms", ".3f", optional=True),
        Column("speedup", spec=".2f", unit="x"),
        Column("runs"),
        Column("error", spec=".2%"),
        Column("reason", "why dense"),
    )
    dim_when = ("runs", "dense")

    def summary_line(self) -> str:
        s = self.summary
        words = Counter(row["runs"] for row in self.rows if row["converted"])
        line = f"{s['converted']} of {s['layers']} Linear layers run "
        line += (
            ", ".join(f"{word} ({n})" for word, n in sorted(words.items()))
            if len(words) > 1
            else (next(iter(words), "sparse"))
        )
        line += f", with {s['reached']:.1%} of all weights"
        if s["linear_speedup"] is not None:
            line += (
                f"; all timed layers together {s['linear_speedup']:.2f}x ({s['linear_ms_before']:.2f} ms -> "
            )
            line += f"{s['linear_ms_after']:.2f} ms)"
        if s["fused"]:
            kinds = ", ".join(sorted({fusion["kind"] for fusion in s["fused"]}))
            before, after = (sum(f[key] for f in s["fused"]) for key in ("ms_before", "ms_after"))
            line += f"; {len(s['fused'])} modules fused ({kinds}: {before:.2f} ms -> {after:.2f} ms)"
        line += f"; model {s['bytes_before'] / 1e6:.1f} MB -> {s['bytes_after'] / 1e6:.1f} MB"
        if s["relative_error"] > TELLING:
            line += f"; outputs differ by {s['relative_error']:.1%}"
        if s.get("device", "cpu") != "cpu":
            return f"{line}; on {s['device']}."
        return line + f"; {s['threads']} thread{'s' * (s['threads'] != 1)}, {s['isa']}."
