"""Pruning methods: weight + statistics + pattern -> mask, and maybe a new weight.

All of them take `steps=` and `repair=` (see `Method`) and work with every pattern.
"""

from prunus.methods.base import Method, choose, cuts
from prunus.methods.magnitude import Magnitude
from prunus.methods.random import Random
from prunus.methods.repair import least_squares
from prunus.methods.sparsegpt import SparseGPT
from prunus.methods.taylor import SNIP, Taylor
from prunus.methods.wanda import Wanda

__all__ = [
    "SNIP",
    "Magnitude",
    "Method",
    "Random",
    "SparseGPT",
    "Taylor",
    "Wanda",
    "choose",
    "cuts",
    "least_squares",
]
