"""A GPU for the tests of models: the real one where there is one, and everywhere a pretended one."""

from collections.abc import Iterator

import pytest
import torch

from pretended_gpu import PretendedGpu

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["pretended", pytest.param("real", marks=needs_gpu)])
def gpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The word to move models and inputs with."""
    if request.param == "real":
        torch.backends.cuda.matmul.allow_tf32 = False
        yield "cuda"
    else:
        with PretendedGpu():
            yield "cuda:0"
