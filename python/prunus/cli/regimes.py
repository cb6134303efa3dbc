"""What a pruned model is to be fast at: a batch, a prompt of some tokens, or one token after another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from prunus.cli.inputs import Inputs, SampleSize, check_least, check_length, is_causal

if TYPE_CHECKING:
    import argparse

__all__ = ["Regime", "add_options", "milliseconds", "regimes", "told"]

SECONDS, AT_LEAST, AT_MOST = 2.0, 3, 15


@dataclass(frozen=True)
class Regime:
    """name: what is timed. example: inputs with as many tokens for every layer. past: tokens in the cache
    before them."""

    name: str
    example: dict[str, Any]
    past: int = 0


def add_options(group: Any) -> None:
    """The options that `regimes` reads."""
    group.add_argument(
        "--tokens", type=int, metavar="N", help="time layers for one text of N tokens (not for a whole batch)"
    )
    group.add_argument(
        "--decode",
        action="store_true",
        help="time layers for one token after --length others in a cache, as a model writes text; with "
        "--tokens both count",
    )


def regimes(options: argparse.Namespace, inputs: Inputs, model: Any, size: SampleSize) -> list[Regime]:
    """What the options ask for; without any the batch with most tokens. ValueError where the model cannot."""
    check_least("tokens", options.tokens, 1)
    if options.decode and not is_causal(model):
        raise ValueError("--decode: expected a model that predicts the next token, got another kind")
    if options.tokens is not None:
        check_length(model, SampleSize(1, 1, max(options.tokens, 2)), "--tokens")
    if not inputs.batches:
        return []
    # The batch with most tokens: those of encoders differ in length.
    example = max(inputs.batches, key=lambda batch: batch["input_ids"].numel())
    found = []
    if options.tokens is not None:
        found.append(Regime(f"{options.tokens} tokens", _cut(example, options.tokens)))
    if options.decode:
        past = max(1, size.length - AT_MOST - 1)  # no longer than --length at the end
        found.append(Regime(f"one token after {past}", _cut(example, 1), past))
    shape = "x".join(str(extent) for extent in example["input_ids"].shape)
    return found or [Regime(f"batch of {shape}", example)]


def milliseconds(model: Any, wanted: Sequence[Regime]) -> list[float]:
    """The fastest of some runs of the whole model, for each of them."""
    from prunus._tools.running import evaluating
    from prunus._tools.timing import take_turns

    with evaluating(model):
        calls = [_call(model, regime) for regime in wanted]
        return [times.best_ms for times in take_turns(calls, SECONDS, AT_LEAST, AT_MOST, "timing the model")]


def told(wanted: Sequence[Regime], before: Sequence[float], after: Sequence[float]) -> str:
    """A line for each.

    >>> told([Regime("8 tokens", {})], [2.0], [1.0])
    '8 tokens: 2.00 ms before, 1.00 ms after packing (2.00x)'
    """
    return "\n".join(
        f"{regime.name}: {was:.2f} ms before, {now:.2f} ms after packing ({was / now:.2f}x)"
        for regime, was, now in zip(wanted, before, after, strict=True)
    )


def _cut(example: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The first row, repeated or cut to so many tokens; everything else of a batch goes by its length."""
    rows = example["input_ids"].shape[1]
    repeat = -(-tokens // rows)
    return {
        name: tensor[:1].repeat(1, repeat)[:, :tokens] if tensor.dim() == 2 else tensor
        for name, tensor in example.items()
    }


def _call(model: Any, regime: Regime) -> Callable[[], object]:
    if not regime.past:
        return partial(model, **regime.example)
    token = regime.example["input_ids"]
    # It grows by a token with every call, which is what writing a text does.
    cache = model(input_ids=token.repeat(1, regime.past), use_cache=True).past_key_values
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return partial(model, input_ids=token, use_cache=True, **{name: cache})
