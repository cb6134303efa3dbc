"""Swapping layers for packed ones where that was measured faster."""

from prunus.accelerate.report import AccelerateReport
from prunus.accelerate.verb import accelerate_

__all__ = ["AccelerateReport", "accelerate_"]
