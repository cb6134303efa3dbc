"""The base of every report: rows that print as a table and export as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from prunus._tools.files import write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Column", "Report"]


@dataclass(frozen=True)
class Column:
    """One column of a report.

    `key` selects the value in a row, `label` is the printed head (default: the key), `spec` a format
    specification for numbers (".2f", ".1%", ","), `unit` is appended to every number ("x", " ms"). An
    `optional` one is printed only where some row has a value for it.

    >>> Column("speedup", spec=".2f", unit="x").text(2.345)
    '2.35x'
    """

    key: str
    label: str = ""
    spec: str = ""
    unit: str = ""
    optional: bool = False

    def text(self, value: Any) -> str:
        """The printed form of one value; None prints as "-", a shape (3, 4) as "3x4"."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, (int, float)):
            return f"{value:{self.spec}}{self.unit}"
        if isinstance(value, (tuple, list)):
            return "x".join(str(part) for part in value)
        return str(value)


class Report:
    """Rows of plain values, a title and a summary; prints as a table, exports as JSON.

    Subclasses set `title` and `columns`. A row is a dict; keys without a column are exported but not
    printed. numpy and torch scalars are turned into Python numbers.

    >>> report = Report([{"layer": "fc", "sparsity": 0.5}], title="Pruned", columns=[Column("layer")])
    >>> report.to_dict()["rows"]
    [{'layer': 'fc', 'sparsity': 0.5}]
    """

    title: str = ""
    columns: Sequence[Column] = ()
    #: Row value by which the table greys out rows that need no attention: (key, value).
    dim_when: ClassVar[tuple[str, Any] | None] = None

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        summary: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        columns: Sequence[Column | str] | None = None,
    ) -> None:
        self.rows: list[dict[str, Any]] = [{k: _plain(v) for k, v in row.items()} for row in rows]
        self.summary: dict[str, Any] = {k: _plain(v) for k, v in (summary or {}).items()}
        if title is not None:
            self.title = title
        if columns is not None:
            self.columns = tuple(Column(c) if isinstance(c, str) else c for c in columns)

    def to_dict(self) -> dict[str, Any]:
        """Title, rows and summary as plain Python values (tuples as lists, non-finite numbers as None)."""
        return {
            "title": self.title,
            "summary": {k: _finite(v) for k, v in self.summary.items()},
            "rows": [{k: _finite(v) for k, v in row.items()} for row in self.rows],
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON text; with `path` also written there (the file is replaced in one step)."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        if path is not None:
            write_atomic(path, (text + "\n").encode())
        return text

    def summary_line(self) -> str:
        """The summary in one line, "key value, key value"; subclasses write a sentence instead."""
        return ", ".join(f"{key} {Column(key).text(value)}" for key, value in self.summary.items())

    def __str__(self) -> str:
        """The table as plain text, never narrower than its content."""
        from io import StringIO

        from rich.console import Console

        out = StringIO()
        console = Console(file=out, width=1000, no_color=True, legacy_windows=False)
        console.print(self)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def __rich__(self) -> RenderableType:
        """The table for `rich.print`."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=escape(self.title) or None, title_justify="left", title_style="bold", header_style="bold"
        )
        columns = [
            c for c in self.columns if not c.optional or any(r.get(c.key) is not None for r in self.rows)
        ]
        for column in columns:
            numeric = any(isinstance(row.get(column.key), (int, float, tuple, list)) for row in self.rows)
            table.add_column(column.label or column.key, justify="right" if numeric else "left")
        for row in self.rows:
            dim = self.dim_when is not None and row.get(self.dim_when[0]) == self.dim_when[1]
            cells = [Text(column.text(row.get(column.key))) for column in columns]
            table.add_row(*cells, style="dim" if dim else None)
        line = self.summary_line()
        return Group(table, Text(line)) if line else table

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.rows)} rows, {self.summary_line()}>"


def _plain(value: Any) -> Any:
    """numpy and torch scalars as Python numbers; lists and dicts likewise."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(v) for v in value) if type(value) in (tuple, list) else tuple(value)
    if not isinstance(value, (str, bool, int, float)) and hasattr(value, "item"):
        return value.item()
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (tuple, list)):
        return [_finite(v) for v in value]
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return value
