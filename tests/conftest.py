"""Fixtures that every layer's tests share."""

import signal
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import settings

from prunus import _core

# A shell that starts pytest in the background lets it ignore Ctrl-C, which some tests send themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Fixed examples: a red run can be repeated. No deadline: the machines that run this are shared.
settings.register_profile("prunus", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("prunus")


def isas_with_rows(of_dot: bool) -> list[str]:
    """The isas of this machine that add tile kernels of format dot, or of the others."""
    found = []
    for isa in _core.available_isas():
        _core.set_isa(isa)
        if any(row["isa"] == isa and (row["format"] == "dot") == of_dot for row in _core.kernel_rows()):
            found.append(isa)
    _core.set_isa("auto")
    return found


@pytest.fixture(params=isas_with_rows(of_dot=True))
def dot_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """As `isa`, for format dot: some isas have kernels for it alone."""
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa("auto")


@pytest.fixture(params=isas_with_rows(of_dot=False))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for every isa of this machine that has kernels of its own; the name is the value."""
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa("auto")


# Folders of tests whose tensors are so small that they only wait for a second thread.
ONE_THREAD = ("cli", "methods", "recover", "shrink")


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.path.parent.name not in ONE_THREAD:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the threads of the core's pool and, where torch is loaded, of torch's, until the test ends."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0

    def to(count: int) -> None:
        _core.set_num_threads(count)
        if torch:
            torch.set_num_threads(count)

    yield to
    _core.set_num_threads(0)
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}threads")
def threads(request: pytest.FixtureRequest, set_threads: Callable[[int], None]) -> int:
    """Runs the test with 1, 2 and 3 threads."""
    set_threads(request.param)
    return int(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def fit() -> Callable[[np.ndarray, str], np.ndarray]:
    """fit(w, format): w changed as little as needed for the format: any, 2:4 for nm, whole 4x2 blocks."""

    def fit(w: np.ndarray, format: str) -> np.ndarray:
        n, k = w.shape
        if format == "nm":
            groups = np.zeros((n, -(-k // 4), 4), w.dtype)
            groups.reshape(n, groups.shape[1] * 4)[:, :k] = w
            groups[np.cumsum(groups != 0, axis=2) > 2] = 0
            return np.ascontiguousarray(groups.reshape(n, groups.shape[1] * 4)[:, :k])
        if format == "block":
            kept = np.repeat(np.repeat(w[::4, ::2] != 0, 4, axis=0), 2, axis=1)[:n, :k]
            return np.where(kept, np.where(w == 0, np.ones_like(w), w), np.zeros_like(w))
        return w

    return fit
