"""Distill: train the pruned model, end to end, to give what its teacher gives."""

from __future__ import annotations

from collections.abc import Callable  # noqa: F401  # the inherited fields' types are looked up here
from dataclasses import dataclass
from typing import Any

from torch import Tensor  # noqa: F401  # likewise

from prunus.recover.gradual import Gradual  # noqa: F401  # likewise
from prunus.recover.options import Options, Precision  # noqa: F401  # likewise
from prunus.recover.session import Session
from prunus.recover.train import Training

__all__ = ["Distill"]


@dataclass(frozen=True, kw_only=True)
class Distill(Options):
    """Knowledge distillation without labels: the teacher's hidden states and outputs are the targets.

    Parameters
    ----------
    minutes, steps : the budget; with both, whichever ends first. Neither: ten minutes. Only `steps` alone,
        with a precision, gives the same numbers again: what a minute holds, and what "auto" finds faster,
        depends on the machine.
    learning_rate : of Muon, as a share of each weight's own size (the root mean square of what is not
        zero), so that one value serves most models; it warms up and falls to zero over the budget.
        Where the model is suddenly twice as far from its teacher, it goes back and on with a quarter of it.
    loss : (output, batch) -> scalar tensor, added to the loss with the factor `loss_weight`: a task of yours.
        With it, the labels of the batches reach the model.
    accumulate : batches of one step. precision : of the forward passes, "bfloat16" under torch.autocast;
        "auto" times both and takes the faster. gradient_checkpointing : less memory for a third more time,
        where the model offers it.
    checkpoint : a file to go on from after the process was killed; written in one step, now and then. It
        stays when the run is done: running again gives the result at once.
    seed : of the order of the data.
    gradual : a pattern to reach on the way, see `Gradual`: the model comes dense, or with fewer zeros.

    Raises TypeError and ValueError for wrong arguments.

    >>> str(Distill(minutes=30))
    'Distill(minutes=30)'
    """

    def run(self, session: Session) -> dict[str, Any]:
        """Train `session.model`; see `Recovery.run`."""
        with Training(self, session) as training:
            return training.run()
