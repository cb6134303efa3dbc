"""What to remove from a model: `Neurons`, `Heads` or `Layers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

from prunus.methods.taylor import Loss
from prunus.patterns import check_sparsity

__all__ = ["Compensation", "Heads", "Importance", "Layers", "Neurons", "Removal"]

Importance = Literal["auto", "weight", "activation", "gradient"]
Budget = Literal["layer", "model"]
Compensation = Literal["bias", "weight", "none"]


@dataclass(frozen=True)
class _Groups:
    sparsity: float
    importance: Importance = "auto"
    scope: Budget = "layer"
    compensate: Compensation = "bias"
    loss: Loss | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sparsity", check_sparsity(self.sparsity))
        if self.sparsity == 1.0:
            raise ValueError("sparsity: expected below 1, got 1; a block without any is what Layers drops")
        for argument, words in (("importance", Importance), ("scope", Budget), ("compensate", Compensation)):
            if getattr(self, argument) not in get_args(words):
                raise ValueError(
                    f"{argument}: expected {', '.join(get_args(words))}, got {getattr(self, argument)!r}"
                )
        if self.loss is not None and self.importance != "gradient":
            raise ValueError(f"loss: expected None with importance {self.importance!r}, got a function")


@dataclass(frozen=True)
class Neurons(_Groups):
    """Neurons of the MLPs: rows of up (and gate) with their column of down.

    sparsity: fraction of the neurons to remove, 0 <= sparsity < 1; floor(sparsity * n + 0.5) of n.

    importance: what decides, the lowest is removed first.
    - "weight": |w_up| * |w_down| (and * |w_gate|), L2 norms of what belongs to the neuron.
    - "activation": variance of the neuron's activation times |w_down|^2: the mean squared output error that
      is left when its mean is folded into the bias (FLAP, arXiv 2312.11983).
    - "gradient": mean |activation * dloss/dactivation| (first-order Taylor, Molchanov et al. 2019).
    - "auto": "activation" with calibration, else "weight".

    scope: "layer" removes the same fraction everywhere; "model" takes the least important of all blocks,
    after scaling every block's importances to sum to 1 ("gradient": not scaled, its unit is the loss).

    compensate: what makes up for what is removed; a missing bias of the next layer is added where needed.
    - "bias": with calibration, its mean contribution goes into the next bias; without, what is known to be
      constant does: a neuron without input weights still emits act(bias).
    - "weight": also the kept columns of the next layer take over what they can predict of it (least squares
      over the calibration tokens). Dearer, one covariance per block, and better: MiniLM, 25 % of the
      neurons, mean cosine to the dense embeddings 0.88 with "none", 0.92 with "bias", 0.95 with "weight".
    - "none": nothing, not even a constant.

    Of experts (Mixtral, Qwen3-MoE) each loses as many, by its own importance; they have no biases, so that
    nothing is folded, and scope "model", "gradient" and compensate "weight" are refused.

    loss: (model, batch) -> scalar tensor, for "gradient"; default the output's `.loss` (give labels).

    Raises TypeError (sparsity) and ValueError (sparsity, importance, scope, compensate, a loss without
    "gradient").

    >>> Neurons(0.25).importance
    'auto'
    """


@dataclass(frozen=True)
class Heads(_Groups):
    """Attention heads: rows of q, k and v with their columns of the output projection.

    A decoder's attention to its encoder counts as another attention. With grouped queries a key/value head
    goes together with all its query heads, so the groups stay as they are, and rotary embeddings are
    untouched. `sparsity` is the fraction of key/value heads (of heads, without grouped queries);
    importance, scope, compensate and loss are those of `Neurons`, with the head's context in place of the
    neuron's activation, and |w_v| * |w_o| (Frobenius norms) as "weight". Raises as `Neurons`.

    >>> Heads(0.25, scope="model").scope
    'model'
    """


@dataclass(frozen=True)
class Layers:
    """Whole blocks: `drop` is how many, or the indices of the blocks to remove, in each stack of the model.

    A number removes the blocks of the lowest influence, 1 - cosine(input, output) averaged over the tokens of
    the calibration batches (ShortGPT, arXiv 2403.03853), which it needs. Indices need no calibration.

    compensate: "bias" adds, with calibration, what the missing blocks added on average to the last bias of
    the block before them, "none" does not. MiniLM, one and two of 6 blocks dropped, mean cosine to the dense
    embeddings: 0.912 and 0.750 with "none", 0.911 and 0.769 with "bias".

    Raises TypeError and ValueError when drop is no count, no list of different indices, or compensate another
    word.

    >>> Layers([2, 3]).drop
    (2, 3)
    """

    drop: int | tuple[int, ...]
    compensate: Literal["bias", "none"] = "bias"

    def __init__(self, drop: int | Sequence[int], compensate: Literal["bias", "none"] = "bias") -> None:
        if compensate not in ("bias", "none"):
            raise ValueError(f"compensate: expected bias, none, got {compensate!r}")
        object.__setattr__(self, "drop", _blocks(drop))
        object.__setattr__(self, "compensate", compensate)


def _blocks(drop: int | Sequence[int]) -> int | tuple[int, ...]:
    """A count, or ascending indices."""
    if isinstance(drop, Integral) and not isinstance(drop, bool):
        if drop < 0:
            raise ValueError(f"drop: expected >= 0, got {drop}")
        return int(drop)
    if isinstance(drop, (str, bytes)) or not isinstance(drop, Sequence):
        raise TypeError(f"drop: expected a number of blocks or their indices, got {drop!r}")
    for index in drop:
        if isinstance(index, bool) or not isinstance(index, Integral) or index < 0:
            raise ValueError(f"drop: expected indices >= 0, got {index!r}")
    if len(set(drop)) != len(drop):
        raise ValueError(f"drop: expected each index once, got {list(drop)}")
    return tuple(sorted(int(index) for index in drop))


Removal = Neurons | Heads | Layers
