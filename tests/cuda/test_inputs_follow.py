"""Inputs follow a model to its device, and the caller's own stay where they are."""

from collections import namedtuple

import pytest
import torch
from pretended_gpu import PretendedGpu
from torch import nn

from prunus._tools.running import Batch, as_batches, device_of, device_word, devices_of, moved
from prunus.calibration import Calibration, calibration_for

GPU = torch.device("cuda", 0)
Pair = namedtuple("Pair", "a b")


@pytest.fixture
def pretended():
    with PretendedGpu():
        yield


@pytest.mark.usefixtures("pretended")
def test_containers_are_kept():
    BatchEncoding = pytest.importorskip("transformers").BatchEncoding
    x = torch.ones(2)
    pair = moved(Pair(x, 3), GPU)
    assert isinstance(pair, Pair)
    assert pair.a.is_cuda
    assert pair.b == 3
    encoding = BatchEncoding({"input_ids": x, "names": ["a"]})
    there = moved(encoding, GPU)
    assert isinstance(there, BatchEncoding)
    assert there.input_ids.is_cuda
    assert not encoding.input_ids.is_cuda
    assert there["names"] is encoding["names"]
    nested = moved({"a": [x, (x, None)]}, GPU)
    assert nested["a"][0].is_cuda
    assert nested["a"][1][0].is_cuda
    batch = Batch((x,), {"mask": x}).to(GPU)
    assert batch.args[0].is_cuda
    assert batch.kwargs["mask"].is_cuda


@pytest.mark.usefixtures("pretended")
def test_what_is_there_already_stays_the_same_object():
    x = torch.ones(2, device=GPU)
    for value in (x, {"x": x}, [x], (x, "text"), Pair(x, x), None, object()):
        assert moved(value, GPU) is value
        assert moved(value, None) is value


@pytest.mark.usefixtures("pretended")
def test_where_a_model_wants_its_inputs():
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2).to(GPU), nn.Linear(2, 2))
    assert device_of(model) == GPU  # what is offloaded says nothing
    assert devices_of(model) == ["cpu", "cuda:0", "meta"]
    assert device_of(nn.ReLU()) is None
    assert device_word(GPU).startswith("cuda:0")
    assert as_batches(torch.ones(1), "x")[0].to(None).args[0].device.type == "cpu"


@pytest.mark.usefixtures("pretended")
def test_a_calibration_keeps_its_options():
    calls = Calibration([{"x": torch.ones(1)}], sequential=False, progress=False)
    there = calibration_for(nn.Linear(1, 1).to(GPU), calls)
    assert there.batches[0]["x"].is_cuda
    assert (there.sequential, there.progress) == (False, False)
    assert not calls.batches[0]["x"].is_cuda


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    "mistake",
    [
        lambda cpu, gpu: cpu + gpu,
        lambda cpu, gpu: torch.cat([cpu, gpu]),
        lambda cpu, gpu: gpu.numpy(),
        lambda cpu, gpu: cpu[gpu > 0],
        lambda cpu, gpu: gpu.index_select(0, cpu.long()),
        lambda cpu, gpu: gpu.__setitem__(gpu > 0, cpu),
        lambda cpu, gpu: nn.functional.linear(gpu, torch.ones(3, 2)),
        lambda cpu, gpu: torch.rand(2, device=GPU, generator=torch.Generator()),
        lambda cpu, gpu: torch.where(gpu > 0, cpu, gpu),
    ],
)
def test_the_pretended_gpu_refuses_what_a_real_one_does(mistake):
    cpu, gpu = torch.ones(2), torch.ones(2).to(GPU)
    with pytest.raises((RuntimeError, TypeError)):
        mistake(cpu, gpu)


@pytest.mark.usefixtures("pretended")
def test_the_pretended_gpu_takes_what_a_real_one_does():
    cpu, gpu = torch.ones(2), torch.arange(2.0, device=GPU)
    assert (gpu * torch.tensor(2.0)).is_cuda  # a number
    assert gpu[cpu > 0].is_cuda
    gpu[0:1] = cpu[:1]
    assert gpu.copy_(cpu).is_cuda
    assert gpu.cpu().numpy().tolist() == [1.0, 1.0]
    assert torch.zeros_like(cpu, device=GPU).is_cuda
    assert cpu.new_zeros(2, device="cuda").is_cuda
    assert not torch.zeros_like(gpu, device="cpu").is_cuda
    assert gpu.to(torch.float64).is_cuda
    assert cpu.to(gpu).is_cuda
    assert gpu.view(2, 1).t().is_cuda
    assert cpu.to("meta").is_meta
