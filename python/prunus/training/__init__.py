"""Training pruned models: what is zero stays zero."""

from prunus.training.verb import ZeroKeeper, keep_zeros

__all__ = ["ZeroKeeper", "keep_zeros"]
