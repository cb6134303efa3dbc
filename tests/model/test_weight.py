"""`SparseLinear.weight`: what reads the weight of a Linear works on a packed one, and cannot write it."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import prunus
from prunus import SparseLinear
from prunus.nn.weight import UnpackedWeight, weight_reads


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(20, 12)
    layer.weight.data.masked_fill_(torch.rand(12, 20) > 0.3, 0)
    return layer.requires_grad_(False)


@pytest.fixture
def layer(linear: nn.Linear) -> SparseLinear:
    return SparseLinear.from_linear(linear)


def test_it_is_the_dense_weight(linear: nn.Linear, layer: SparseLinear) -> None:
    weight, x = layer.weight, torch.randn(3, 20)
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(weight, linear.weight)
    assert torch.equal(nn.functional.linear(x, weight, layer.bias), linear(x))
    assert torch.equal(x @ layer.weight.t(), x @ linear.weight.t())
    assert torch.equal(layer.weight[3:5, ::2], linear.weight[3:5, ::2])
    assert torch.equal(layer.weight.data.clone(), linear.weight)
    assert torch.equal(layer.weight.detach() + 1, linear.weight + 1)
    assert torch.equal(torch.stack([layer.weight, linear.weight])[0], linear.weight)
    assert (layer.weight.numpy() == linear.weight.numpy()).all()
    assert repr(layer.weight) == repr(linear.weight.data)
    assert layer.weight.tolist() == linear.weight.tolist()
    assert layer.weight.norm() == linear.weight.norm()
    target = torch.zeros(12, 20)
    target.copy_(layer.weight)
    target[:6] = layer.weight[:6]
    assert torch.equal(target, linear.weight)
    assert type(copy.deepcopy(layer.weight)) is torch.Tensor
    assert torch.equal(pickle.loads(pickle.dumps(layer.weight)), linear.weight)


def test_facts_cost_nothing(layer: SparseLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnpackedWeight, "dense", lambda self: pytest.fail("was unpacked"))
    weight = layer.weight
    assert (weight.dtype, weight.device, weight.shape) == (torch.float32, torch.device("cpu"), (12, 20))
    assert (weight.size(0), weight.dim(), weight.numel(), len(weight)) == (12, 2, 240, 12)
    assert not weight.requires_grad
    assert weight.grad is None
    assert weight.is_floating_point()
    assert weight in {weight}
    assert weight.data.dtype == torch.float32
    assert layer.half().weight.detach().dtype == torch.float16


def test_the_gradient_goes_through_to_x(linear: nn.Linear, layer: SparseLinear) -> None:
    x = torch.randn(3, 20, requires_grad=True)
    nn.functional.linear(x, layer.weight).sum().backward()
    torch.testing.assert_close(x.grad, linear.weight.sum(0).expand(3, 20))


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.zero_(),
        lambda w: w.data.mul_(2),
        lambda w: w.detach().copy_(torch.zeros(12, 20)),
        lambda w: w.__setitem__(0, 1.0),
        lambda w: w.data.__setitem__((0, 0), 1.0),
        lambda w: nn.init.normal_(w),
        lambda w: w.requires_grad_(True),
        lambda w: setattr(w, "requires_grad", True),
        lambda w: setattr(w, "data", torch.zeros(12, 20)),
        lambda w: w.__iadd__(1),
        lambda w: torch.add(torch.zeros(12, 20), 1, out=w),
        lambda w: nn.Parameter(w),
    ],
)
def test_writing_is_refused(linear: nn.Linear, layer: SparseLinear, write) -> None:
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"weight: expected to be read only, got .*to_linear"),
    ):
        write(layer.weight)
    assert torch.equal(layer.weight, linear.weight)


def test_assigning_is_refused(layer: SparseLinear) -> None:
    for value in (nn.Parameter(torch.zeros(12, 20)), torch.zeros(12, 20), None):
        with pytest.raises(AttributeError, match="weight: expected to be read only, got an assignment"):
            layer.weight = value
    assert layer.weight.requires_grad_(False) is layer.weight
    layer.weight.requires_grad = False


def test_it_is_remembered_as_long_as_somebody_holds_it(linear: nn.Linear, layer: SparseLinear) -> None:
    weight = layer.weight
    dense = weight.dense()
    assert layer.weight is weight
    assert layer.weight.dense() is dense
    gone = weakref.ref(dense)
    del weight, dense
    gc.collect()
    assert gone() is None
    assert torch.equal(layer.weight, linear.weight)


def test_it_follows_the_bytes(layer: SparseLinear) -> None:
    layer.packed = prunus.pack(2 * torch.ones(12, 20)).tensor
    assert layer.weight.sum() == 480
    layer.load_state_dict({"packed": prunus.pack(torch.ones(12, 20)).tensor, "bias": layer.bias})
    assert layer.weight.sum() == 240


def test_a_write_into_the_bytes_is_noticed() -> None:
    layer = SparseLinear.from_packed(prunus.pack(torch.ones(4, 8)))
    layer.packed = layer.packed.clone()
    held = layer.weight
    assert held.sum() == 32
    layer.packed.data.copy_(prunus.pack(torch.full((4, 8), 3.0)).tensor)
    assert held.sum() == 96


def test_the_layer_stays_an_ordinary_module(layer: SparseLinear) -> None:
    held = layer.weight.dense()
    assert held.any()
    weight = layer.weight  # remembered while the layer is copied
    assert list(layer.state_dict()) == ["bias", "packed"]
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert [name for name, _ in layer.named_buffers()] == ["packed"]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.weight, weight)
        assert twin.weight is not weight
    assert layer.half().weight.dtype == torch.float16
    assert layer.weight.sum().dtype == torch.float16


def test_conv1d_lies_the_other_way() -> None:
    from transformers.pytorch_utils import Conv1D

    conv = Conv1D(6, 10)
    layer = SparseLinear.from_linear(conv)
    assert layer.weight.shape == (10, 6)
    assert torch.equal(layer.weight, conv.weight)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(linear: nn.Linear, layer: SparseLinear, dynamic: bool) -> None:
    class Reads(nn.Module):
        def __init__(self, fc: nn.Module) -> None:
            super().__init__()
            self.fc = fc

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.to(self.fc.weight.dtype)) + self.fc.weight.sum()

    model, dense = Reads(layer).eval(), Reads(linear).eval()
    x = torch.randn(5, 20)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), dense(x))
        torch.testing.assert_close(compiled(x[:3]), dense(x[:3]))
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), dense(x))


def test_opcheck(layer: SparseLinear) -> None:
    from prunus.ops.unpack import unpack_op

    torch.library.opcheck(unpack_op, (layer.packed, 12, 20))
    with pytest.raises(ValueError, match=r"packed: expected shape \(12, 21\), got \(12, 20\)"):
        unpack_op(layer.packed, 12, 21)


def test_reads_are_counted(layer: SparseLinear) -> None:
    with weight_reads() as reads:
        assert layer.weight.dtype == torch.float32
        assert reads == {id(layer): False}
        assert layer.weight.sum() != 0
    assert reads == {id(layer): True}
    assert layer.weight.sum() != 0


def test_embeddings_are_resized_around_packed_layers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    model = transformers.GPT2LMHeadModel(config).eval()
    prunus.prune_(model, prunus.Unstructured(0.8))
    ids = torch.arange(12)[None]
    prunus.accelerate_(model, ids, min_speedup=0.0)
    model.resize_token_embeddings(60, mean_resizing=False)
    assert model(ids).logits.shape == (1, 12, 60)


def test_a_head_is_tied_again() -> None:
    """`tie_weights` assigns the embedding's parameter; the packed copy follows another one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.arange(12)[None]
    prunus.accelerate_(model, ids, "int8", min_speedup=0.0)
    head = model.lm_head
    assert isinstance(head, SparseLinear)
    assert head.weight is model.transformer.wte.weight
    packed = head.packed
    model.tie_weights()
    assert head.packed is packed
    assert list(head.state_dict()) == ["packed"]
    model.set_input_embeddings(nn.Embedding(50, 32))
    model.tie_weights()
    assert head.weight is model.transformer.wte.weight
    assert head.packed is not packed
    difference = torch.from_numpy(head.packed_weight.to_dense()) - head.weight
    assert difference.norm() < 0.02 * head.weight.norm()
