"""How a file that is not what it should be is refused: the field, what was expected, what came."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunus._core import FormatError

__all__ = ["describe", "expect"]


def expect(ok: bool, name: str, expected: str, got: Any) -> None:
    """FormatError with a sentence unless `ok`.

    >>> expect(True, "version", "a number", 1)
    """
    if not ok:
        text = repr(got) if not isinstance(got, str) else got
        raise FormatError(f"{name}: expected {expected}, got {text[:200]}")


def describe(value: Any) -> str:
    """A tensor by its dtype and shape, anything else as it is.

    >>> import torch
    >>> describe(torch.ones(2, 3))
    'float32 (2, 3)'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value)
