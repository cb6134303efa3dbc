"""What commands that write a model directory have in common: the directory, and what is printed of it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus._tools.report import Report

__all__ = ["add_out", "check_out", "print_written", "write"]


def add_out(parser: Any) -> None:
    """The option that `check_out` and `write` read."""
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write; must not exist yet")


def check_out(out: str) -> None:
    """ValueError unless `out` can be made."""
    if os.path.lexists(out):
        raise ValueError(f"--out: expected a directory that does not exist yet, got {out!r}")
    if not Path(out).absolute().parent.is_dir():
        raise ValueError(f"--out: expected a directory in an existing one, got {out!r}")


def write(options: argparse.Namespace, model: Any, reports: Mapping[str, Report]) -> tuple[int, int]:
    """Write `options.out`, the model beside the companions of `options.model` and the reports; bytes of the
    weights before and after."""
    from prunus.checkpoint.pretrained import weight_bytes, write_pretrained

    named = {f"prunus_{name}": report for name, report in reports.items()}
    write_pretrained(model, options.model, options.out, named)
    return weight_bytes(options.model), weight_bytes(options.out)


def print_written(
    options: argparse.Namespace, reports: Mapping[str, Report], sizes: tuple[int, int], note: str, before: str
) -> None:
    """The reports and what was written as tables, or with `options.json` as JSON; before: the directory to
    compare with."""
    if options.json:
        facts = {"out": options.out, "bytes_before": sizes[0], "bytes_after": sizes[1]}
        print(json.dumps(facts | {k: v.to_dict() for k, v in reports.items()}, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    # A pipe or a file gets the whole width; a terminal folds what is wider.
    show: Callable[..., object] = console.print if console.is_terminal else print
    for report in reports.values():
        show(report)
        show()
    if note:
        print(note)
    was, now = (size / 1e6 for size in sizes)
    print(f"Wrote {options.out}: {now:.2f} MB of weights, {was:.2f} MB before.")
    print(f"Compare:  prunus report {shlex.quote(before)} {shlex.quote(options.out)}")
    print(f"Load:     prunus.load_pretrained({options.out!r})")
