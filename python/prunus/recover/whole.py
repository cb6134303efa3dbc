"""A method that changes the model for the better, or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunus._tools.interrupts import OneInterrupt
from prunus.recover.base import RecoverError

if TYPE_CHECKING:
    from prunus.recover.session import Session

__all__ = ["Old", "all_or_nothing", "put_back"]

#: Tensors and the values they had.
Old = list[tuple[Tensor, Tensor]]


def all_or_nothing(session: Session, name: str, work: Callable[[Old], dict[str, Any]]) -> dict[str, Any]:
    """Run `work(old)`, which notes in `old` what it changes; its dict, with "note" and "interrupted".

    Where it raises, is interrupted, or leaves the held-out quality no better, everything is put back.
    Raises ValueError as it comes, `RecoverError` for other errors; warns (UserWarning) at Ctrl-C.
    """
    before, session.known = session.present(), None
    done: dict[str, Any] = {"note": "", "interrupted": False}
    holds = f"the model is as it was before {name}"
    old: Old = []
    keep, after = False, before
    with OneInterrupt() as interrupt:
        try:
            done |= work(old)
            after = session.quality()
            keep = after.score > before.score
            if not keep:
                done["note"] = f"undone: {after}, not better than {before}"
        except KeyboardInterrupt:
            done |= {"note": f"interrupted; {holds}", "interrupted": True}
            warnings.warn(f"recover_: {done['note']}", UserWarning, stacklevel=4)
        except ValueError:
            raise
        except Exception as error:
            raise RecoverError(f"recover_: {name} stopped by {error}; {holds}") from error
        finally:
            interrupt.hold()
            if not keep:
                put_back(old)
            session.known = after if keep else before
    return done


@torch.no_grad()
def put_back(old: Old) -> None:
    """Give the tensors the values they had."""
    for tensor, value in reversed(old):
        tensor.copy_(value)
