"""Calibration: statistics of layer inputs, gathered by running sample batches."""

from prunus.calibration.batches import Calibration, as_calibration, calibration_for, untouched
from prunus.calibration.gradients import gradients
from prunus.calibration.stats import Stats
from prunus.calibration.walk import Group, walk

__all__ = [
    "Calibration",
    "Group",
    "Stats",
    "as_calibration",
    "calibration_for",
    "gradients",
    "untouched",
    "walk",
]
