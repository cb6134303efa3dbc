"""Experts in 3-D parameters as layers that are called, so that what each sees can be measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from prunus.nn.experts import Experts, chosen_tokens, why_whole

__all__ = ["Watched", "called_experts"]


class Watched(Experts):
    """`Experts` whose layers know, while they are called, which tokens they see: their attribute `tokens` is
    (how many all experts see together, the numbers of their own)."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        ins: Any = self.gate_up_proj
        outs: Any = self.down_proj
        for expert, token, _ in chosen_tokens(top_k_index, len(outs)):
            for layer in (ins[expert], outs[expert]):
                layer.__dict__["tokens"] = len(hidden_states), token
        return super().forward(hidden_states, top_k_index, top_k_weights)


@contextmanager
def called_experts(model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """While active, experts that can be split are: name -> layer of each matrix, whose weight is a view of
    the 3-D parameter, so that what is written there stays.

    >>> with called_experts(nn.Linear(2, 2)) as layers:
    ...     print(layers)
    {}
    """
    made: dict[int, Watched] = {}
    places: list[tuple[dict[str, Any], str, nn.Module]] = []
    layers: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        parent, _, leaf = name.rpartition(".")
        if not leaf or why_whole(module):
            continue
        if id(module) not in made:
            made[id(module)] = Watched(module)
            layers |= {f"{name}.{path}": layer for path, _, _, layer in made[id(module)].layers()}
        places.append((model.get_submodule(parent)._modules, leaf, module))
    try:
        for children, leaf, module in places:
            children[leaf] = made[id(module)]
        yield layers
    finally:
        for children, leaf, module in places:
            children[leaf] = module
