"""What `shrink_` reports."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from prunus._tools.report import Column, Report

__all__ = ["ShrinkReport", "size"]


class ShrinkReport(Report):
    """Per layer: groups (neurons, key/value heads or blocks) and parameters before and after, the next bias.
    Heads of the kind "cross" are those of a decoder's attention to its encoder.

    Summary: parameters and MB (1e6 bytes) of the whole model before and after, reached (the share of its
    parameters that was looked at), the importance used, and what
    the config cannot say, so that only `prunus.save` keeps it: `config`, the name of a number that does not
    fit all blocks ("" if all do), and `biases_added`, how many layers got a bias.
    """

    title = "Shrunk"
    columns = (
        Column("layer"),
        Column("kind"),
        Column("before", spec=","),
        Column("after", spec=","),
        Column("parameters_before", "parameters", spec=","),
        Column("parameters_after", "after", spec=","),
        Column("mb_before", "MB", spec=".2f"),
        Column("mb_after", "after", spec=".2f"),
        Column("influence", spec=".4f"),
        Column("bias"),
    )

    def summary_line(self) -> str:
        s = self.summary
        line = (
            f"{s['parameters_before']:,} -> {s['parameters_after']:,} parameters, "
            f"{s['mb_before']:.2f} -> {s['mb_after']:.2f} MB, importance: {s['importance']}; "
            f"looked at {s['reached']:.1%} of all"
        )
        if s["config"]:
            line += f"; config.{s['config']} cannot describe the new shape"
        if s["biases_added"]:
            line += f"; {s['biases_added']} biases added"
        return line


def size(modules: Iterable[nn.Module]) -> tuple[int, float]:
    """(parameters, MB of 1e6 bytes), shared ones once."""
    parameters = {id(p): p for module in modules for p in module.parameters()}.values()
    return sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters) / 1e6
