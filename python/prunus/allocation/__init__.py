"""Sharing a budget among layers."""

from prunus.allocation.base import Allocation, Global, Key, Survey
from prunus.allocation.choose import choose_levels
from prunus.allocation.owl import OWL
from prunus.allocation.sensitivity import Sensitivity, nearest, output_error, trials, weigh

__all__ = [
    "OWL",
    "Allocation",
    "Global",
    "Key",
    "Sensitivity",
    "Survey",
    "choose_levels",
    "nearest",
    "output_error",
    "trials",
    "weigh",
]
