"""The verbs with the selection of csrc/cuda, run on the host, for a model on a pretended GPU.

Arithmetic is torch's on the CPU: what comes out is what comes out on the CPU, bit for bit.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pretended_gpu import PretendedGpu
from torch import Tensor, nn

import prunus
from prunus.allocation import OWL
from prunus.methods import Magnitude, Random, SparseGPT, Taylor, Wanda
from prunus.patterns import NM, Block, Unstructured

pytest.importorskip("transformers")
from small_models import small, tokens

ON_DEVICE = "prunus.masks.on_device"


@pytest.fixture
def selections(host_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many times the kernels were asked, while a pretended GPU has them."""
    calls: list[int] = []

    def stream(tensor: Tensor) -> int:
        assert tensor.is_cuda
        calls.append(tensor.numel())
        return 0

    monkeypatch.setattr("prunus._tools.cuda.why_closed", lambda: "")
    monkeypatch.setattr(f"{ON_DEVICE}.stream_of", stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with PretendedGpu():
        yield calls


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)[0].square().mean()


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        (Magnitude(), Unstructured(0.6)),
        (Magnitude("row"), Unstructured(0.6, scope="row")),
        (Magnitude("column"), NM(2, 4)),
        (Magnitude(), Block((4, 8), 0.5)),
        (Magnitude(), Unstructured(0.6, scope="model")),
        (Random(), Unstructured(0.6, scope="column")),
        (Wanda(), Unstructured(0.6, scope="row")),
        (Wanda(steps=2), NM(2, 4)),
        (SparseGPT(block=8), Unstructured(0.6, scope="row")),
        (SparseGPT(), Unstructured(0.6, scope="column")),
        (SparseGPT(), NM(2, 4)),
        (SparseGPT(block=16), Block((4, 4), 0.5)),
        (Taylor(loss), Unstructured(0.5)),
        (Wanda(), OWL(Unstructured(0.6))),
    ],
    ids=str,
)
def test_weights_are_those_of_the_cpu(selections, method, pattern):
    there = small("gpt2" if isinstance(method, SparseGPT) else "bert")
    here = copy.deepcopy(there).to("cuda:0")
    for model in (there, here):
        prunus.prune_(model, pattern, method, tokens(2))
    assert selections
    expected = there.state_dict()
    for key, tensor in here.state_dict().items():
        assert tensor.is_cuda
        assert torch.equal(tensor.cpu(), expected[key]), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(selections, dtype):
    there = small("bert").to(dtype)
    here = copy.deepcopy(there).to("cuda:0")
    for model in (there, here):
        prunus.prune_(model, Unstructured(0.7), Magnitude("row"))
    assert selections
    assert all(torch.equal(t.cpu(), there.state_dict()[key]) for key, t in here.state_dict().items())


def test_an_error_of_a_selection_names_the_layer_and_changes_nothing(selections):
    model = small("bert").to("cuda:0")
    weight = model.encoder.layer[1].output.dense.weight
    with torch.no_grad():
        weight[1, 2] = torch.nan
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"encoder.layer.1.output.dense: scores: expected no NaN, got 1"):
        prunus.prune_(model, Unstructured(0.5))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7.0), before[key].nan_to_num(7.0))
