"""The progress bar of a run whose end is a budget, with the quality so far."""

from __future__ import annotations

from types import TracebackType
from typing import Any

__all__ = ["Bar"]


class Bar:
    """Shows percents of the budget on stderr where that is a terminal, from the first second on."""

    def __init__(self, quality: str, label: str = "recovering") -> None:
        from tqdm import tqdm

        shape = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}, best {postfix}]"
        options: dict[str, Any] = {"desc": label, "delay": 1, "leave": False, "disable": None}
        self._bar = tqdm(total=1.0, bar_format=shape, postfix=quality, **options)

    def show(self, fraction: float, quality: str) -> None:
        """So much of the budget is used, and this is the best so far."""
        self._bar.set_postfix_str(quality, refresh=False)
        self._bar.update(min(1.0, fraction) - self._bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
