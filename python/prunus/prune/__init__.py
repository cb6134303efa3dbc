"""Pruning a model in place."""

from prunus.prune.report import PruneReport
from prunus.prune.verb import prune_, prune_and

__all__ = ["PruneReport", "prune_", "prune_and"]
