"""The matrices of mixtures of experts: several in one 3-D parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from prunus.families.lookup import Rows

__all__ = ["EXPERTS_IN", "EXPERTS_OUT", "Expert", "experts"]

#: The two parameters of a mixture's experts.
EXPERTS_IN, EXPERTS_OUT = "gate_up_proj", "down_proj"


class Expert(nn.Linear):
    """One matrix of a 3-D parameter as a Linear that shares its memory; it is part of no model."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.out_features, self.in_features = matrix.shape
        self.weight = nn.Parameter(matrix, requires_grad=False)


def experts(module: Any) -> Iterator[tuple[str, Tensor, list[Expert], dict[str, Rows]]]:
    """(name, parameter, its matrices (n, k), the parts of each) of the 3-D parameters of a module that
    follows the experts interface of `transformers` (Mixtral, Qwen3-MoE, gpt-oss, ...).

    Its flags say how they lie: `is_transposed` is (k, n); `is_concatenated` has rows [gate; up] in
    gate_up_proj, else they alternate. A 3-D parameter of another module may be anything: it yields nothing.
    """
    if not all(
        isinstance(getattr(module, flag, None), bool) for flag in ("is_transposed", "is_concatenated")
    ):
        return
    for name, parameter in module._parameters.items():
        if parameter is None or parameter.dim() != 3 or nn.parameter.is_lazy(parameter):
            continue
        matrices = parameter.detach().unbind()
        found = [Expert(m.t() if module.is_transposed else m) for m in matrices]
        yield name, parameter, found, _parts(name, found, module.is_concatenated) if found else {}


def _parts(name: str, found: list[Expert], concatenated: bool) -> dict[str, Rows]:
    n = found[0].out_features
    if name != EXPERTS_IN or n % 2:
        return {"": range(n)}
    if concatenated:
        return {"gate": range(n // 2), "up": range(n // 2, n)}
    return {"gate": tuple(range(0, n, 2)), "up": tuple(range(1, n, 2))}
