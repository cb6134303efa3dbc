"""Attention of `transformers` models through `prunus.ops.attention`: one of their attention implementations,
beside "sdpa" and "eager", chosen by their config.

What it does not know (training, dropout, a CPU without tiles) goes on through "sdpa", which it replaces.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from prunus.ops.attention import attention, serves_attention

__all__ = ["Asked", "observing", "other_attention", "put_attention", "uses_attention"]

NAME, REPLACED = "prunus", "sdpa"
SETTING = "_attn_implementation_internal"  # of a config; its public name sets those of all parts too
Answer = tuple[Tensor, None]
UNKNOWN = ("softcap", "position_bias")  # words of "sdpa" that `attention` has nothing for


class Asked(NamedTuple):
    """A call of attention, as transformers makes it."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    others: dict[str, Any]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """Query, key, value and mask."""
        return self.query, self.key, self.value, self.mask

    def theirs(self) -> Answer:
        """The answer of "sdpa"."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        answer: Answer = sdpa_attention_forward(
            self.module, self.query, self.key, self.value, self.mask, **self.others
        )
        return answer

    def ours(self) -> Answer:
        """The answer of our operator; that of "sdpa" where the operator would not do the same."""
        if not self.known():
            return self.theirs()
        causal = self.others.get("is_causal")
        causal = getattr(self.module, "is_causal", True) if causal is None else causal
        causal = self.query.shape[2] > 1 and self.mask is None and bool(causal)
        scaling = self.others.get("scaling")
        return attention(self.query, self.key, self.value, self.mask, scaling, causal), None

    def known(self) -> bool:
        """Whether our operator does what "sdpa" does with it, and is more than plain loops here."""
        scaling = self.others.get("scaling")
        plain = not self.others.get("dropout") and (scaling is None or scaling > 0)
        if not plain or any(self.others.get(word) is not None for word in UNKNOWN):
            return False
        return serves_attention(self.query, self.key, self.value, self.mask)


class _Registered(str):
    """The name in a config. Unpickled, it tells transformers first what it names."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _registered, ()


def _registered() -> str:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return _Registered(NAME)


_observers: list[Callable[[Asked], None]] = []


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **others: Any,
) -> Answer:
    """What transformers calls an attention function: the answer as (texts, queries, heads, dim)."""
    asked = Asked(module, query, key, value, attention_mask, others)
    for note in _observers:
        note(asked)
    return asked.theirs() if _observers else asked.ours()


def other_attention(model: nn.Module) -> list[Any]:
    """The configs of the transformers models in `model` whose attention could be ours and is theirs.

    >>> other_attention(nn.Linear(2, 2))
    []
    """
    return [config for config in _configs(model) if getattr(config, SETTING) == REPLACED]


def uses_attention(model: nn.Module) -> list[Any]:
    """The configs of the transformers models in `model` whose attention is ours.

    >>> uses_attention(nn.Linear(2, 2))
    []
    """
    return [config for config in _configs(model) if getattr(config, SETTING) == NAME]


def put_attention(configs: list[Any], ours: bool) -> None:
    """Ours or theirs in the models of these configs.

    >>> put_attention([], ours=False)
    """
    if not configs:
        return
    name = _registered() if ours else REPLACED
    for config in configs:
        setattr(config, SETTING, name)


@contextmanager
def observing(model: nn.Module, note: Callable[[Asked], None]) -> Iterator[None]:
    """While active, the calls of attention in `model` are told to `note`, and done as before.

    >>> with observing(nn.Linear(2, 2), print):
    ...     pass
    """
    configs = other_attention(model)
    put_attention(configs, ours=True)
    _observers.append(note)
    try:
        yield
    finally:
        _observers.remove(note)
        put_attention(configs, ours=False)


def _configs(model: nn.Module) -> list[Any]:
    """Of all transformers models in `model` that let their attention be chosen, each once."""
    transformers = sys.modules.get("transformers")
    if not hasattr(transformers, "AttentionInterface"):  # not loaded, or before 4.48
        return []
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        chosen = hasattr(config, SETTING) and getattr(type(module), "_can_set_attn_implementation", None)
        if chosen and chosen():
            found.setdefault(id(config), config)
    return list(found.values())
