"""Patterns: which weights may be zero together, and how many of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

__all__ = ["NM", "Block", "Pattern", "Scope", "Unstructured", "check_sparsity"]

Scope = Literal["tensor", "row", "column", "model"]


def check_sparsity(value: object, argument: str = "sparsity") -> float:
    """The fraction of zeros as a float.

    Raises TypeError when value is not a real number, ValueError when it is NaN or outside 0..1.

    >>> check_sparsity(0.5)
    0.5
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument}: expected a number, got {type(value).__name__}")
    number = float(value)
    if math.isnan(number) or not 0.0 <= number <= 1.0:
        raise ValueError(f"{argument}: expected 0..1, got {number:g}")
    return number


def _check_count(value: object, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{argument}: expected an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{argument}: expected >= 1, got {int(value)}")
    return int(value)


@dataclass(frozen=True)
class Unstructured:
    """Any entry may be zero: floor(sparsity * g + 0.5) of the g entries of every scope group.

    scope: the group that shares one budget. "tensor" all entries, "row" each output (n), "column" each
    input (k), "model" every layer of a model together (only `prune_` knows a model; `select` refuses it).

    Raises TypeError or ValueError when sparsity is no number in 0..1 or scope is not one of the words.

    >>> Unstructured(0.8, scope="row").sparsity
    0.8
    """

    sparsity: float
    scope: Scope = "tensor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sparsity", check_sparsity(self.sparsity))
        if self.scope not in get_args(Scope):
            raise ValueError(f"scope: expected {', '.join(get_args(Scope))}, got {self.scope!r}")


@dataclass(frozen=True)
class NM:
    """n kept of every m consecutive inputs (the reduction axis k): NM(2, 4) keeps two of four.

    Raises TypeError when n or m is no integer, ValueError unless 1 <= n < m.

    >>> NM(2, 4).sparsity
    0.5
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "n"))
        object.__setattr__(self, "m", _check_count(self.m, "m"))
        if self.n >= self.m:
            raise ValueError(f"n: expected fewer than m = {self.m} kept entries, got {self.n}")

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, 1 - n / m.

        >>> NM(1, 4).sparsity
        0.75
        """
        return 1.0 - self.n / self.m


@dataclass(frozen=True)
class Block:
    """Whole blocks of shape (rows, columns) are zero: floor(sparsity * b + 0.5) of the b blocks.

    Where the shape does not divide the weight's, the blocks at the right and lower edge are smaller and
    count as one block each.

    Raises TypeError or ValueError when shape is not two integers >= 1 or sparsity is no number in 0..1.

    >>> Block((4, 4), 0.8).shape
    (4, 4)
    """

    shape: tuple[int, int]
    sparsity: float

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (tuple, list)) or len(self.shape) != 2:
            raise TypeError(f"shape: expected two integers (rows, columns), got {self.shape!r}")
        rows, columns = (_check_count(side, "shape") for side in self.shape)
        object.__setattr__(self, "shape", (rows, columns))
        object.__setattr__(self, "sparsity", check_sparsity(self.sparsity))


Pattern = Unstructured | NM | Block
