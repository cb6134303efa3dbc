"""Pruning a model in place."""

from prunus.prune.report import PruneReport
from prunus.prune.verb import prune_

__all__ = ["PruneReport", "prune_"]
