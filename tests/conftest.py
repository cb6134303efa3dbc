"""Fixtures that every layer's tests share."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

from prunus import _core

# Fixed examples: a red run can be repeated. No deadline: the machines that run this are shared.
settings.register_profile("prunus", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("prunus")


@pytest.fixture(params=list(_core.available_isas()))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for every isa that this CPU and this build have; the name is the value."""
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa("auto")


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test with 1, 2 and 3 threads in the core's pool and, where torch is loaded, in torch's."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    _core.set_num_threads(request.param)
    if torch:
        torch.set_num_threads(request.param)
    yield request.param
    _core.set_num_threads(0)
    if torch:
        torch.set_num_threads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers in every run."""
    return np.random.default_rng(0)
