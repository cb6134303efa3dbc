"""Pruning a model in place."""

from prunus.prune.report import PruneReport
from prunus.prune.verb import fold_targets, prune_, prune_and

__all__ = ["PruneReport", "fold_targets", "prune_", "prune_and"]
