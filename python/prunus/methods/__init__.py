"""Pruning methods: weight + statistics + pattern -> mask, and maybe a new weight.

All of them take `steps=` and `repair=` (see `Method`) and work with every pattern. A new method is one file
and one line here: the names of the package, the command line and the bench follow.
"""

from typing import TYPE_CHECKING

from prunus.methods.base import Method as Method
from prunus.methods.base import choose, cuts
from prunus.methods.magnitude import Magnitude as Magnitude
from prunus.methods.random import Random as Random
from prunus.methods.repair import least_squares as least_squares
from prunus.methods.sparsegpt import SparseGPT as SparseGPT
from prunus.methods.taylor import SNIP as SNIP
from prunus.methods.taylor import Taylor as Taylor
from prunus.methods.wanda import Wanda as Wanda

# A type checker reads the lines above.
if not TYPE_CHECKING:
    _here, _inner = "prunus.methods.", (choose, cuts)
    __all__ = [
        name
        for name, it in globals().items()
        if getattr(it, "__module__", "").startswith(_here) and it not in _inner
    ]
