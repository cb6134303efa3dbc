"""What every wheel must do with nothing but its dependencies beside it: prune, pack, multiply, no torch."""

import sys

import numpy as np

import prunus

w = (np.arange(96 * 64).reshape(96, 64) % 7 - 3).astype(np.float32)
x = (np.arange(5 * 64).reshape(5, 64) % 5 - 2).astype(np.float32)
for pattern in (prunus.Unstructured(0.5), prunus.NM(2, 4), prunus.Block((4, 4), 0.5)):
    pruned = w.copy()
    prunus.apply_mask_(pruned, prunus.select(abs(w), pattern))
    packed = prunus.pack(pruned)
    assert (packed.to_dense() == pruned).all(), pattern
    assert (prunus.linear(x, packed) == x @ pruned.T).all(), pattern  # whole numbers: exact
assert "torch" not in sys.modules
print(f"prunus {prunus.__version__} works on Python {sys.version.split()[0]}, {sys.platform}")
