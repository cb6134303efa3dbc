"""A warning for optimisers that still train what was removed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["check_optimizer"]


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> list[nn.Parameter]:
    """The parameters the optimiser holds that the model no longer uses; warns (UserWarning) if there are any.

    `shrink_` replaces the weights it cuts: an optimiser built before it goes on updating the old ones and
    never touches the new ones. Build a new optimiser after shrinking.

    >>> import torch
    >>> model = nn.Linear(2, 2)
    >>> check_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model)
    []
    """
    live = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    dead = [parameter for parameter in held if id(parameter) not in live]
    if dead:
        known = {id(parameter) for parameter in held}
        missing = [name for key, name in live.items() if key not in known]
        some = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
        warnings.warn(
            f"the optimizer holds {len(dead)} parameters that the model does not use any more, and "
            f"{len(missing)} of the model's are not in it ({some}): build the optimizer after shrink_",
            UserWarning,
            stacklevel=2,
        )
    return dead
