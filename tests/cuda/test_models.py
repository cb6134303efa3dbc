"""Models on a GPU through every verb: what comes out is what comes out on the CPU.

Every test runs on a pretended GPU (`pretended_gpu`), which finds tensors on the wrong device, and on the real
one where there is one.
"""

import copy

import pytest
import torch
from small_models import small, tokens
from torch import Tensor, nn

import prunus
from prunus._tools.running import moved
from prunus.allocation import OWL, Sensitivity
from prunus.calibration import Calibration
from prunus.methods import SNIP, Magnitude, Random, SparseGPT, Taylor, Wanda
from prunus.patterns import NM, Block, Unstructured

pytest.importorskip("transformers")
MODELS = ["bert", "gpt2", "llama"]


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Any scalar with a gradient at every layer. Not the squares: after a LayerNorm their sum is always the
    same, and its gradient is what rounding leaves."""
    output = model(batch)
    return (output.logits if "logits" in output else output.last_hidden_state).pow(3).mean()


def both(name: str, gpu: str) -> tuple[nn.Module, nn.Module]:
    """The same model on the CPU and on the GPU."""
    model = small(name)
    return model, copy.deepcopy(model).to(gpu)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a model, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def on_gpu(model: nn.Module) -> bool:
    """Whether every parameter and buffer is there."""
    return {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}


def share_of_equal_zeros(mine: nn.Module, other: nn.Module) -> float:
    """How many entries of the matrices are zero in both models or in none."""
    a, b = weights(mine), weights(other)
    same = [(a[name] == 0) == (b[name] == 0) for name in a if a[name].dim() == 2]
    return sum(int(s.sum()) for s in same) / sum(s.numel() for s in same)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        (Magnitude(), Unstructured(0.6)),
        (Magnitude("row"), Unstructured(0.6, scope="row")),
        (Magnitude("column"), Unstructured(0.6, scope="column")),
        (Magnitude(), NM(2, 4)),
        (Magnitude(), Block((4, 4), 0.5)),
        (Magnitude(), Unstructured(0.6, scope="model")),
        (Random(seed=3), Unstructured(0.6)),
    ],
)
def test_masks_that_need_no_inputs_are_those_of_the_cpu(gpu, name, method, pattern):
    there, here = both(name, gpu)
    prunus.prune_(there, pattern, method)
    report = prunus.prune_(here, pattern, method)
    assert on_gpu(here)
    assert report.summary["zeros"] > 0
    for key, tensor in weights(here).items():
        assert torch.equal(tensor, weights(there)[key]), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_masks_of_other_dtypes_are_those_of_the_cpu(gpu, dtype):
    there, here = (model.to(dtype) for model in both("llama", gpu))
    for model in (there, here):
        prunus.prune_(model, NM(2, 4))
    assert all(torch.equal(t, weights(there)[key]) for key, t in weights(here).items())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "method",
    [
        Wanda(),
        SparseGPT(),
        SparseGPT(block=8),
        Wanda(steps=2),
        Wanda(repair=True),
        Magnitude(repair=True),
        Taylor(loss),
        SNIP(loss, steps=2),
    ],
)
def test_methods_that_look_at_inputs(gpu, name, method):
    there, here = both(name, gpu)
    pattern = NM(2, 4) if name == "llama" else Unstructured(0.5, scope="row")
    batches = tokens()
    prunus.prune_(there, pattern, method, batches)
    # The batches are on the CPU still: they follow the model.
    prunus.prune_(here, pattern, method, batches)
    assert on_gpu(here)
    assert all(batch.device.type == "cpu" for batch in batches)
    assert share_of_equal_zeros(there, here) > 0.99
    for key, tensor in weights(here).items():
        other = weights(there)[key]
        same = (tensor != 0) == (other != 0)
        # Repair stops at a tolerance, each solver at another place.
        assert (tensor[same] - other[same]).norm() <= 0.03 * other.norm(), key


@pytest.mark.parametrize("rule", [OWL(Unstructured(0.6)), Sensitivity(Unstructured(0.6))])
@pytest.mark.parametrize("name", MODELS)
def test_allocations(gpu, name, rule):
    there, here = both(name, gpu)
    batches = tokens()
    before = prunus.prune_(there, rule, Wanda(), batches)
    report = prunus.prune_(here, rule, Wanda(), [batch.to(gpu) for batch in batches])
    assert on_gpu(here)
    assert report.summary["sparsity"] == pytest.approx(before.summary["sparsity"], abs=1e-3)
    assert share_of_equal_zeros(there, here) > 0.98


@pytest.mark.parametrize("sequential", [True, False])
def test_calibrations_of_every_kind(gpu, sequential):
    there, here = both("bert", gpu)
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[0, 6:] = 0
    batches = [{"input_ids": ids, "attention_mask": mask} for ids in tokens()]
    calls = Calibration(batches, sequential, real=lambda batch: batch["attention_mask"].cpu())
    for model in (there, here):
        prunus.prune_(model, Unstructured(0.5), Wanda(), calls)
    assert share_of_equal_zeros(there, here) > 0.99
    assert all(t.device.type == "cpu" for batch in batches for t in batch.values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "what",
    [
        prunus.Neurons(0.25),
        prunus.Neurons(0.25, compensate="weight"),
        prunus.Neurons(0.5, importance="gradient", loss=loss),
        prunus.Heads(0.5),
        prunus.Heads(0.5, scope="layer", compensate="weight"),
        prunus.Layers(1),
    ],
)
def test_shrink(gpu, name, what):
    there, here = both(name, gpu)
    batches = tokens()
    prunus.shrink_(there, what, batches)
    prunus.shrink_(here, what, batches)
    assert on_gpu(here)
    for key, tensor in weights(here).items():
        assert torch.allclose(tensor, weights(there)[key], rtol=1e-3, atol=1e-4), key
    ids = batches[0]
    expected, got = there(ids), here(ids.to(gpu))
    assert torch.allclose(expected[0], got[0].cpu(), rtol=1e-3, atol=1e-3)


def test_shrink_by_the_weights_alone(gpu):
    there, here = both("bert", gpu)
    for model in (there, here):
        prunus.prune_(model, Unstructured(0.5))
        model.encoder.layer[0].intermediate.dense.weight.data[:3] = 0.0  # neurons that are a constant
        prunus.shrink_(model, prunus.Neurons(0.25))
        prunus.shrink_(model, prunus.Heads(0.5))
        prunus.shrink_(model, prunus.Layers([0]))
    assert all(torch.allclose(t, weights(there)[key]) for key, t in weights(here).items())


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize(
    "method",
    [
        prunus.Refit(tokens=64),
        prunus.Reconstruct(steps=4, tokens=64),
        prunus.Distill(steps=4, precision="float32"),
        prunus.Distill(steps=2, loss=lambda output, batch: output[0].square().mean(), accumulate=2),
    ],
)
def test_recovery(gpu, name, method):
    reports = []
    for device in ("cpu", gpu):
        teacher = small(name).to(device)
        model = copy.deepcopy(teacher)
        prunus.prune_(model, Unstructured(0.6))
        before = weights(model)
        data = [{"input_ids": ids} for ids in tokens(8)]
        reports.append(prunus.recover_(model, teacher, data, method))
        after = weights(model)
        assert all((after[key][before[key] == 0] == 0).all() for key in before if before[key].dim() == 2)
        assert {t.device.type for t in model.parameters()} == {device.partition(":")[0]}
        assert all(ids.device.type == "cpu" for batch in data for ids in batch.values())
    there, here = (report.summary for report in reports)
    assert here["before"] == pytest.approx(there["before"], abs=1e-2)
    if method.__class__ is not prunus.Distill or method.precision == "float32":
        # An agreement is of 30 tokens.
        assert here["after"] == pytest.approx(there["after"], abs=0.07)


def test_a_killed_distillation_goes_on(gpu, tmp_path):
    teacher = small("bert").to(gpu)
    data = [{"input_ids": ids} for ids in tokens(8)]
    file = tmp_path / "run.pt"
    done = []
    for _ in range(2):
        model = copy.deepcopy(teacher)
        prunus.prune_(model, Unstructured(0.5))
        method = prunus.Distill(steps=3, precision="float32", checkpoint=file)
        done.append(prunus.recover_(model, teacher, data, method))
    assert done[1].rows[0]["note"] == "went on at step 3"
    assert on_gpu(model)


def test_a_teacher_somewhere_else_is_refused(gpu):
    teacher = small("bert")
    model = copy.deepcopy(teacher).to(gpu)
    prunus.prune_(model, Unstructured(0.5))
    before = weights(model)
    with pytest.raises(ValueError, match="teacher: expected the model and its teacher on one device, got"):
        prunus.recover_(model, teacher, tokens(8))
    assert all(torch.equal(t, before[key]) for key, t in weights(model).items())


def test_a_teacher_from_a_directory_follows_the_model(gpu, tmp_path):
    from small_models import save_bert
    from transformers import BertModel

    words = ["[PAD]", "[UNK]", *(f"word{i}" for i in range(20))]
    save_bert(tmp_path, words)
    model = BertModel.from_pretrained(tmp_path).to(gpu)
    prunus.prune_(model, Unstructured(0.5))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"word{i} word{i + 1} word{i + 2}" for i in range(17)))
    report = prunus.recover_(model, tmp_path, text, prunus.Distill(steps=2, precision="float32"))
    assert report.rows[0]["steps"] == 2
    assert on_gpu(model)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_zeros_stay_zero_in_training(gpu, name):
    model = small(name).to(gpu)
    prunus.prune_(model, Unstructured(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loss(model, tokens()[0].to(gpu)).backward()
    zeros = {key: tensor == 0 for key, tensor in weights(model).items()}
    with prunus.keep_zeros(model, optimizer) as keeper:
        for batch in tokens():
            loss(model, batch.to(gpu)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert len(keeper.masks) > 4
    pruned = [key for key in zeros if any(key == f"{layer}.weight" for layer in keeper.masks)]
    assert all((weights(model)[key][zeros[key]] == 0).all() for key in pruned)
    assert all(mask.device.type == "cuda" for mask in keeper.masks.values())


def test_a_kept_model_may_move(gpu):
    model = small("bert")
    prunus.prune_(model, Unstructured(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with prunus.keep_zeros(model, optimizer) as keeper:
        model.to(gpu)
        loss(model, tokens()[0].to(gpu)).backward()
        optimizer.step()
    name, mask = next(iter(keeper.masks.items()))
    assert ((model.get_submodule(name).weight == 0) == ~mask).all()


def test_comparing_a_model_with_its_copy_on_the_gpu(gpu, monkeypatch):
    monkeypatch.setattr("prunus.report.comparison.SECONDS", 0.0)
    there, here = both("bert", gpu)
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[1, 4:] = 0
    inputs = {"input_ids": tokens()[0], "attention_mask": mask}
    waits = []
    if gpu != "cuda":
        monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    report = prunus.compare(there, here, inputs)
    assert report.summary["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert report.summary["devices"][0] == "cpu"
    assert "cuda:0" in report.summary["devices"][1]
    assert "on cpu and cuda:0" in report.summary_line()
    assert gpu == "cuda" or len(waits) == 2 * 5
    with pytest.raises(ValueError, match="engines: expected none for models off the cpu, got cuda:0"):
        prunus.compare(there, here, inputs, engines=["torch bfloat16"])


@pytest.mark.parametrize("name", MODELS)
def test_files_of_one_device_open_on_the_other(gpu, tmp_path, name):
    _there, here = both(name, gpu)
    prunus.prune_(here, Unstructured(0.6))
    prunus.shrink_(here, prunus.Neurons(0.25))
    prunus.save(here, tmp_path / "gpu")
    loaded = prunus.load(small(name), tmp_path / "gpu")
    assert all(torch.equal(t, weights(here)[key]) for key, t in weights(loaded).items())
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    prunus.save(loaded, tmp_path / "cpu")
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "gpu").read_bytes()
    again = prunus.load(small(name).to(gpu), tmp_path / "cpu")
    assert on_gpu(again)
    assert all(torch.equal(t, weights(here)[key]) for key, t in weights(again).items())


def test_save_pretrained_of_a_shrunk_model(gpu, tmp_path):
    from transformers import LlamaForCausalLM

    model = small("llama").to(gpu)
    prunus.shrink_(model, prunus.Neurons(0.25, scope="model", compensate="none"), tokens())
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = tokens()[0]
    assert torch.allclose(again(ids)[0], model(ids.to(gpu))[0].cpu(), atol=1e-4)


class InTwoPlaces(nn.Module):
    """The first half on one device, the second on another, with a move between them."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 16), nn.ReLU()).to(first)
        self.second = nn.Linear(16, 8).to(second)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).to(self.second.weight.device))


@pytest.mark.parametrize("method", [Magnitude(), Wanda(), SparseGPT(), Wanda(repair=True)])
def test_a_model_partly_on_the_cpu_is_pruned(gpu, method):
    torch.manual_seed(0)
    here, there = InTwoPlaces(gpu, "cpu"), InTwoPlaces("cpu", "cpu")
    there.load_state_dict(here.state_dict())
    x = torch.randn(32, 8)
    for model in (here, there):
        prunus.prune_(model, Unstructured(0.5), method, x)
    assert share_of_equal_zeros(there, here) == 1.0
    assert here.first[0].weight.device.type == "cuda"
    assert here.second.weight.device.type == "cpu"


def last_block_on_the_cpu(gpu: str) -> nn.Module:
    """A BERT, as `accelerate` spreads one: hooks move what a block gets and gives."""
    model = small("bert").to(gpu)
    block = model.encoder.layer[1].cpu()

    def before(module, args, kwargs):
        return moved(args, torch.device("cpu")), moved(kwargs, torch.device("cpu"))

    block.register_forward_pre_hook(before, with_kwargs=True)
    block.register_forward_hook(lambda module, args, output: moved(output, torch.device(gpu)))
    return model


@pytest.mark.parametrize("method", [Wanda(), SparseGPT(), Taylor(loss), Magnitude(repair=True)])
def test_a_spread_model_is_pruned_as_one_in_one_place(gpu, method):
    there, here = small("bert"), last_block_on_the_cpu(gpu)
    for model in (there, here):
        prunus.prune_(model, Unstructured(0.5), method, tokens())
    assert share_of_equal_zeros(there, here) > 0.99
    devices = [layer.output.dense.weight.device.type for layer in here.encoder.layer]
    assert devices == ["cuda", "cpu"]


@pytest.mark.parametrize("rule", [OWL(Unstructured(0.6)), Sensitivity(Unstructured(0.6))])
def test_a_spread_model_shares_a_budget(gpu, rule):
    there, here = small("bert"), last_block_on_the_cpu(gpu)
    for model in (there, here):
        prunus.prune_(model, rule, Wanda(), tokens())
        prunus.prune_(model, Unstructured(0.8, scope="model"))
    assert share_of_equal_zeros(there, here) > 0.98


@pytest.mark.parametrize(
    "what", [prunus.Neurons(0.25, compensate="weight"), prunus.Heads(0.5), prunus.Layers(1)]
)
def test_a_spread_model_is_shrunk_as_one_in_one_place(gpu, what):
    there, here = small("bert"), last_block_on_the_cpu(gpu)
    for model in (there, here):
        prunus.shrink_(model, what, tokens())
    for key, tensor in weights(here).items():
        assert torch.allclose(tensor, weights(there)[key], rtol=1e-3, atol=1e-4), key


def test_a_model_partly_on_the_cpu_is_not_recovered(gpu):
    model = InTwoPlaces(gpu, "cpu")
    teacher = copy.deepcopy(model)
    prunus.prune_(model, Unstructured(0.5))
    with pytest.raises(ValueError, match="on one device, got cpu, cuda:0 and cpu, cuda:0"):
        prunus.recover_(model, teacher, [torch.randn(4, 8)] * 8)


def test_statistics_follow_the_weight(gpu):
    """As `accelerate` does: the layer gets its inputs where the layer before left them, and moves them."""
    layer = nn.Linear(8, 8).to(gpu)
    forward = layer.forward
    layer.forward = lambda x: forward(x.to(gpu)).cpu()
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), layer)
    for method in (Wanda(), SparseGPT(), Magnitude(repair=True)):
        prunus.prune_(model, Unstructured(0.5), method, torch.randn(16, 8))
    assert int((layer.weight == 0).sum()) == 32


def test_torch_masks_are_folded(gpu):
    model = nn.Sequential(nn.Linear(8, 8)).to(gpu)
    torch.nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    report = prunus.prune_(model, Unstructured(0.75))
    assert report.summary["zeros"] == 48
    assert model[0].weight.device.type == "cuda"


def test_balance_is_for_the_cpu(gpu):
    model = nn.Sequential(nn.Linear(8, 8)).to(gpu)
    before = weights(model)
    sentence = "model: expected a model on the cpu, whose layers balance_ can time inside of it, got cuda:0"
    with pytest.raises(ValueError, match=sentence):
        prunus.balance_(model, torch.randn(4, 8), prunus.Target(speedup=1.5))
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(model).items())


def test_a_trainer_prunes_on_the_gpu(gpu):
    """What `transformers.Trainer` calls, without one: it would look for a real device."""
    from types import SimpleNamespace

    model = small("bert").to(gpu)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    callback = prunus.PruningCallback(Unstructured(0.8), end=0.5, updates=2)
    state = SimpleNamespace(max_steps=4, global_step=0, log_history=[{}])
    given = {"model": model, "optimizer": optimizer}
    callback.on_train_begin(None, state, None, **given)
    for step, batch in enumerate(tokens()):
        state.global_step = step
        callback.on_step_begin(None, state, None, **given)
        loss(model, batch.to(gpu)).backward()
        optimizer.step()
        optimizer.zero_grad()
    callback.on_log(None, state, None, logs={})
    callback.on_train_end(None, state, None, **given)
    assert state.log_history[-1]["sparsity"] == pytest.approx(0.8, abs=0.01)
    weight = model.encoder.layer[0].intermediate.dense.weight
    assert float((weight == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


BATCHES = tokens()
DEFAULTS = {
    "magnitude": lambda model: prunus.prune_(model, Unstructured(0.5), Magnitude("column")),
    "random": lambda model: prunus.prune_(model, Unstructured(0.5), Random()),
    "sparsegpt": lambda model: prunus.prune_(model, NM(2, 4), SparseGPT(), BATCHES),
    "sensitivity": lambda model: prunus.prune_(model, Sensitivity(Unstructured(0.5)), Wanda(), BATCHES),
    "repair": lambda model: prunus.prune_(model, Unstructured(0.5), Wanda(repair=True), BATCHES),
    "neurons": lambda model: prunus.shrink_(model, prunus.Neurons(0.25, compensate="weight"), BATCHES),
    "gradient": lambda model: prunus.shrink_(model, prunus.Heads(0.5, "gradient", loss=loss), BATCHES),
    "constants": lambda model: prunus.shrink_(model, prunus.Neurons(0.25)),
    "layers": lambda model: prunus.shrink_(model, prunus.Layers(1), BATCHES),
    "recover": lambda model: prunus.recover_(
        model, copy.deepcopy(TEACHER).to(model.device), [*BATCHES, *BATCHES], METHODS
    ),
}
TEACHER = small("llama")
METHODS = [prunus.Refit(tokens=64), prunus.Distill(steps=2, precision="float32")]


@pytest.mark.parametrize("verb", DEFAULTS)
def test_the_default_device_of_torch_changes_nothing(gpu, verb):
    """`torch.set_default_device`: what a verb makes for the CPU stays there."""
    model = small("llama").to(gpu)
    expected = copy.deepcopy(model)
    DEFAULTS[verb](expected)
    with torch.device(gpu):
        DEFAULTS[verb](model)
    assert on_gpu(model)
    for key, tensor in weights(model).items():
        assert torch.allclose(tensor, weights(expected)[key], rtol=1e-3, atol=1e-4), key
