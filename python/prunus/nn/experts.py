"""The experts of a mixture with a layer of its own for each matrix, so that each may be packed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.running import hooked
from prunus.families.experts import EXPERTS_IN, EXPERTS_OUT, experts
from prunus.nn.sparse_linear import SparseLinear
from prunus.nn.two_four import TwoFourLinear

__all__ = ["Experts", "chosen_tokens", "split_experts_", "why_whole"]

MATRICES = (EXPERTS_IN, EXPERTS_OUT)


class Experts(nn.Module):
    """The experts of a mixture of `transformers` (Mixtral, Qwen3-MoE, ...), each matrix a layer of its own.

    Takes the place of a module that keeps them in two 3-D parameters, which become lists of layers under the
    same names: `gate_up_proj` (experts, 2 * inter, hidden) is gate_up_proj.0, gate_up_proj.1, ..., and so
    is `down_proj` (experts, hidden, inter). The layers are nn.Linear without biases, whose weights are views
    of the parameters, and may be exchanged for packed ones. The answers are those of `transformers`' eager
    experts: x (tokens, hidden), the chosen experts (tokens, top_k) and their shares (tokens, top_k) ->
    (tokens, hidden).

    Raises ValueError for experts that lie otherwise (`why_whole`).

    >>> import transformers
    >>> sizes = dict(hidden_size=8, intermediate_size=16, num_local_experts=4, num_attention_heads=2)
    >>> config = transformers.MixtralConfig(num_hidden_layers=1, vocab_size=9, **sizes)
    >>> Experts(transformers.MixtralModel(config).layers[0].mlp.experts).down_proj[3].weight.shape
    torch.Size([8, 16])
    """

    #: What this stands for, without its weights; not a child.
    original: Any

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        reason = why_whole(original)
        if reason:
            raise ValueError(f"original: expected experts that can be split, got {reason}")
        shell = copy.copy(original)
        shell.__dict__["_parameters"] = {}
        self.__dict__["original"] = shell
        for name, parameter, matrices, _ in experts(original):
            layers = [_linear(matrix.weight.detach(), parameter.requires_grad) for matrix in matrices]
            self.add_module(name, nn.ModuleList(layers))
        for name, child in original.named_children():  # the activation
            self.add_module(name, child)
        self.train(original.training)

    def layers(self) -> Iterator[tuple[str, nn.ModuleList, str, nn.Module]]:
        """(path, list, name in the list, layer) of every matrix: "down_proj.3", ..."""
        for name in MATRICES:
            held: Any = self._modules[name]
            for leaf, layer in held.named_children():
                yield f"{name}.{leaf}", held, leaf, layer

    def own_weights_(self) -> None:
        """Copy the weights that are still views, so that the memory of the 3-D parameters can go."""
        for _, _, _, layer in self.layers():
            weight = layer._parameters.get("weight")
            if weight is not None:
                layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)

    def whole(self) -> nn.Module:
        """The module that this one stands for, with all matrices as they are here, dense.

        >>> import transformers
        >>> sizes = dict(hidden_size=8, intermediate_size=16, num_local_experts=4, num_attention_heads=2)
        >>> config = transformers.MixtralConfig(num_hidden_layers=1, vocab_size=9, **sizes)
        >>> experts = transformers.MixtralModel(config).layers[0].mlp.experts
        >>> torch.equal(Experts(experts).whole().down_proj, experts.down_proj)
        True
        """
        made: nn.Module = copy.copy(self.original)
        made.__dict__["_parameters"] = {}
        for name in MATRICES:
            held: Any = self._modules[name]
            weights = [_dense(layer) for layer in held]
            made.register_parameter(name, nn.Parameter(torch.stack([weight.detach() for weight in weights])))
        return made.train(self.training)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        ins: Any = self._modules[EXPERTS_IN]
        outs: Any = self._modules[EXPERTS_OUT]
        shares = top_k_weights.reshape(-1, 1)
        y = torch.zeros_like(hidden_states)
        for expert, token, place in chosen_tokens(top_k_index, len(outs)):
            h = self.original._apply_gate(ins[expert](hidden_states[token]))
            h = outs[expert](h) * shares[place]
            y.index_add_(0, token, h.to(y.dtype))
        return y

    def extra_repr(self) -> str:
        return f"stands for {type(self.original).__name__}"


def chosen_tokens(top_k_index: Tensor, count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(expert, its tokens in ascending order, their places among all choices) of every expert below `count`
    that a token chose. top_k_index: (tokens, top_k).

    >>> [(e, t.tolist(), p.tolist()) for e, t, p in chosen_tokens(torch.tensor([[2, 0], [0, 1]]), 3)]
    [(0, [0, 1], [1, 2]), (1, [1], [3]), (2, [0], [0])]
    """
    chosen, top_k = top_k_index.reshape(-1), top_k_index.shape[-1]
    order = chosen.sort(stable=True).indices
    start = 0
    for expert, size in enumerate(torch.bincount(chosen, minlength=count)[:count].tolist()):
        if size:
            place = order[start : start + size]
            yield expert, place // top_k, place
        start += size


def why_whole(module: nn.Module) -> str:
    """Why the experts in `module` stay in their 3-D parameters; "": they can be split.

    >>> why_whole(nn.Linear(2, 2))
    'no experts in 3-D parameters'
    """
    names = {name for name, _, _, _ in experts(module)}
    flags: Any = module
    if not names:
        return "no experts in 3-D parameters"
    if names != set(MATRICES) or names != module._parameters.keys() or module._buffers:
        others = ", ".join(sorted(module._parameters.keys() - set(MATRICES)) or sorted(names))
        return f"experts with {others} beside or instead of {' and '.join(MATRICES)}"
    if flags.is_transposed:
        return "experts that are stored transposed"
    if getattr(module, "has_post_expert_norm", False) or not hasattr(module, "_apply_gate"):
        return "experts that do more than a gate between two products"
    if getattr(module, "_is_expert_parallel", False):
        return "experts that are on several devices"
    if hooked(module):
        return "has hooks that a conversion would lose"
    return ""


def split_experts_(model: nn.Module, names: Sequence[str]) -> Callable[[], None]:
    """Put `Experts` in the place of the modules of these names, for weights that are loaded next: theirs are
    arbitrary. Returns a function that takes it back. ValueError where there are no such experts.

    >>> undo = split_experts_(nn.Linear(2, 2), [])
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    made: dict[int, Experts] = {}
    places: list[tuple[dict[str, Any], str, nn.Module, Experts]] = []
    for name in names:
        old = modules.get(name)
        if isinstance(old, Experts):
            continue
        reason = "no such module" if old is None else why_whole(old)
        parent, _, leaf = name.rpartition(".")
        if old is None or reason or not leaf:
            raise ValueError(f"model: expected experts that can be split at {name!r}, got {reason}")
        if id(old) not in made:
            made[id(old)] = Experts(old)
            for _, _, _, layer in made[id(old)].layers():
                weight: Any = layer.weight
                layer.weight = nn.Parameter(torch.empty_like(weight), weight.requires_grad)
        places.append((modules[parent]._modules, leaf, old, made[id(old)]))
    for children, leaf, _, new in places:
        children[leaf] = new

    def undo() -> None:
        for children, leaf, old, _ in places:
            children[leaf] = old

    return undo


def _linear(matrix: Tensor, requires_grad: bool) -> nn.Linear:
    linear = nn.Linear(1, 1, bias=False, device="meta")
    linear.out_features, linear.in_features = matrix.shape
    linear.weight = nn.Parameter(matrix, requires_grad and matrix.is_floating_point())
    return linear


def _dense(layer: Any) -> Tensor:
    weight: Tensor = (
        layer.to_linear().weight if isinstance(layer, (SparseLinear, TwoFourLinear)) else layer.weight
    )
    return weight
