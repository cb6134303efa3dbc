"""accelerate_: converts what it may, keeps the rest with a reason, and never leaves a model half changed."""

import copy

import pytest
import torch
from model_zoo import IDS, Tiny, sparse_, tiny
from torch import nn
from torch.nn.utils import parametrize

from prunus import NM, Block, SparseLinear, accelerate_, pack, prune_
from prunus.accelerate import race as race_module

ANY = 0.0  # min_speedup that converts whatever can be converted, so that no test depends on timing


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(race_module, "SECONDS", 0.0)


def rows_of(report):
    return {row["name"]: row for row in report.rows}


def snapshot(model):
    return [(name, id(module), module.training) for name, module in model.named_modules()], {
        name: value.clone() for name, value in model.state_dict().items()
    }


def assert_unchanged(model, before):
    modules, state = before
    assert snapshot(model)[0] == modules
    now = model.state_dict()
    assert now.keys() == state.keys()
    assert all(torch.equal(now[name], state[name]) for name in state)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_converts_and_computes_the_same():
    model = tiny()
    dense = copy.deepcopy(model)
    report = accelerate_(model, IDS, min_speedup=ANY)
    rows = rows_of(report)
    assert [name for name, row in rows.items() if row["converted"]] == ["up", "down", "twice.0"]
    assert rows["head"]["reason"] == "weight is shared with embed"
    assert rows["up"]["shape"] == (128, 64)
    assert rows["up"]["m"] == "60"
    assert 0.85 < rows["up"]["sparsity"] < 0.95
    assert rows["up"]["bytes_before"] == 4 * (128 * 64 + 128)
    assert rows["up"]["bytes_after"] < rows["up"]["bytes_before"]
    assert rows["head"]["dense_ms"] > 0
    assert rows["head"]["sparse_ms"] is None
    # twice is called two times per run: its time counts double, its bytes once
    assert model.twice[0] is model.twice[1]
    assert isinstance(model.down, SparseLinear)
    assert model.head.weight is model.embed.weight
    with torch.no_grad():
        expected, got = dense(IDS), model(IDS)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)
    assert report.summary["converted"] == 3
    assert report.summary["bytes_after"] < report.summary["bytes_before"]
    assert report.summary["relative_error"] < 1e-5
    assert "3 of 4 Linear layers run sparse" in str(report)


def test_an_impossible_speedup_keeps_everything_dense():
    model = tiny()
    before = snapshot(model)
    report = accelerate_(model, IDS, min_speedup=1e9)
    assert not any(row["converted"] for row in report.rows)
    assert {rows_of(report)[name]["reason"] for name in ("up", "down", "twice.0")} <= {
        "measured slower",
        "gain below 1000000000.00x",
    }
    assert report.summary["linear_speedup"] == 1.0
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("inputs", "m"),
    [
        (IDS, "60"),
        ((IDS, 2.0), "60"),
        ({"ids": IDS, "scale": 1.0}, "60"),
        ([IDS, {"ids": IDS[:1]}, (IDS,)], "60, 15"),
    ],
)
def test_kinds_of_inputs(inputs, m):
    model = tiny()
    assert rows_of(accelerate_(model, inputs, min_speedup=ANY))["up"]["m"] == m


def test_filter_and_sparsity_and_unused():
    model = tiny()
    model.unused = sparse_(nn.Linear(8, 8))
    model.up.weight.data.fill_(1.0)
    names = []

    def keep(module, name):
        names.append(name)
        return not name.startswith("twice")

    rows = rows_of(accelerate_(model, IDS, min_speedup=ANY, filter_fn=keep))
    assert rows["up"]["reason"] == "0% zeros: too few"
    assert rows["twice.0"]["reason"] == "left out by filter_fn"
    assert rows["unused"]["reason"] == "not called by example_inputs"
    assert rows["down"]["converted"]
    assert sorted(names) == ["down", "twice.0", "unused", "up"]


def test_fresh_adapters_stay_trainable():
    """Their second matrix is nothing but zeros."""

    class Lora(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer = sparse_(nn.Linear(16, 16))
            self.lora_A = nn.ModuleDict({"default": sparse_(nn.Linear(16, 4, bias=False))})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(4, 16, bias=False)})
            nn.init.zeros_(self.lora_B["default"].weight)

        def forward(self, x):
            return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    for precision in ("float32", "int8"):
        model = nn.Sequential(Lora())
        rows = rows_of(accelerate_(model, torch.randn(3, 16), precision, min_speedup=ANY))
        assert rows["0.base_layer"]["converted"]
        for name in ("0.lora_A.default", "0.lora_B.default"):
            assert rows[name]["reason"] == "part of a low-rank adapter, which stays trainable"


class Odd(nn.Module):
    """Linears that must stay as they are."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(16, 16)
        self.hooked = nn.Linear(16, 16)
        self.hooked.register_forward_hook(lambda *_: None)
        self.normed = torch.nn.utils.spectral_norm(nn.Linear(16, 16))
        self.parametrised = nn.Linear(16, 16)
        parametrize.register_parametrization(self.parametrised, "weight", nn.Identity())
        self.wide = nn.Linear(16, 16).double()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.derived = type("Derived", (nn.Linear,), {"forward": lambda self, x: x})(16, 16)
        self.packed = SparseLinear.from_linear(nn.Linear(16, 16))
        self.replaced = nn.Linear(16, 16)
        self.replaced.forward = lambda x: x
        self.empty = nn.Linear(0, 16)
        self.shared = nn.Linear(16, 16)
        self.sharing = nn.Linear(16, 16)
        self.sharing.weight = self.shared.weight

    def forward(self, x):
        for layer in (self.plain, self.hooked, self.normed, self.parametrised, self.derived, self.packed):
            x = layer(x)
        x = self.sharing(self.shared(self.replaced(x)))
        return self.attention(x, x, x)[0] + self.wide(x.double()).sum()


def test_odd_layers_stay_with_a_reason():
    torch.manual_seed(0)
    model = Odd()
    sparse_(model.plain)
    sparse_(model.shared)
    rows = rows_of(accelerate_(model, torch.randn(2, 3, 16), min_speedup=ANY))
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons.pop("plain") == ""
    assert reasons == {
        "hooked": "has hooks that a conversion would lose",
        "normed": "has no ordinary weight",
        "parametrised": "parametrised",
        "wide": "weight is float64 on cpu: only float32, bfloat16 and float16 on cpu are packed",
        "attention.out_proj": "inside MultiheadAttention, which reads its weight",
        "derived": "is a Derived, not a plain Linear",
        "packed": "already sparse",
        "replaced": "has hooks that a conversion would lose",
        "empty": "weight is empty",
        "shared": "weight is shared with sharing",
        "sharing": "weight is shared with shared",
    }
    assert rows["packed"]["runs"] == "sparse"
    assert len(model.hooked._forward_hooks) == 1


def test_layers_race_under_the_autocast_that_they_were_called_under():
    class Autocast(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = sparse_(nn.Linear(16, 16))

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.fc(x.bfloat16())

    model = Autocast()
    dense = copy.deepcopy(model)
    x = torch.randn(3, 16)
    row = accelerate_(model, x, min_speedup=ANY).rows[0]
    assert row["converted"]
    assert row["dense_ms"] > 0
    assert model(x).dtype == torch.bfloat16
    torch.testing.assert_close(model(x), dense(x), rtol=2e-2, atol=2e-2)


def test_layers_that_are_called_with_several_dtypes_stay_dense():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = sparse_(nn.Linear(16, 16))

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.fc(x)
            return y + self.fc(x)

    row = accelerate_(Two(), torch.randn(3, 16), min_speedup=ANY).rows[0]
    assert row["reason"] == "is called with several dtypes"
    assert row["dense_ms"] is None


class Reader(nn.Module):
    """Looks at the weight of a layer it calls."""

    def __init__(self):
        super().__init__()
        self.wi, self.wo = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.wo(self.wi(x)) + self.wo.weight.mean()


class DtypeReader(Reader):
    """As T5's feed-forward layer does."""

    def forward(self, x):
        h = self.wi(x)
        if isinstance(self.wo.weight, torch.Tensor) and h.dtype != self.wo.weight.dtype:
            h = h.to(self.wo.weight.dtype)
        return self.wo(h).to(self.wo.weight.device)


def test_layers_whose_weight_is_read_are_taken_back():
    model = sparse_(nn.Sequential(Reader(), Reader()))
    x = torch.randn(3, 16)
    with torch.no_grad():
        expected = model(x)
    rows = rows_of(accelerate_(model, x, min_speedup=ANY))
    assert rows["0.wi"]["converted"]
    assert rows["1.wi"]["converted"]
    for name in ("0.wo", "1.wo"):
        assert rows[name]["reason"] == "the model reads its .weight"
        assert rows[name]["runs"] == "dense"
        assert type(model.get_submodule(name)) is nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def test_reading_the_dtype_of_a_weight_is_no_reason():
    model = sparse_(nn.Sequential(DtypeReader(), DtypeReader()))
    x = torch.randn(3, 16)
    with torch.no_grad():
        expected = model(x)
    report = accelerate_(model, x, min_speedup=ANY)
    assert report.summary["converted"] == 4
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def test_t5_is_converted_as_a_whole():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 50}
    model = sparse_(transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval())
    rows = rows_of(accelerate_(model, {"input_ids": IDS}, min_speedup=ANY))
    assert {name.rpartition(".")[2] for name, row in rows.items() if row["converted"]} == {
        "q", "k", "v", "o", "wi", "wo",
    }  # fmt: skip


def test_torch_encoder_fast_path_still_works():
    """Its fast path reads the Linears' weights; hooks switch it off, so only a run without them shows it."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = sparse_(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = model(x)
    rows = rows_of(accelerate_(model, x, min_speedup=ANY))
    reason = "the model reads its .weight (not after torch.backends.mha.set_fastpath_enabled(False))"
    assert rows["layers.0.linear1"]["reason"] == reason
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # the reason says the truth
        rows = rows_of(accelerate_(model, x, min_speedup=ANY))
        assert all(rows[f"layers.{i}.linear{j}"]["converted"] for i in (0, 1) for j in (1, 2))
        assert rows["layers.0.self_attn.out_proj"]["reason"].startswith("inside MultiheadAttention")
        with torch.no_grad():
            torch.testing.assert_close(model(x), expected)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_torch_encoder_that_meets_its_fast_path_later():
    """The examples (one sequence, unbatched) do not take it, later inputs would."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = sparse_(nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)).eval()
    x, padded = torch.randn(3, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
    with torch.no_grad():
        expected = [model(x[0]), model(x), model(x, src_key_padding_mask=padded)]
        rows = rows_of(accelerate_(model, x[0], min_speedup=ANY))
        assert all(rows[f"layers.{i}.linear{j}"]["converted"] for i in (0, 1) for j in (1, 2))
        got = [model(x[0]), model(x), model(x, src_key_padding_mask=padded)]
    for one, other in zip(got, expected, strict=True):
        # With the fast path, padding comes out as zeros.
        keep = ~padded if one is got[2] else slice(None)
        torch.testing.assert_close(one[keep], other[keep], rtol=1e-4, atol=1e-5)


class Failing(Tiny):
    """Works with dense layers only, and fails otherwise with an error of its own."""

    error: BaseException

    def forward(self, ids, scale=1.0):
        if isinstance(self.up, SparseLinear):
            raise self.error
        return super().forward(ids, scale)


@pytest.mark.parametrize("error", [RuntimeError("mine"), AttributeError("mine"), KeyboardInterrupt("mine")])
def test_an_error_leaves_the_model_as_it_was(error):
    model = sparse_(Failing()).train()
    model.norm.eval()
    model.error = error
    before = snapshot(model)
    with pytest.raises(type(error), match="mine"):
        accelerate_(model, IDS, min_speedup=ANY)
    assert_unchanged(model, before)
    with pytest.raises(IndexError):
        accelerate_(model, torch.tensor([[1000]]))
    assert_unchanged(model, before)


def test_training_flags_come_back():
    model = tiny().train()
    model.norm.eval()
    accelerate_(model, IDS, min_speedup=ANY)
    assert model.training
    assert model.up.training
    assert not model.norm.training


def test_wrong_answers_stay_dense(monkeypatch):
    """A kernel that computed something else would be found before it is timed."""
    model = tiny()
    real = SparseLinear.from_linear

    def broken(linear, **how):
        layer = real(linear)
        if layer.out_features == 128:
            dense = layer.packed_weight.to_dense()
            dense[dense != 0] *= 1.001
            layer.packed = torch.from_numpy(pack(dense).buffer)
        return layer

    monkeypatch.setattr(SparseLinear, "from_linear", broken)
    rows = rows_of(accelerate_(model, IDS, min_speedup=ANY))
    # The check compares with the layer's own weights, so only the dense answer can give it away.
    assert rows["up"]["reason"].startswith("answers differ at ")
    assert type(model.up) is nn.Linear
    assert rows["down"]["converted"]


def test_weights_that_are_not_finite_stay_dense():
    model = tiny()
    model.up.weight.data[3, 3] = float("inf")
    assert rows_of(accelerate_(model, IDS, min_speedup=ANY))["up"]["reason"].startswith("answers differ")


@pytest.mark.parametrize(
    ("model", "inputs", "speedup", "error", "sentence"),
    [
        ("model", IDS, 1.05, TypeError, "model: expected a torch.nn.Module, got str"),
        (nn.ReLU(), IDS, 1.05, ValueError, "model: expected at least one Linear layer, got none"),
        (Tiny(), "ids", 1.05, TypeError, "example_inputs: expected a tensor, .* got str"),
        (Tiny(), [], 1.05, ValueError, "example_inputs: expected at least one batch, got an empty list"),
        (Tiny(), [IDS, 3], 1.05, TypeError, r"example_inputs\[1\]: expected a tensor, .* got int"),
        (Tiny(), IDS, float("nan"), ValueError, "min_speedup: expected a finite number >= 0, got nan"),
        (Tiny(), IDS, -1, ValueError, "min_speedup: expected a finite number >= 0, got -1"),
        (Tiny(), IDS, "fast", ValueError, "min_speedup: expected a finite number >= 0, got 'fast'"),
    ],
)
def test_bad_arguments(model, inputs, speedup, error, sentence):
    with pytest.raises(error, match=sentence):
        accelerate_(model, inputs, min_speedup=speedup)


def test_a_bare_linear_cannot_be_swapped():
    row = accelerate_(sparse_(nn.Linear(16, 16)), torch.randn(2, 16), min_speedup=ANY).rows[0]
    assert row["reason"].startswith("is the model itself")


def test_no_tokens_at_all():
    model = sparse_(nn.Sequential(nn.Linear(16, 16)))
    report = accelerate_(model, torch.randn(0, 16), min_speedup=ANY)
    assert report.rows[0]["m"] == "0"
    with torch.no_grad():
        assert model(torch.randn(0, 16)).shape == (0, 16)


def test_again_on_an_accelerated_model():
    model = tiny()
    accelerate_(model, IDS, min_speedup=ANY)
    before = snapshot(model)
    rows = rows_of(accelerate_(model, IDS, min_speedup=ANY))
    assert rows["up"]["reason"] == "already sparse"
    assert rows["up"]["runs"] == "sparse"
    assert_unchanged(model, before)


@pytest.mark.parametrize(("pattern", "format"), [(NM(2, 4), "nm"), (Block((4, 4), 0.8), "block")])
def test_a_pattern_gets_the_format_made_for_it(pattern, format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32)).eval()
    prune_(model, pattern)
    x = torch.randn(5, 64)
    expected = model(x)
    accelerate_(model, x, min_speedup=ANY)
    assert [m.packed_weight.format for m in model if isinstance(m, SparseLinear)] == [format, format]
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
