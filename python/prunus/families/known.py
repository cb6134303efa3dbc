"""The architectures prunus knows: entries of data, read from the sources of transformers 4.45 to 5.24."""

from __future__ import annotations

from prunus.families.decoders import DECODERS
from prunus.families.encoders import ENCODERS
from prunus.families.family import Family
from prunus.families.pairs import PAIRS

__all__ = ["FAMILIES"]

#: Known families, searched from the last to the first: a registered one wins over a built-in one.
FAMILIES: list[Family] = [*ENCODERS, *DECODERS, *PAIRS]
