"""The suite sets thread counts for the whole process; other tests must not inherit them."""

from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_limits

from prunus import _core


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    with threadpool_limits():  # restores the BLAS pools at its end
        yield
    torch.set_num_threads(before)
    _core.set_num_threads(0)
