"""What a peer is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.problem import Problem
from bench.timing import Turn


@dataclass(frozen=True)
class Prepared:
    """A problem ready to run: everything that a user does once per weight is done."""

    call: Callable[[], Any]  # computes y and returns it in the peer's own kind
    nbytes: int  # of the weight as the peer reads it
    detail: str = ""  # what was chosen: format, kernel
    turn: Turn | None = None  # of a peer in another process: `call` crosses the border at every call


class Peer:
    """A way to compute a linear layer. Subclasses are stateless; one object serves all cases."""

    name: ClassVar[str]
    dtype: ClassVar[str] = "float32"  # of the weight's values
    tolerance: ClassVar[float] = 1e-4  # relative to the answer's root mean square
    patterns: tuple[str, ...] = ()  # sparsity patterns it makes use of; empty: dense
    slow: ClassVar[bool] = False  # takes seconds to prepare or to run: left out of --quick
    on_request: bool = False  # runs only where a suite or --peers names it

    def missing(self) -> str | None:
        """Why it cannot run here, in a few words; None when it can."""
        return None

    def supports(self, problem: Problem) -> bool:
        return problem.activation is None

    def set_threads(self, threads: int) -> None:
        """Called before preparing a group, in one process with all other peers."""

    def prepare(self, problem: Problem) -> Prepared:
        raise NotImplementedError

    def to_numpy(self, y: Any) -> Any:
        return y


def missing_package(*names: str) -> str | None:
    import importlib.util

    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None
