import ml_dtypes
import numpy as np
import pytest

from prunus.ops import reference

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.fixture(scope="session")
def naive():
    """The naive reference of selection."""
    return reference.select


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    return np.dtype(request.param)
