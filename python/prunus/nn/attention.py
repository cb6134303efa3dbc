"""Attention of `transformers` models through `prunus.ops.attention`: one of their attention implementations,
beside "sdpa" and "eager", chosen by their config.

What it does not know (training, dropout, a CPU without bfloat16) goes on through "sdpa", which it replaces.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from prunus.ops.attention import attention, serves_attention

__all__ = [
    "Asked",
    "leave_attention",
    "observing",
    "other_attention",
    "take_attention",
    "uses_attention",
]

NAME, REPLACED = "prunus", "sdpa"
SETTING = "_attn_implementation_internal"  # of a config; its public name sets those of all parts too
Answer = tuple[Tensor, None]
# Queries at least: keys are packed anew in every call, which takes longer than what one token asks of them
# (0.36 to 1.03 of the speed of "sdpa" for 1, 0.99 to 1.75 for 8; decision 0049).
QUERIES = 8
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
        if self.query.dim() != 4 or self.query.shape[2] < QUERIES:
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


_observers: dict[int, Callable[[Asked], None]] = {}  # by the id of the config


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
    note = _observers.get(id(getattr(module, "config", None))) if _observers else None
    if note is None:
        return asked.ours()
    note(asked)
    return asked.theirs()


def other_attention(model: nn.Module) -> list[Any]:
    """The configs of the transformers models in `model` whose attention could be ours and is theirs.

    >>> other_attention(nn.Linear(2, 2))
    []
    """
    return [config for config, _ in _configs(model, REPLACED)]


def uses_attention(model: nn.Module) -> list[Any]:
    """The configs of the transformers models in `model` whose attention is ours.

    >>> uses_attention(nn.Linear(2, 2))
    []
    """
    return [config for config, _ in _configs(model, NAME)]


def take_attention(model: nn.Module) -> Callable[[], None]:
    """Ours wherever it is theirs; what is returned undoes that.

    The configs are copied: two models that were made of one share it.

    >>> take_attention(nn.Linear(2, 2))()
    """
    before = _configs(model, REPLACED)
    name = _registered() if before else NAME
    for config, holders in before:
        own = copy.copy(config)
        setattr(own, SETTING, name)
        for module in holders:
            module.config = own

    def undo() -> None:
        for config, holders in before:
            for module in holders:
                module.config = config

    return undo


def leave_attention(model: nn.Module) -> None:
    """Theirs wherever it is ours.

    >>> leave_attention(nn.Linear(2, 2))
    """
    for config in uses_attention(model):
        setattr(config, SETTING, REPLACED)


@contextmanager
def observing(model: nn.Module, note: Callable[[Asked], None]) -> Iterator[None]:
    """While active, the calls of attention in `model` are told to `note`, and done as before.

    >>> with observing(nn.Linear(2, 2), print):
    ...     pass
    """
    before = {id(config) for config in uses_attention(model)}
    undo = take_attention(model)
    observed = [id(config) for config in uses_attention(model) if id(config) not in before]
    _observers.update(dict.fromkeys(observed, note))
    try:
        yield
    finally:
        for config in observed:
            del _observers[config]
        undo()


def _configs(model: nn.Module, chosen: str) -> list[tuple[Any, list[Any]]]:
    """Of all transformers models in `model` that let their attention be chosen and have `chosen`: each config
    once, with all modules that hold it."""
    if "transformers" not in sys.modules or not _has_registry():
        return []
    holders: dict[int, tuple[Any, list[Any]]] = {}
    choosing = set()
    for module in model.modules():
        config = module.__dict__.get("config")
        if getattr(config, SETTING, None) != chosen:
            continue
        holders.setdefault(id(config), (config, []))[1].append(module)
        can_set = getattr(type(module), "_can_set_attn_implementation", None)
        if can_set is not None and can_set():
            choosing.add(id(config))
    return [found for key, found in holders.items() if key in choosing]


def _has_registry() -> bool:
    """Whether this version of transformers lets attention functions be registered."""
    try:
        from transformers import AttentionInterface  # noqa: F401
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask  # noqa: F401
    except ImportError:
        return False
    return True
