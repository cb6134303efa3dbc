"""What every recovery method has in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus.recover.session import Session

__all__ = ["RecoverError", "Recovery"]


class RecoverError(RuntimeError):
    """Recovery stopped by an error; the model holds the best state so far. `__cause__` is what happened.

    >>> issubclass(RecoverError, RuntimeError)
    True
    """


@dataclass(frozen=True)
class Recovery:
    """A way to bring a pruned model back to its teacher: `Refit`, `Reconstruct` or `Distill`.

    >>> import prunus
    >>> str(prunus.Distill(steps=3))
    'Distill(steps=3)'
    """

    def __str__(self) -> str:
        """Its name and the options that differ from the defaults."""
        options = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v, usual in options if v != usual)})"

    def run(self, session: Session) -> dict[str, Any]:
        """Change `session.model`; what the report's row says besides the quality. All or nothing: an error
        before the first improvement leaves the model as it was."""
        raise NotImplementedError(f"{type(self).__name__}.run")
