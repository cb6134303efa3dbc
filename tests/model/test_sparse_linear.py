"""SparseLinear: the same function as the masked Linear, and an ordinary module."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from prunus import FormatError, SparseLinear, pack


def linear(n=12, k=20, bias=True, sparsity=0.7, seed=0):
    torch.manual_seed(seed)
    layer = nn.Linear(k, n, bias=bias)
    layer.weight.data *= torch.rand(n, k) >= sparsity
    return layer.requires_grad_(False)


def saved_and_loaded(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


@given(
    n=st.sampled_from([1, 2, 7, 8, 9, 64, 65]),
    k=st.sampled_from([1, 3, 255, 256, 257]),
    lead=st.sampled_from([(), (1,), (5,), (2, 3), (0,), (2, 0, 3)]),
    bias=st.booleans(),
    sparsity=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_computes_the_masked_linear(n, k, lead, bias, sparsity):
    dense = linear(n, k, bias, sparsity)
    x = torch.randn(*lead, k)
    got = SparseLinear.from_linear(dense)(x)
    assert got.shape == (*lead, n)
    torch.testing.assert_close(got, dense(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("gelu", nn.functional.gelu),
        ("gelu_tanh", lambda x: nn.functional.gelu(x, approximate="tanh")),
        ("silu", nn.functional.silu),
    ],
)
def test_activation(name, function):
    dense, x = linear(), torch.randn(3, 20)
    layer = SparseLinear.from_linear(dense, activation=name)
    torch.testing.assert_close(layer(x), function(dense(x)), rtol=1e-5, atol=2e-6)
    assert f"activation={name}" in repr(layer)
    with pytest.raises(ValueError, match="activation: expected None .* got '" + name):
        layer.to_linear()


def test_to_linear_is_the_exact_inverse():
    dense = linear(33, 129)
    back = SparseLinear.from_linear(dense).to_linear()
    assert type(back) is nn.Linear
    assert torch.equal(back.weight, dense.weight)
    assert back.bias is dense.bias
    assert (back.in_features, back.out_features) == (129, 33)
    assert SparseLinear.from_linear(linear(bias=False)).to_linear().bias is None


def test_mask_chooses_what_is_kept():
    dense = linear(sparsity=0.0)
    mask = torch.rand(12, 20) > 0.5
    layer = SparseLinear.from_linear(dense, mask=mask)
    assert torch.equal(layer.to_linear().weight, dense.weight * mask)
    with pytest.raises(ValueError, match="mask: expected"):
        SparseLinear.from_linear(dense, mask=mask.T)


def test_conv1d_is_seen_as_n_k():
    torch.manual_seed(0)
    conv = Conv1D(6, 10).requires_grad_(False)
    x = torch.randn(4, 10)
    layer = SparseLinear.from_linear(conv)
    assert (layer.out_features, layer.in_features) == (6, 10)
    torch.testing.assert_close(layer(x), conv(x))
    assert torch.equal(layer.to_linear().weight, conv.weight.T)


def test_shares_the_bias_and_keeps_the_training_flag():
    dense = linear().eval()
    layer = SparseLinear.from_linear(dense)
    assert layer.bias is dense.bias
    assert not layer.training
    assert not layer.to_linear().training


@pytest.mark.parametrize(
    ("module", "sentence"), [(nn.LayerNorm(4), "LayerNorm"), (nn.Embedding(3, 3), "Embedding")]
)
def test_refuses_other_modules(module, sentence):
    with pytest.raises(TypeError, match=f"expected a Linear or Conv1D.*got {sentence}"):
        SparseLinear.from_linear(module)


def test_refuses_unknown_activation_and_wrong_bias():
    with pytest.raises(ValueError, match=r"activation: expected one of .*, got 'tanh'"):
        SparseLinear(3, 3, activation="tanh")
    with pytest.raises(ValueError, match=r"bias: expected shape \(3,\), got \(4,\)"):
        SparseLinear.from_packed(pack(np.eye(3, dtype=np.float32)), torch.zeros(4))


def test_refuses_other_dtypes_and_shapes_in_forward():
    layer = SparseLinear.from_linear(linear())
    for dtype in (torch.float64, torch.int64):
        with pytest.raises(
            ValueError, match="x: expected float32, bfloat16 or float16, got " + str(dtype).split(".")[1]
        ):
            layer(torch.ones(2, 20, dtype=dtype))
    with pytest.raises(ValueError, match="x: expected"):
        layer(torch.ones(2, 19))


def test_is_an_ordinary_module():
    layer, x = SparseLinear.from_linear(linear()), torch.randn(3, 20)
    expected = layer(x)
    assert list(layer.state_dict()) == ["bias", "packed"]
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        saved_and_loaded(layer, weights_only=False),
    ):
        assert torch.equal(twin(x), expected)
        assert twin.packed.data_ptr() != layer.packed.data_ptr()
    state = saved_and_loaded(layer.state_dict(), weights_only=True)
    fresh = SparseLinear(20, 12).requires_grad_(False)
    assert fresh(x).shape == (3, 12)
    assert fresh.packed.shape != layer.packed.shape
    assert not fresh.load_state_dict(state).missing_keys
    assert torch.equal(fresh(x), expected)
    assigned = SparseLinear(20, 12).requires_grad_(False)
    assigned.load_state_dict(state, assign=True)
    assert torch.equal(assigned(x), expected)
    assert "in_features=20, out_features=12, bias=True, sparsity=0." in repr(layer)


@pytest.mark.parametrize("cast", ["half", "double", "bfloat16"])
def test_casts_do_not_touch_the_packed_bytes(cast):
    layer = SparseLinear.from_linear(linear())
    before = layer.packed.clone()
    getattr(layer, cast)()
    assert torch.equal(layer.packed, before)
    assert layer.bias.dtype != torch.float32
    with pytest.raises(ValueError, match="bias: expected float32"):
        layer(torch.ones(2, 20))
    assert torch.equal(layer.type(torch.float64).packed, before)
    layer.float().requires_grad_(False)
    assert layer(torch.ones(2, 20)).shape == (2, 12)


def test_loading_does_not_write_into_a_packed_weight():
    packed = pack(np.eye(4, dtype=np.float32))
    layer = SparseLinear.from_packed(packed)
    assert layer.packed.data_ptr() == packed.buffer.ctypes.data
    layer.load_state_dict({"packed": torch.from_numpy(pack(2 * np.eye(4, dtype=np.float32)).buffer)})
    assert layer.packed_weight.to_dense()[0, 0] == 2
    assert packed.to_dense()[0, 0] == 1


def test_load_state_dict_checks_everything():
    layer = SparseLinear.from_linear(linear())
    good = layer.state_dict()
    x = torch.randn(2, 20)
    expected = layer(x)
    other = SparseLinear.from_linear(linear(12, 21)).packed
    broken = good["packed"].clone()
    broken[70:90] = 255
    for packed, sentence in [
        (broken, "packed: "),
        (good["packed"][:-5], "packed: "),
        (good["packed"][:0], "packed: "),
        (good["packed"].float(), "expected a 1-D uint8 tensor, got float32"),
        (good["packed"].reshape(1, -1), "expected a 1-D uint8 tensor"),
        (other, r"expected shape \(12, 20\), got \(12, 21\)"),
    ]:
        with pytest.raises(FormatError, match=sentence):
            layer.load_state_dict({**good, "packed": packed})
        assert torch.equal(layer(x), expected)
    model = nn.Sequential(layer)
    with pytest.raises(FormatError, match=r"^0\.packed: "):
        model.load_state_dict({"0.packed": broken, "0.bias": good["bias"]})
    with pytest.raises(RuntimeError, match=r"Missing key.*packed"):
        layer.load_state_dict({"bias": good["bias"]})


@given(st.data())
def test_a_flipped_byte_is_refused_or_harmless(data):
    """Either load_state_dict raises, or the bytes describe some weight that runs."""
    layer = SparseLinear.from_linear(linear(9, 17))
    packed = layer.packed.clone()
    position = data.draw(st.integers(0, packed.numel() - 1))
    packed[position] = data.draw(st.integers(0, 255))
    sentence = ""
    try:
        layer.load_state_dict({"packed": packed, "bias": layer.bias})
    except FormatError as error:
        sentence = str(error)
    assert sentence.startswith("packed: ") or layer(torch.zeros(2, 17)).shape == (2, 9)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(dynamic):
    model = nn.Sequential(SparseLinear.from_linear(linear(16, 20)), nn.ReLU()).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with torch.no_grad():
        for m in (3, 5):
            x = torch.randn(m, 20)
            torch.testing.assert_close(compiled(x), model(x))


def test_exports():
    model, x = nn.Sequential(SparseLinear.from_linear(linear(16, 20))).eval(), torch.randn(4, 20)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x))
