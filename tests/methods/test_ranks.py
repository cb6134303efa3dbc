"""Two processes with samples of their own prune alike, by the statistics of both."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from prunus import OWL, SNIP, Calibration, Heads, Layers, Neurons, Sensitivity, SparseGPT, Unstructured, Wanda
from prunus import prune_ as prune
from prunus import shrink_ as shrink

BATCHES = list(torch.randint(1, 60, (4, 3, 10), generator=torch.Generator().manual_seed(1)))


def make() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    return BertModel(BertConfig(vocab_size=60, initializer_range=0.2, **sizes)).eval()


def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).last_hidden_state.square().mean()


WORK = {
    "wanda": lambda model, given: prune(model, Unstructured(0.5), Wanda(), given),
    "steps": lambda model, given: prune(model, Unstructured(0.5), Wanda(steps=2), given),
    "at once": lambda model, given: prune(
        model, Unstructured(0.5), Wanda(), Calibration(given, sequential=False)
    ),
    "sparsegpt": lambda model, given: prune(model, Unstructured(0.5), SparseGPT(), given),
    "owl": lambda model, given: prune(model, OWL(Unstructured(0.5)), Wanda(), given),
    "sensitivity": lambda model, given: prune(model, Sensitivity(Unstructured(0.5)), Wanda(), given),
    "gradients": lambda model, given: prune(model, Unstructured(0.5), SNIP(loss), given),
    "neurons": lambda model, given: shrink(model, Neurons(0.5, compensate="weight"), given),
    "heads": lambda model, given: shrink(model, Heads(0.5, importance="gradient", loss=loss), given),
    "layers": lambda model, given: shrink(model, Layers(1), given),
}


def process(rank: int, folder: str, uneven: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    mine = BATCHES[:1] if rank else BATCHES[1:]
    if not uneven:
        mine = BATCHES[2 * rank : 2 * rank + 2]
    states = {}
    for name, work in WORK.items():
        model = make()
        work(model, mine)
        states[name] = model.state_dict()
    torch.save(states, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[False, True], ids=["even", "uneven"])
def states(request, tmp_path_factory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=process, args=(rank, str(folder), request.param)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", WORK)
def test_the_same_bits_in_both(states, name: str) -> None:
    one, other = (state[name] for state in states)
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key


@pytest.mark.parametrize("name", ["wanda", "at once", "gradients", "neurons", "layers"])
def test_as_one_process_with_all_samples(states, name: str) -> None:
    model = make()
    WORK[name](model, BATCHES)
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(states[0][name][key], tensor, rtol=1e-4, atol=1e-5)


def test_each_alone_would_differ() -> None:
    """So the test above can fail."""
    alone = []
    for given in (BATCHES[:2], BATCHES[2:]):
        model = make()
        WORK["wanda"](model, given)
        alone.append(model.state_dict())
    assert any(not torch.equal(tensor, alone[1][key]) for key, tensor in alone[0].items())
