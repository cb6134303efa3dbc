"""A dtype is named by a word or by a numpy or torch dtype, at every door."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import prunus

SAME = [
    ("float32", np.float32, np.dtype("float32"), torch.float32),
    ("bfloat16", np.dtype(ml_dtypes.bfloat16), ml_dtypes.bfloat16, torch.bfloat16),
    ("float16", np.float16, np.dtype("float16"), torch.float16),
    ("int8", np.int8, np.dtype("int8"), torch.int8),
]


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_words_and_dtypes_are_the_same(names: tuple[object, ...]) -> None:
    w = np.eye(5, dtype=np.float32)
    for name in names:
        assert prunus.pack(w, dtype=name).dtype == names[0]
        assert prunus.SparseLinear.from_linear(nn.Linear(4, 3), dtype=name).packed_weight.dtype == names[0]


@pytest.mark.parametrize("bad", ["float", torch.int32, np.float64, np.dtype("int16"), 3, float])
def test_others_are_refused_with_a_sentence(bad: object) -> None:
    expected = "dtype: expected one of float32, bfloat16, float16, int8, got"
    with pytest.raises(ValueError, match=expected):
        prunus.pack(np.eye(2, dtype=np.float32), dtype=bad)
    with pytest.raises(ValueError, match=expected):
        prunus.SparseLinear.from_linear(nn.Linear(2, 2), dtype=bad)
