"""Fixtures of the torch tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Graphs of one test neither serve nor exhaust the recompile limit of the next."""
    yield
    torch._dynamo.reset()
