"""The small models as fixtures, and batches for them."""

from collections.abc import Callable

import pytest
import torch
from small_models import small, tokens
from torch import nn


@pytest.fixture(params=["bert", "gpt2", "llama", "plain"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return small(request.param)


@pytest.fixture(params=["bert", "gpt2", "llama"])
def transformer(request: pytest.FixtureRequest) -> nn.Module:
    return small(request.param)


@pytest.fixture
def build() -> Callable[[str], nn.Module]:
    return small


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return tokens()
