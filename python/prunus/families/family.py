"""The description of one architecture, and one stack of blocks found in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

__all__ = ["READERS", "Family", "Stack", "resolve"]

# Modules that read the weights of their Linear children instead of calling them.
READERS: tuple[type[nn.Module], ...] = (nn.MultiheadAttention,)

# Attributes of attention modules that follow the number of heads, over all transformers versions from 4.45
# on; those a module lacks are left out. "width" is heads * head size.
ATTENTION_NUMBERS: Mapping[str, str] = MappingProxyType(
    {
        "num_attention_heads": "heads",
        "num_heads": "heads",
        "n_heads": "heads",
        "n_head": "heads",
        "num_key_value_heads": "kv_heads",
        "num_kv_heads": "kv_heads",
        "all_head_size": "width",
        "split_size": "width",
    }
)

HF_CONFIG: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layers": ("num_hidden_layers",),
        "width": ("intermediate_size",),
        "heads": ("num_attention_heads",),
        "kv_heads": ("num_key_value_heads",),
        "hidden": ("hidden_size",),
        "per_layer": ("layer_types", "mlp_layer_types"),
    }
)


@dataclass(frozen=True)
class Family:
    """Where models of one architecture keep their parts; every path is relative to a block.

    Parameters
    ----------
    name : word shown in reports.
    blocks : attribute name of the `nn.ModuleList` of blocks (the last part of its path in the model).
    q, k, v, o : attention projections; or `qkv`, one projection with the rows [q; k; v].
    qkv_by_head : the rows of `qkv` are those of the first key head: its queries, the key, the value; then
        those of the second, ...
    up, down, gate : MLP projections (`gate` only where act(gate) * up is computed); or `gate_up`,
        rows [gate; up].
    experts : module with the experts of a mixture in 3-D parameters, in the place of up and down.
    act : activation between up (or gate) and down: a module or a function.
    inner_dropout : the dropout of the MLP stands before `down`, not behind it.
    attention : module with the head counts ("" is the block).
    cross : module like `attention`, its projections named alike, whose keys and values come from an encoder.
    positions : projections of relative positions, one row for each of q; a block may lack them.
    head_bias : embedding with a column per head that the scores of all blocks are raised by; the first block
        has it, or each (UMT5). The same heads go in every block.
    marks : attributes of a block that tell it from another architecture with the same names.
    norms : normalisation modules of the block.
    out_bias : module whose bias is the last thing added to the block's output ("" if there is none).
    attention_numbers : attribute of `attention` -> "heads" | "kv_heads" | "width" (heads * head size).
    head_size : attributes of `attention` to look for the width of one head, before hidden size / heads.
    config : what a number is called in the model's config: "layers", "width" (of the MLP), "heads",
        "kv_heads", "hidden", "head_size" (only where a model with fewer heads can be built from it),
        "own_layers" (the layers again, in the stack's own config alone, where that is a copy of the
        model's), "per_layer" (lists with one entry per block). Of several names the first found counts (of
        the last two: all).
    index_dependent : config flags under which a block computes something else at another position.
    first_stays : why the first block cannot be dropped ("" where it can).
    even_heads : the forward pass reads head counts from the shared config, or from the first block: every
        block needs the same.
    fixed_heads : why heads cannot be removed ("" where they can).
    fixed_heads_when : config flags of which one must be set for that; none: always.
    """

    name: str
    blocks: str
    o: str
    down: str = ""
    q: str = ""
    k: str = ""
    v: str = ""
    qkv: str = ""
    qkv_by_head: bool = False
    up: str = ""
    gate: str = ""
    gate_up: str = ""
    experts: str = ""
    act: str = ""
    inner_dropout: bool = False
    attention: str = ""
    cross: str = ""
    positions: tuple[str, ...] = ()
    head_bias: str = ""
    marks: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    out_bias: str = ""
    attention_numbers: Mapping[str, str] = field(default_factory=lambda: ATTENTION_NUMBERS)
    head_size: tuple[str, ...] = ("head_dim", "attention_head_size")
    config: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: HF_CONFIG)
    index_dependent: tuple[str, ...] = ()
    first_stays: str = ""
    even_heads: bool = False
    fixed_heads: str = ""
    fixed_heads_when: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.qkv) == bool(self.q and self.k and self.v):
            raise ValueError(f"family {self.name!r}: expected either qkv or all of q, k and v")
        if self.experts and (self.gate_up or self.up or self.down):
            raise ValueError(f"family {self.name!r}: expected either experts or up and down")
        if not self.experts and bool(self.gate_up) == bool(self.up):
            raise ValueError(f"family {self.name!r}: expected either gate_up or up")
        if not self.experts and not self.down:
            raise ValueError(f"family {self.name!r}: expected down beside up")
        if self.qkv_by_head and not self.qkv:
            raise ValueError(f"family {self.name!r}: expected qkv where qkv_by_head is set")
        if self.cross and not all(name.startswith(f"{self.attention}.") for name in self._attention()):
            raise ValueError(f"family {self.name!r}: expected q, k, v and o in attention where cross is set")

    def weights(self) -> tuple[str, ...]:
        """Paths of the projections of a block, fused ones once."""
        cross = [self.crossed(name) for name in self._attention()] if self.cross else []
        names = (*self._attention(), *cross, self.gate, self.up, self.gate_up, self.down)
        return tuple(name for name in names if name)

    def crossed(self, path: str) -> str:
        """The path in `cross` of what is at `path` in `attention`."""
        return self.cross + path.removeprefix(self.attention)

    def matches(self, block: nn.Module) -> bool:
        """True when every projection, the activation, the attention module and every mark are in `block`."""
        try:
            for name in (*self.weights(), self.attention, self.experts):
                block.get_submodule(name)
            for name in (self.act, *self.marks):
                resolve(block, name)
        except AttributeError:
            return False
        return True

    def _attention(self) -> tuple[str, ...]:
        return tuple(name for name in (self.q, self.k, self.v, self.qkv, self.o) if name)


@dataclass(frozen=True)
class Stack:
    """One list of blocks found in a model: its family, path, the list, and the config above it (or None).

    copies: further configs above it of the same class, which say the same numbers in another object (T5).
    """

    family: Family
    name: str
    layers: nn.ModuleList
    config: Any
    copies: tuple[Any, ...] = ()

    def number(self, key: str) -> Any:
        """Value of a config number by prunus' word for it ("width", ...); None where there is none."""
        attribute = self.config_name(key)
        return getattr(self.config, attribute) if attribute else None

    @property
    def configs(self) -> tuple[Any, ...]:
        """Every config that says the stack's numbers, its own first."""
        return () if self.config is None else (self.config, *self.copies)

    def config_name(self, key: str) -> str:
        """The config's own name for "layers", "width", ...; "" where the config has none."""
        for attribute in self.family.config.get(key, ()):
            if hasattr(self.config, attribute):
                return attribute
        return ""


def resolve(module: nn.Module, path: str) -> Any:
    """The module or plain attribute at a dotted path, "" for the module itself; AttributeError if missing."""
    found: Any = module
    for part in path.split(".") if path else ():
        found = getattr(found, part)
    return found
