"""SharedLinear: several layers, one pass over their input; the answers are those of the layers alone."""

import copy
import gc
import pickle
import re
import threading
import weakref

import pytest
import torch
from torch import nn

import prunus
from prunus.nn import shared as nn_shared
from prunus.nn.shared import SharedLinear, SideBySide


def layer(n: int, k: int, sparsity: float, seed: int = 0, bias: bool = True) -> prunus.SparseLinear:
    torch.manual_seed(seed)
    linear = nn.Linear(k, n, bias=bias)
    with torch.no_grad():
        linear.weight.mul_(torch.rand(n, k) >= sparsity)
    return prunus.SparseLinear.from_linear(linear)


def three(k: int = 40, sparsities: tuple[float, float, float] = (0.8, 0.8, 0.8)) -> list[prunus.SparseLinear]:
    return [layer(n, k, s, n) for n, s in zip((40, 20, 7), sparsities, strict=True)]


@pytest.fixture
def passes(monkeypatch) -> list[torch.Size]:
    """The shape of the input of every pass that computes all layers; the input itself must not stay."""
    seen: list[torch.Size] = []
    op = nn_shared.linear_many_op
    monkeypatch.setattr(nn_shared, "linear_many_op", lambda x, *rest: seen.append(x.shape) or op(x, *rest))
    return seen


@pytest.mark.parametrize("m", [0, 1, 3, 8, 9, 64, 65, 130])
@pytest.mark.parametrize("sparsities", [(0.5, 0.5, 0.5), (0.9, 0.8, 0.95), (0.5, 0.9, 1.0)])
def test_the_same_bits_as_alone(isa, threads, m, sparsities, passes):
    alone = three(130, sparsities)
    x = torch.randn(m, 130)
    with torch.no_grad():
        for ours, theirs in zip(SharedLinear.of(alone), alone, strict=True):
            assert torch.equal(ours(x), theirs(x))
    assert len(passes) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_of_any_strides(dtype):
    alone = three()
    x = torch.randn(3, 40, 5).to(dtype).transpose(1, 2)
    with torch.no_grad():
        for ours, theirs in zip(SharedLinear.of(alone), alone, strict=True):
            assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("m", [1, 4, 20])
def test_zeros_of_one_layer_do_not_spread_nan(bad, m):
    alone = [layer(16, 64, s, i) for i, s in enumerate((0.5, 0.6, 0.5))]
    x = torch.randn(m, 64)
    x[0, 5] = bad
    with torch.no_grad():
        for ours, theirs in zip(SharedLinear.of(alone), alone, strict=True):
            torch.testing.assert_close(ours(x), theirs(x), equal_nan=True, rtol=0, atol=0)


def test_structured_and_empty_weights():
    torch.manual_seed(0)
    masks = (prunus.NM(2, 4), prunus.Block((4, 4), 0.5), prunus.Unstructured(1.0))
    dense = [nn.Linear(32, 16) for _ in masks]
    alone = [
        prunus.SparseLinear.from_linear(one, prunus.select(one.weight.detach().abs(), pattern))
        for one, pattern in zip(dense, masks, strict=True)
    ]
    for value in (1.0, float("inf")):
        x = torch.full((5, 32), value)
        with torch.no_grad():
            for ours, theirs in zip(SharedLinear.of(alone), alone, strict=True):
                torch.testing.assert_close(ours(x), theirs(x), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("count", [2, 5])
def test_any_number_of_layers(passes, count):
    alone = [layer(10 + n, 40, 0.7, n, bias=n != 1) for n in range(count)]
    x = torch.randn(2, 40)
    with torch.no_grad():
        for ours, theirs in zip(SharedLinear.of(alone), alone, strict=True):
            assert torch.equal(ours(x), theirs(x))
    assert len(passes) == 1


def test_one_pass_whichever_comes_first(passes):
    q, k, v = SharedLinear.of(three())
    x = torch.randn(2, 40)
    with torch.inference_mode():
        for order in ((q, k, v), (v, q, k), (k, v, q)):
            answers = [one(x) for one in order]
            assert [a.shape[-1] for a in answers] == [one.out_features for one in order]
    assert len(passes) == 3


def test_a_changed_input_is_computed_again():
    alone = three()
    q, k, _ = SharedLinear.of(alone)
    x = torch.randn(2, 40)
    with torch.no_grad():
        q(x)
        x.mul_(2)
        assert torch.equal(k(x), alone[1](x))


def test_another_input_in_between():
    alone = three()
    q, k, v = SharedLinear.of(alone)
    x, y = torch.randn(2, 40), torch.randn(2, 40)
    with torch.no_grad():
        assert torch.equal(q(x), alone[0](x))
        assert torch.equal(k(y), alone[1](y))
        assert torch.equal(v(x), alone[2](x))
        assert torch.equal(v(y), alone[2](y))


@pytest.mark.parametrize("kept", [False, True], ids=["inputs that go", "inputs that stay"])
def test_layers_that_read_different_inputs_stop_computing_for_each_other(passes, kept):
    """Cross attention: query reads one tensor, key and value another."""
    q, k, v = SharedLinear.of(three())
    inputs = []
    for _ in range(20):
        x, y = torch.randn(2, 40), torch.randn(2, 40)
        inputs += [x, y] * kept
        with torch.no_grad():
            q(x), k(y), v(y)
    assert len(passes) <= nn_shared.MOST_IN_VAIN
    assert len(q.group.waiting) <= nn_shared.MOST_IN_VAIN * kept


def test_an_error_between_two_layers_leaves_nothing(passes):
    q, k, v = layers = SharedLinear.of(three())
    for _ in range(2 * nn_shared.MOST_IN_VAIN):
        for calls in ((q,), (q, k, v)):
            with torch.no_grad():
                x = torch.randn(2, 40)
                for one in calls:
                    one(x)
        del x
        gc.collect()
        assert not q.group.waiting
    assert len(passes) == 4 * nn_shared.MOST_IN_VAIN  # what fails now and then does not end the sharing
    assert len(layers) == 3


def test_answers_that_wait_are_few(passes):
    q, *_ = SharedLinear.of(three())
    inputs = [torch.randn(2, 40) for _ in range(3 * nn_shared.MOST_WAITING)]
    with torch.no_grad():
        for x in inputs:
            q.group.in_vain = 0
            q(x)
    assert len(passes) == len(inputs)
    assert len(q.group.waiting) == nn_shared.MOST_WAITING


def test_the_input_of_a_pass_is_not_kept_alive():
    q, *_ = SharedLinear.of(three())
    x = torch.randn(2, 40)
    gone = weakref.ref(x)
    with torch.no_grad():
        q(x)
    del x
    assert gone() is None


def test_an_inference_tensor_that_is_changed_is_computed_again(passes):
    """It counts no versions: the numbers themselves are compared."""
    alone = three()
    q, k, v = SharedLinear.of(alone)
    with torch.inference_mode():
        x = torch.randn(2, 40)
        x[0, 0] = float("nan")
        q(x)
        x[1] = 0.0
        torch.testing.assert_close(k(x), alone[1](x), equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(v(x), alone[2](x), equal_nan=True, rtol=0, atol=0)
        assert len(passes) == 2
        x[1] = -0.0
        torch.testing.assert_close(q(x), alone[0](x), equal_nan=True, rtol=0, atol=0)
        assert len(passes) == 3
        large = torch.randn(nn_shared.MOST_COMPARED // 40 + 1, 40)
        assert torch.equal(q(large), alone[0](large))
        assert len(passes) == 3  # alone: it would be copied and compared


def test_a_layer_that_is_changed_is_computed_again():
    alone, source = three(), three(sparsities=(0.5, 0.5, 0.5))
    q, k, v = SharedLinear.of(alone)
    x = torch.randn(2, 40)
    with torch.no_grad():
        q(x)
        k.load_state_dict(source[1].state_dict())
        assert torch.equal(k(x), source[1](x))
        q(x)
        v.bias.add_(1.0)  # of the layer alone too
        assert torch.equal(v(x), alone[2](x))


def test_answers_without_gradients_are_not_for_those_who_want_them():
    alone = three()
    q, k, _ = SharedLinear.of(alone)
    x = torch.randn(2, 40, requires_grad=True)
    with torch.no_grad():
        q(x)
    assert k(x).requires_grad


def test_autocast_between_two_layers():
    alone = three()
    q, k, v = SharedLinear.of(alone)
    x = torch.randn(2, 40)
    with torch.no_grad():
        q(x)
        with torch.autocast("cpu"):
            assert torch.equal(k(x), alone[1](x))
            assert v(x).dtype == torch.bfloat16
        assert v(x).dtype == torch.float32


def test_two_threads_of_one_model():
    alone = three(64, (0.5, 0.9, 0.9))
    layers = SharedLinear.of(alone)
    wrong = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(50):
            x = torch.randn(3, 64, generator=generator)
            with torch.no_grad():
                for ours, theirs in zip(layers, alone, strict=True):
                    if not torch.equal(ours(x), theirs(x)):
                        wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_gradients_go_the_ordinary_way(passes):
    alone = three()
    layers = SharedLinear.of(alone)
    x = torch.randn(2, 40, requires_grad=True)
    torch.stack([one(x).square().sum() for one in layers]).sum().backward()
    ours, biases = x.grad.clone(), [one.bias.grad.clone() for one in layers]
    x.grad = None
    for one in alone:
        one.bias.grad = None
    torch.stack([one(x).square().sum() for one in alone]).sum().backward()
    torch.testing.assert_close(ours, x.grad)
    for one, bias in zip(alone, biases, strict=True):
        torch.testing.assert_close(bias, one.bias.grad)
    assert not passes


def test_copies_share_among_themselves(passes):
    model = nn.ModuleDict(dict(zip("qkv", SharedLinear.of(three()), strict=True)))
    x = torch.randn(2, 40)
    with torch.no_grad():
        expected = {name: model[name](x) for name in "qkv"}
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.state_dict().keys() == model.state_dict().keys()
        assert again["q"].group is again["k"].group is not model["q"].group
        passes.clear()
        with torch.no_grad():
            assert all(torch.equal(again[name](x), expected[name]) for name in "qkv")
        assert len(passes) == 1


def test_a_copy_between_two_layers_waits_for_nothing():
    model = nn.ModuleDict(dict(zip("qkv", SharedLinear.of(three()), strict=True)))
    x = torch.randn(2, 40)
    with torch.no_grad():
        model["q"](x)
        again = copy.deepcopy(model)
        assert model["q"].group.waiting
        assert not again["q"].group.waiting
        assert torch.equal(again["k"](x), model["k"](x))


def test_a_loaded_state_is_what_is_computed_with():
    source, alone = three(40, (0.5, 0.9, 0.9)), three()
    layers = SharedLinear.of(alone)
    x = torch.randn(2, 40)
    for one, other in zip(layers, source, strict=True):
        one.load_state_dict(other.state_dict())
    with torch.no_grad():
        for one, other in zip(layers, source, strict=True):
            assert torch.equal(one(x), other(x))


def test_compiles_as_three_products(passes):
    model = SideBySide(dict(zip("qkv", SharedLinear.of(three()), strict=True)))
    x = torch.randn(2, 40)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, fullgraph=True)(x)
    assert not passes
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))


def test_two_or_more_of_one_input():
    for layers, widths in ((three()[:1], "[40]"), ([*three()[:2], layer(4, 8, 0.5)], "[40, 40, 8]")):
        sentence = f"layers: expected two or more with one in_features, got {widths}"
        with pytest.raises(ValueError, match=re.escape(sentence)):
            SharedLinear.of(layers)
