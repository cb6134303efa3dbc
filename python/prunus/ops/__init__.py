"""The operators: the numpy and torch door, torch operators, gradients. Imports no torch by itself."""

from prunus.ops.door import ACTIVATIONS, activation_number, gated, linear

__all__ = ["ACTIVATIONS", "activation_number", "gated", "linear"]
