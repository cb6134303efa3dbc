"""fuse_: activations, gates and residual sums of packed layers done where their products are stored.

What may be fused is read from the families' data (which module holds up, gate, act, down, norms) and then
checked: the fused module must give the answer of the original one on random inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.interrupts import OneInterrupt
from prunus._tools.running import check_model, evaluating, hooked
from prunus.families import stacks
from prunus.families.family import Family, resolve
from prunus.nn.fused import Fused, FusedMLP, FusedResidual
from prunus.nn.shared import SharedLinear, SideBySide
from prunus.nn.sparse_linear import SparseLinear

__all__ = ["Fusion", "fuse_", "fusions"]

# Of the largest output: sums in another order, rounded to the dtype (the steps of what is replaced each for
# itself), differ by less, another formula by more.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Fusion:
    """One module that can be replaced, and by what; of layers side by side, each by its own."""

    name: str
    kind: str  # "gelu", "gated silu", "residual", "shared input", ...
    parent: nn.Module
    leaf: str  # "": what is replaced are the children of original, in parent under their names
    original: nn.Module
    fused: nn.Module
    entry: str  # name of the layer that sees the module's input
    arguments: Callable[[tuple[int, ...]], tuple[Tensor, ...]]  # random ones, for an input of this shape

    def put(self, module: nn.Module) -> None:
        """`module`, the original or the fused, in its place."""
        self.parent._modules.update({self.leaf: module} if self.leaf else module._modules)


def fuse_(model: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Fuse, in place, what surrounds the packed layers of known families; the names of the modules replaced.

    names: of the modules that may be replaced; None: every one that can be.

    Activations (and gates) go into the up projection of an MLP, the residual sum of post-norm encoders into
    the projection before it; query, key and value share one pass over their input. Nothing else changes:
    names, parameters, state_dict, and results but for rounding. `accelerate_` does this by itself where it
    is not slower, and `load` where the saved model had it. Modules with hooks or unknown children are left
    alone.

    Raises TypeError unless model is a torch.nn.Module.

    >>> from torch import nn
    >>> fuse_(nn.Sequential(nn.Linear(2, 2)))
    []
    """
    check_model(model)
    found = [] if names is not None and not names else fusions(model)
    found = [fusion for fusion in found if names is None or fusion.name in names]
    with OneInterrupt() as interrupt:
        interrupt.hold()
        for fusion in found:
            fusion.put(fusion.fused)
    return [fusion.name for fusion in found]


def fusions(model: nn.Module) -> list[Fusion]:
    """What `fuse_` would replace: found in the families' blocks and checked on random inputs."""
    with evaluating(model):
        return [fusion for fusion in _candidates(model) if _same_answer(fusion)]


def _candidates(model: nn.Module) -> Iterator[Fusion]:
    for stack in stacks(model):
        for index, block in enumerate(stack.layers):
            prefix = f"{stack.name}.{index}" if stack.name else str(index)
            if fusion := _mlp(stack.family, block, prefix):
                yield fusion
            yield from _residuals(stack.family, block, prefix)
            if fusion := _shared_input(stack.family, block, prefix):
                yield fusion


def _mlp(family: Family, block: nn.Module, prefix: str) -> Fusion | None:
    """The module around up and act, with gate and down where they are in it."""
    path, _, up = family.up.rpartition(".")
    act_path, _, act = family.act.rpartition(".")
    gate_path, _, gate = family.gate.rpartition(".")
    down_path, _, down = family.down.rpartition(".")
    if not path or act_path != path or (family.gate and gate_path != path):
        return None
    roles = {"up": up} | ({"gate": gate} if gate else {}) | ({"down": down} if down_path == path else {})
    original = block.get_submodule(path)
    activation = _name_of(resolve(original, act))
    children = _known(original, roles, {act}, "inner_dropout" if family.inner_dropout else "dropout")
    if gate and children and "down" not in roles:
        return None
    if activation is None or children is None or not all(_packed(original, r) for r in (up, gate) if r):
        return None
    fused = FusedMLP(original, children, activation)
    kind = f"gated {activation}" if gate else activation
    k = _features(original, up)
    return _fusion(block, prefix, path, kind, fused, up, lambda shape: (_random(*shape[:-1], k),))


def _residuals(family: Family, block: nn.Module, prefix: str) -> Iterator[Fusion]:
    """Modules with a projection back to the stream and the norm behind it."""
    for dense_path in (family.o, family.down):
        path, _, dense = dense_path.rpartition(".")
        norms = [norm for norm in family.norms if path and norm.rpartition(".")[0] == path]
        if len(norms) != 1:
            continue
        original = block.get_submodule(path)
        roles = {"dense": dense, "norm": norms[0].rpartition(".")[2]}
        children = _known(original, roles, set())
        if children is None or not _packed(original, dense):
            continue
        layer: Any = original._modules[dense]

        def arguments(shape: tuple[int, ...], n: int = layer.out_features) -> tuple[Tensor, ...]:
            return _random(*shape), _random(*shape[:-1], n)

        yield _fusion(block, prefix, path, "residual", FusedResidual(original, children), dense, arguments)


def _shared_input(family: Family, block: nn.Module, prefix: str) -> Fusion | None:
    """Query, key and value of one attention, which read the same input."""
    path = family.q.rpartition(".")[0]
    leaves = [name.rpartition(".")[2] for name in (family.q, family.k, family.v)]
    if not family.q or any(name.rpartition(".")[0] != path for name in (family.k, family.v)):
        return None
    parent = block.get_submodule(path)
    layers: list[Any] = [parent._modules.get(leaf) for leaf in leaves]
    # On a GPU the pass over x costs nothing that could be shared.
    plain = all(
        _packed(parent, leaf) and layer.packed.is_cpu and not hooked(layer)
        for leaf, layer in zip(leaves, layers, strict=True)
    )
    if (
        not plain
        or len({id(layer) for layer in layers}) != 3
        or len({layer.in_features for layer in layers}) != 1
    ):
        return None
    k = _features(parent, leaves[0])
    name = f"{prefix}.{family.q}"
    return Fusion(
        name,
        "shared input",
        parent,
        "",
        SideBySide(dict(zip(leaves, layers, strict=True))),
        SideBySide(dict(zip(leaves, SharedLinear.of(layers), strict=True))),
        name,
        lambda shape: (_random(*shape[:-1], k),),
    )


def _fusion(
    block: nn.Module,
    prefix: str,
    path: str,
    kind: str,
    fused: nn.Module,
    entry: str,
    arguments: Callable[[tuple[int, ...]], tuple[Tensor, ...]],
) -> Fusion:
    parent, _, leaf = path.rpartition(".")
    name = f"{prefix}.{path}"
    return Fusion(
        name,
        kind,
        block.get_submodule(parent),
        leaf,
        block.get_submodule(path),
        fused,
        f"{name}.{entry}",
        arguments,
    )


def _known(
    module: nn.Module, roles: dict[str, str], others: set[str], dropout: str = "dropout"
) -> dict[str, str] | None:
    """The roles, with that of the dropout; None where the module has hooks, own tensors, or a child nobody
    knows."""
    known = dict(roles)
    if isinstance(module, Fused) or hooked(module) or module._parameters or module._buffers:
        return None
    for name, child in module.named_children():
        if name in roles.values() or name in others:
            if hooked(child):
                return None
        elif isinstance(child, nn.Dropout) and dropout not in known and not hooked(child):
            known[dropout] = name
        else:
            return None
    return known


def _packed(module: nn.Module, name: str) -> bool:
    layer = module._modules.get(name)
    if type(layer) is not SparseLinear or layer.trainable:
        return False
    return layer.activation is None and layer.packed.device.type in ("cpu", "cuda")


def _features(module: nn.Module, name: str) -> int:
    """in_features of the packed layer of that name."""
    layer: Any = module._modules[name]
    return int(layer.in_features)


def _device(module: nn.Module, name: str) -> torch.device:
    """Of the packed layer of that name."""
    layer: Any = module._modules[name]
    packed: Tensor = layer.packed
    return packed.device


def _name_of(act: Any) -> str | None:
    """Which of our activations a module or function computes: told by its values, not by its name."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": nn.functional.relu,
        "gelu": nn.functional.gelu,
        "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
        "silu": nn.functional.silu,
    }
    if isinstance(act, nn.Module) and hooked(act):
        return None
    z = torch.linspace(-6.0, 6.0, 97, device="cpu")
    try:
        values = act(z)
    except Exception:  # not a function of one tensor
        return None
    for name, function in functions.items():
        if isinstance(values, Tensor) and torch.allclose(values, function(z), rtol=1e-5, atol=2e-6):
            return name
    return None


def _same_answer(fusion: Fusion) -> bool:
    """The same two batches through both, up to rounding."""
    leaf = fusion.entry.rpartition(".")[2]
    k, device = _features(fusion.fused, leaf), _device(fusion.fused, leaf)
    dtype = _dtype(fusion.original)
    for shape in ((2, 3, k), (1, 1, k)):
        arguments = tuple(argument.to(device, dtype) for argument in fusion.arguments(shape))
        try:
            expected = fusion.original(*arguments)
        except Exception:  # its forward wants something else: not the module that the data describe
            return False
        got = fusion.fused(*arguments)
        if not isinstance(expected, Tensor) or expected.shape != got.shape:
            return False
        if got.dtype != expected.dtype:
            return False
        difference, largest = (float(t.float().abs().max()) for t in (expected - got, expected))
        if difference > TOLERANCES[dtype] * largest + 1e-12:
            return False
    return True


def _dtype(module: nn.Module) -> torch.dtype:
    """Of what the packed layers of a module see: that of the weights they stand for."""
    layers = [m for m in module.modules() if isinstance(m, SparseLinear)]
    return layers[0].weight_dtype if layers else torch.float32


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")
