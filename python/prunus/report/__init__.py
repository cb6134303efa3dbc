"""Reports: tables of what a verb did, and two models side by side."""

from typing import TYPE_CHECKING, Any

from prunus._tools.report import Column, Report

if TYPE_CHECKING:
    from prunus.report.comparison import CompareReport, compare

__all__ = ["Column", "CompareReport", "Report", "compare"]


def __getattr__(name: str) -> Any:
    # The tables need no torch.
    if name not in ("CompareReport", "compare"):
        raise AttributeError(f"module 'prunus.report' has no attribute {name!r}")
    from prunus.report import comparison

    return getattr(comparison, name)
