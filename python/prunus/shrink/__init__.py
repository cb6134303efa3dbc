"""Structured pruning: the model really gets smaller."""

from prunus.shrink.geometry import apply_geometry_, geometry
from prunus.shrink.optimizer import check_optimizer
from prunus.shrink.report import ShrinkReport
from prunus.shrink.saving import save_ordinarily
from prunus.shrink.targets import Heads, Layers, Neurons
from prunus.shrink.verb import shrink_

__all__ = [
    "Heads",
    "Layers",
    "Neurons",
    "ShrinkReport",
    "apply_geometry_",
    "check_optimizer",
    "geometry",
    "save_ordinarily",
    "shrink_",
]
