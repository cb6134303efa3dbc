"""Layers of the pruned model beside those of the teacher that they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prunus.calibration.recorder import token_rows
from prunus.families import is_linear, weight_matrix
from prunus.methods import least_squares
from prunus.recover.pairs import Pair
from prunus.recover.session import trainable

if TYPE_CHECKING:
    from prunus.recover.session import Session

__all__ = ["Fit", "block_fits"]


class Fit:
    """One layer to refit: the sums of its inputs x (tokens, k) and of the wanted outputs y (tokens, n)."""

    def __init__(self, name: str, layer: nn.Module, teacher: nn.Module) -> None:
        self.name, self.layer, self.teacher = name, layer, teacher
        self._tokens = 0
        self._sums: list[Tensor] | None = None  # x'x, y'x, x, y in float64

    def tensors(self) -> list[Tensor]:
        """What `solve` changes."""
        bias = self.layer._parameters.get("bias")
        return [weight_matrix(self.layer), *([bias.detach()] if bias is not None else [])]

    def add(self, inputs: list[Tensor], outputs: list[Tensor], real: Tensor | None) -> None:
        """Add the tokens of one batch; ValueError where the layers ran on different numbers of tokens."""
        if len(inputs) != len(outputs):
            raise ValueError(f"teacher: expected {self.name} to run as often as the model's, it did not")
        for x, y in zip(inputs, outputs, strict=True):
            x, y = (token_rows(t, real).float() for t in (x, y))
            if len(x) != len(y):
                raise ValueError(f"teacher: expected {len(x)} tokens at {self.name}, got {len(y)}")
            found = [x.t() @ x, y.t() @ x, x.sum(0, dtype=torch.float64), y.sum(0, dtype=torch.float64)]
            self._tokens += len(x)
            if self._sums is None:
                self._sums = [t.double() for t in found]
            else:
                for total, t in zip(self._sums, found, strict=True):
                    total += t

    def solve(self, damping: float) -> None:
        """Write the least-squares weights and bias into the layer; nothing where no token came by."""
        if self._sums is None:
            return
        gram, cross, x, y = self._sums
        self._sums = None
        matrix, bias = weight_matrix(self.layer), self.layer._parameters.get("bias")
        if bias is not None:  # then it takes the means, and the weights what varies around them
            gram = gram.addr_(x, x, alpha=-1.0 / self._tokens)
            cross = cross.addr_(y, x, alpha=-1.0 / self._tokens)
        weight = matrix.float()
        new = least_squares(weight, matrix != 0, gram.float(), damping, cross.float())
        matrix.copy_(new)
        if bias is not None:
            bias.copy_((y - new.double() @ x) / self._tokens)


def block_fits(session: Session) -> list[tuple[Pair | None, list[Fit]]]:
    """The layers to refit, block by block in the order they run; one group of all where there are none.

    Left out: what recovery may not change, layers whose teacher has another number of outputs, and (said in
    a note) how many of the second kind there are.
    """
    free = {id(p) for p in trainable(session.model, session.filter_fn).values()}
    found: list[tuple[Pair | None, list[Fit]]] = []
    left = 0
    pairs: list[Pair | None] = [*session.pairs] or [None]
    for pair in pairs:
        mine, theirs = (pair.student, pair.teacher) if pair else ("", "")
        there = dict(session.teacher.get_submodule(theirs).named_modules())
        fits: list[Fit] = []
        for name, layer in session.model.get_submodule(mine).named_modules():
            weight = layer._parameters.get("weight")
            if not is_linear(layer) or weight is None or id(weight) not in free:
                continue
            teacher = there.get(name)
            if teacher is None or len(weight_matrix(teacher)) != len(weight_matrix(layer)):
                left += 1
                continue
            fits.append(Fit(f"{mine}.{name}".strip("."), layer, teacher))
        found.append((pair, fits))
    if left:
        session.notes.append(f"Refit left {left} layers that lost outputs as they are")
    return found
