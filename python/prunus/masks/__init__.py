"""The pruning backend: scores in, masks out (True = keep)."""

from prunus.masks.selection import apply_mask_, normalize, select, select_global

__all__ = ["apply_mask_", "normalize", "select", "select_global"]
