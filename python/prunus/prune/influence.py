"""What the outputs of a model feel of another weight in one layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus._tools.running import output_tensors
from prunus.calibration import Calibration
from prunus.calibration.batches import real_tokens, run_batch
from prunus.calibration.ranks import summed
from prunus.calibration.recorder import token_rows

__all__ = ["Influence"]

ALL = slice(None)


class Influence:
    """Compares the outputs for the first calibration batch with those of the model as it was; one forward
    pass per question. Call it inside `untouched(model)` and no_grad."""

    def __init__(self, model: nn.Module, calibration: Calibration) -> None:
        self.model, self.calibration = model, calibration
        self.batch = next(iter(calibration.batches))
        self.before = self._outputs()

    def of(self, weight: Tensor, trial: Tensor, rows: slice | list[int] = ALL) -> float | None:
        """|now - before|^2 / |before|^2 of the outputs without padding, `trial` in the place of these rows of
        `weight`, averaged over outputs and processes; None when the model gives no floating-point output. The
        weight comes back."""
        old = weight[rows].clone()
        try:
            weight[rows] = trial.to(weight.dtype)
            now = self._outputs()
        finally:
            weight[rows] = old
        errors = []
        for name, before in self.before.items():
            size = float(before.square().sum())
            if size > 0 and name in now:
                errors.append(float((now[name] - before).square().sum()) / size)
        error = sum(errors) / len(errors) if errors else 0.0
        error, count = summed(
            torch.tensor([error, float(bool(errors))], dtype=torch.float64, device="cpu")
        ).tolist()
        return error / count if count else None

    def _outputs(self) -> dict[str, Tensor]:
        real = real_tokens(self.model, self.batch, self.calibration)
        found = output_tensors(run_batch(self.model, self.batch, self.calibration))
        return {name: token_rows(tensor, real).float() for name, tensor in found.items() if tensor.dim() > 0}
