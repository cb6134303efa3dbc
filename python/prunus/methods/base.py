"""What every pruning method has in common: one signature, options, words, the cuts of a multi-step run.

Imports neither numpy nor torch until something is computed: `import prunus` reads every method.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from prunus.patterns import NM, Pattern, Scope

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["Method", "choose", "cuts"]


@dataclass(frozen=True)
class Method:
    """A way to decide which weights go. A subclass gives `scores`, or `prune` when it also changes weights.

    steps: number of cuts; before each the statistics are measured again on the model as it is then.
    repair: after each cut, replace the kept weights of a row by the least-squares fit of the row's old
    output on the calibration inputs (`least_squares`).
    needs: the statistics it wants: "sumsq", "gram", "grad_sum", "grad_sq" (see `prunus.Stats`).
    name: its word on the command line and in the bench. variants: more words, name-variant, and the options
    that each stands for. scope: what shares a budget there unless the user says so.

    Raises TypeError when steps is no integer, ValueError when it is below 1.

    >>> import torch
    >>> from prunus.patterns import NM
    >>> class Largest(Method):
    ...     def scores(self, weight, stats):
    ...         return weight
    >>> Largest().prune(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), None, NM(2, 4))[0].tolist()
    [[False, True, True, False]]
    """

    steps: int = field(default=1, kw_only=True)
    repair: bool = field(default=False, kw_only=True)
    needs: ClassVar[frozenset[str]] = frozenset()
    name: ClassVar[str] = ""
    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    scope: ClassVar[Scope] = "tensor"

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int):
            raise TypeError(f"steps: expected an integer, got {type(self.steps).__name__}")
        if self.steps < 1:
            raise ValueError(f"steps: expected >= 1, got {self.steps}")

    def __str__(self) -> str:
        """Its name and the options that differ from the defaults."""
        options = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v, usual in options if v != usual)})"

    @classmethod
    def words(cls) -> dict[str, dict[str, Any]]:
        """Word -> the options that it stands for: the name, and one for every variant.

        >>> from prunus.methods import Magnitude
        >>> Magnitude.words()["magnitude-row"]
        {'normalize': 'row'}
        """
        return {cls.name: {}} | {f"{cls.name}-{variant}": of for variant, of in cls.variants.items()}

    @classmethod
    def takes(cls, option: str) -> bool:
        """Whether it has a field of that name.

        >>> Method.takes("steps"), Method.takes("loss")
        (True, False)
        """
        return option in {f.name for f in fields(cls)}

    @classmethod
    def of(cls, word: str, **given: Any) -> Method:
        """What one of the `words` means. given: values of fields; those that it does not have are left out.

        Raises KeyError for another word.

        >>> from prunus.methods import Random
        >>> print(Random.of("random", seed=3, loss=None, steps=1))
        Random(seed=3)
        """
        fitting = {name: value for name, value in given.items() if cls.takes(name)}
        return cls(**(fitting | cls.words()[word]))

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """Importance of every entry of `weight` (n, k), larger = keep; a new tensor of the same shape."""
        raise NotImplementedError(f"{type(self).__name__}.scores")

    def prune(self, weight: Tensor, stats: Stats, pattern: Pattern) -> tuple[Tensor, Tensor | None]:
        """Mask (n, k), True = keep, and the new weight, or None when the kept entries stay as they are."""
        return choose(self.scores(weight, stats), pattern), None


def choose(scores: Tensor, pattern: Pattern) -> Tensor:
    """`prunus.select` for scores on any device: where no kernels for it are there, the CPU selects and the
    mask goes back.

    >>> import torch
    >>> from prunus.patterns import Unstructured
    >>> choose(torch.tensor([[1.0, 2.0]]), Unstructured(0.5)).tolist()
    [[False, True]]
    """
    from prunus._tools.cuda import has_kernels
    from prunus.masks import select

    plain = scores.detach() if has_kernels(scores) else scores.detach().cpu()
    return select(plain if 1 in plain.stride() else plain.contiguous(), pattern).to(scores.device)


def cuts(pattern: Pattern, steps: int) -> list[Pattern]:
    """The patterns of a run in `steps` cuts, the last one `pattern` itself.

    Every cut keeps the same share of what is left, kept_t = (1 - s)^(t / steps): the schedule of iterative
    SNIP (arXiv:2006.00896). N:M goes from M - 1 kept down to N in whole numbers: at most M - N cuts.

    >>> from prunus.patterns import Unstructured
    >>> [round(p.sparsity, 3) for p in cuts(Unstructured(0.75), 2)]
    [0.5, 0.75]
    >>> cuts(NM(2, 4), 5)
    [NM(n=3, m=4), NM(n=2, m=4)]
    """
    if isinstance(pattern, NM):
        count = min(steps, pattern.m - pattern.n)
        kept = [pattern.m - (pattern.m - pattern.n) * t // count for t in range(1, count + 1)]
        return [NM(n, pattern.m) for n in kept]
    shares = [1.0 - (1.0 - pattern.sparsity) ** (t / steps) for t in range(1, steps)]
    early: list[Pattern] = [replace(pattern, sparsity=share) for share in shares]
    return [*early, pattern]
