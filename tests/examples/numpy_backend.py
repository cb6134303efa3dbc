"""prunus as a backend: scores in, masks out, sparse products, on numpy arrays. No torch is imported.

python tests/examples/numpy_backend.py
"""

import sys

import numpy as np

import prunus
from prunus import NM, Block, Unstructured
from prunus.ops import reference

rng = np.random.default_rng(0)
w = rng.standard_normal((512, 256), dtype=np.float32)  # (outputs, inputs)
x = rng.standard_normal((8, 256), dtype=np.float32)  # (tokens, inputs)

# The score is yours: here every weight beside the norm of its row. Larger = keep.
scores = np.abs(prunus.normalize(w, axis=1))
for pattern in (Unstructured(0.8), Unstructured(0.8, scope="row"), NM(2, 8), Block((4, 4), 0.8)):
    mask = prunus.select(scores, pattern)  # exact, also among ties; True = keep
    packed = prunus.pack(w, mask)
    y = prunus.linear(x, packed, activation="relu")
    # What it should be, as the definition says it.
    expected = reference.linear(x, w * mask, activation="relu")
    assert np.abs(y - expected).max() < 1e-3
    assert (mask == reference.select(scores, pattern)).all()
    plan = packed.explain(len(x))
    print(f"{pattern}: {mask.mean():.0%} kept, {packed.nbytes} bytes, {plan['kernel']}: {plan['reason']}")

# One budget over several weights, and zeros written in place.
other = rng.standard_normal((64, 64), dtype=np.float32)
masks = prunus.select_global([np.abs(w), np.abs(other)], 0.5)
prunus.apply_mask_(w, masks[0])
prunus.apply_mask_(other, masks[1])
print(f"zeros: {(w == 0).mean():.1%} and {(other == 0).mean():.1%}, together exactly half")
assert (w == 0).sum() + (other == 0).sum() == (w.size + other.size) // 2
assert __name__ != "__main__" or "torch" not in sys.modules
