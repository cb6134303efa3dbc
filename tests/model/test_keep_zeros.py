"""Zeros stay zero in training, and live weights still move."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers.pytorch_utils import Conv1D

import prunus
from prunus import Unstructured, keep_zeros, prune_
from prunus.families import weight_matrix

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


class Net(nn.Module):
    """Linear, a square transposed Conv1D, a weight in two places, a bias and a norm."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.square = Conv1D(16, 16)
        self.once, self.again = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.again.weight = self.once.weight
        self.norm = nn.LayerNorm(16)
        self.down = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.tanh(self.square(torch.tanh(self.up(x))))
        return self.down(self.norm(self.again(torch.tanh(self.once(x)))))


def build():
    torch.manual_seed(0)
    return Net()


def data(seed=0, rows=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 8, generator=generator), torch.randn(rows, 4, generator=generator)


def loss_of(model, seed=0):
    x, y = data(seed)
    return nn.functional.mse_loss(model(x), y)


def train(model, optimizer, steps=5):
    for step in range(steps):

        def closure(step=step):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            return loss

        optimizer.step(closure)


def prune(model):
    prune_(model, Unstructured(0.5))
    return {name: weight_matrix(model.get_submodule(name)) != 0 for name in ("up", "square", "once", "down")}


def check(model, masks, before=None):
    """Pruned weights are zero; of the live ones (nearly) all moved."""
    for name, mask in masks.items():
        weight = weight_matrix(model.get_submodule(name))
        assert not weight[~mask].any(), name
        assert weight[mask].all(), name
        if before is not None:
            moved = weight != weight_matrix(before.get_submodule(name))
            assert moved[mask].float().mean() > 0.99, name


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_momentum_from_before_and_weight_decay(kind):
    model = build()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer)  # fills the momentum buffers of what is pruned next
    masks, before = prune(model), copy.deepcopy(model)
    keeper = keep_zeros(model, optimizer)
    assert set(keeper.masks) == set(masks)  # the shared weight once
    train(model, optimizer)
    check(model, masks, before)
    assert model.again.weight is model.once.weight
    keeper.remove()
    train(model, optimizer)
    assert any(weight_matrix(model.get_submodule(n))[~mask].any() for n, mask in masks.items())


def test_it_is_needed():
    """The same training without it brings the zeros to life: the test above can fail."""
    model = build()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    train(model, optimizer)
    masks = prune(model)
    for name, mask in masks.items():  # what most scripts do: mask the gradients
        layer = model.get_submodule(name)
        stored = mask if isinstance(layer, nn.Linear) else mask.t()
        layer.weight.register_hook(lambda grad, stored=stored: grad * stored)
    train(model, optimizer, 1)
    assert weight_matrix(model.up)[~masks["up"]].all()


@pytest.mark.parametrize("overflow", [False, True])
def test_mixed_precision_with_a_scaler(overflow):
    model = build()
    masks, before = prune(model), copy.deepcopy(model)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127 if overflow else 2.0**8, growth_interval=1)
    with keep_zeros(model, optimizer):
        for step in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, step)
            scaler.scale(loss * (8.0 if overflow else 1.0)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    check(model, masks, None if overflow else before)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_gradient_accumulation_equals_one_batch():
    models = [build() for _ in range(2)]
    for model in models:
        masks = prune(model)
    whole, parts = models
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    with keep_zeros(whole, optimizers[0]), keep_zeros(parts, optimizers[1]):
        x, y = data()
        nn.functional.mse_loss(whole(x), y).backward()
        for a, b in zip(x.split(8), y.split(8), strict=True):
            (nn.functional.mse_loss(parts(a), b) / 4).backward()
        for name, mask in masks.items():
            grad = parts.get_submodule(name).weight.grad
            grad = grad if name != "square" else grad.t()
            assert not grad[~mask].any()  # clipping by norm does not see them either
        for optimizer in optimizers:
            optimizer.step()
    check(parts, masks)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_averages_of_the_weights():
    """An average begun on the dense model still remembers what was pruned, until it is told."""
    model = build()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    early = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    early.update_parameters(model)
    masks = prune(model)
    late = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    before = copy.deepcopy(model)
    with keep_zeros(model, optimizer) as keeper:
        for _ in range(3):
            train(model, optimizer, 1)
            early.update_parameters(model)
            late.update_parameters(model)
        check(late.module, masks, before)
        assert weight_matrix(early.module.up)[~masks["up"]].any()
        keeper.apply_(early.module)
        check(early.module, masks, before)
    with pytest.raises(ValueError, match=r"model: expected the layers of the pruned one, got no up, square"):
        keeper.apply_(nn.Linear(2, 2))


def test_infinite_gradients_do_not_become_nan_weights():
    model = build()
    masks = prune(model)
    with keep_zeros(model, torch.optim.SGD(model.parameters(), lr=0.0)):
        model.up.weight.grad = None
        (model.up.weight.sum() * float("inf")).backward()
        assert not model.up.weight.grad[~masks["up"]].any()


def test_a_live_weight_may_pass_through_zero():
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([[0.0, 0.5]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with keep_zeros(model, optimizer):
        values = []
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            values.append(model[0].weight[0].tolist())
    assert values == [[0.0, 0.0], [0.0, -0.5]]


def test_fresh_adapters_and_chosen_layers_stay_free():
    model = nn.ModuleDict({"adapter": nn.Linear(4, 4), "a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    prune_(model, Unstructured(0.5))
    nn.init.zeros_(model["adapter"].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert list(keep_zeros(model, optimizer).masks) == ["a", "b"]
    assert list(keep_zeros(model, optimizer, lambda module, name: name != "a").masks) == ["b"]


def test_the_model_stays_an_ordinary_object(tmp_path):
    model = build()
    masks = prune(model)
    names = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with keep_zeros(model, optimizer), warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 1)
        assert list(model.state_dict()) == names
        check(copy.deepcopy(model), masks)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        check(torch.load(buffer, weights_only=False), masks)
        prunus.save(model, tmp_path / "model.safetensors")
        check(prunus.load(build(), tmp_path / "model.safetensors"), masks)
        model.double()  # moves and casts keep the hooks
        x, y = data()
        nn.functional.mse_loss(model(x.double()), y.double()).backward()
        optimizer.step()
        check(model, masks)


def test_an_optimizer_with_dead_parameters_is_noticed():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prune(model)
    model.down = nn.Linear(16, 4)
    with pytest.warns(
        UserWarning, match="the optimizer holds 2 parameters that the model does not use any more"
    ):
        keep_zeros(model, optimizer)


def test_wrong_arguments_are_named():
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"optimizer: expected a torch.optim.Optimizer, got float"):
        keep_zeros(model, 0.1)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got"):
        keep_zeros(optimizer, optimizer)
    with pytest.raises(
        ValueError, match=r"model: expected a Linear or Conv1D whose weight is zero in part, got none"
    ):
        keep_zeros(model, optimizer)


def test_an_optimizer_in_a_wrapper():
    """transformers.Trainer hands out such a one; it has no hooks of its own."""
    accelerate = pytest.importorskip("accelerate")
    model = build()
    masks, before = prune(model), copy.deepcopy(model)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, OPTIMIZERS["adam"](model.parameters()))
    assert not hasattr(optimizer, "_optimizer_step_post_hooks")
    with keep_zeros(prepared, optimizer):
        for step in range(3):
            optimizer.zero_grad()
            accelerator.backward(loss_of(prepared, step))
            optimizer.step()
    check(model, masks, before)


@pytest.fixture
def alone(tmp_path):
    """A process group of one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_shards_are_refused_at_once(alone, version, whole):
    model = build()
    prune(model)
    if version == 2:
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        fully_shard(model if whole else model.up, mesh=mesh)
    else:
        from torch.distributed.fsdp import FullyShardedDataParallel

        wrap = FullyShardedDataParallel
        if whole:
            model = wrap(model, use_orig_params=True, device_id=torch.device("cpu"))
        else:
            model.up = wrap(model.up, use_orig_params=True, device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="model: expected whole weights, got shards of FSDP"):
        keep_zeros(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_tensor_in_shards_is_refused_at_once(alone):
    from torch.distributed.tensor import Replicate, distribute_tensor

    model = build()
    prune(model)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    model.down.weight = nn.Parameter(distribute_tensor(model.down.weight.data, mesh, [Replicate()]))
    with pytest.raises(ValueError, match=r"got a DTensor 'down.weight'"):
        keep_zeros(model, torch.optim.SGD(model.parameters(), lr=0.1))
