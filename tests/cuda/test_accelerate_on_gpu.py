"""accelerate_ on models that live on a GPU: what races there, by which clock, and why a layer stays dense."""

import copy
import io
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small_models import Sizes, build, tokens
from torch import Tensor, nn

import prunus
from prunus import SparseLinear
from prunus._tools import device_clock
from prunus._tools.timing import Racer, Times, settling, take_laps, take_turns
from prunus.accelerate import candidates, race
from prunus.nn import TwoFourLinear
from prunus.nn.two_four import why_not_two_four
from prunus.ops import autograd
from prunus.ops.torch_ops import buffer_tensor
from prunus.packed import pack
from prunus.patterns import NM, Unstructured

GPU = torch.device("cuda", 0)
SPARSE = Unstructured(0.9)


class Event:
    """`torch.cuda.Event` of a pretended GPU, which does its work at once."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, later: "Event") -> float:
        return (later.at - self.at) * 1e3


class Halved(Tensor):
    """What `to_sparse_semi_structured` gives on a pretended GPU."""

    packed: Tensor

    def to_dense(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor).clone()


def halve(weight: Tensor) -> Tensor:
    made = weight.clone().as_subclass(Halved)
    made.packed = weight.new_zeros(weight.numel() * 9 // 8, dtype=torch.uint8)
    return made


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few passes; on the pretended GPU also the clocks."""
    monkeypatch.setattr(race, "SECONDS", 0.05)
    monkeypatch.setattr(race, "MOST_TO_ISSUE", 1e9)  # layers this small are all launch
    if "gpu" not in request.fixturenames or request.getfixturevalue("gpu") == "cuda":
        return

    @contextmanager
    def current(device: torch.device):
        assert device == GPU
        yield

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", halve)
    monkeypatch.setattr(candidates, "why_closed", lambda: "")


def pruned(gpu: str, dtype: torch.dtype, pattern: Any = SPARSE) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64))
    prunus.prune_(model, pattern)
    return model.to(gpu, dtype).eval()


def answer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).float().cpu()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sparse_layers_of_short_models(gpu, dtype):
    model = pruned(gpu, dtype)
    dense = copy.deepcopy(model)
    x = torch.randn(4, 128, dtype=dtype)  # follows the model
    report = prunus.accelerate_(model, x, min_speedup=0.0)
    assert [row["runs"] for row in report.rows] == ["sparse", "sparse"]
    assert all(isinstance(model[i], SparseLinear) and model[i].packed.is_cuda for i in (0, 2))
    assert all(row["dense_ms"] > 0 and row["sparse_ms"] > 0 for row in report.rows)
    assert "cuda:0" in report.summary["device"]
    assert report.summary_line().endswith(f"on {report.summary['device']}.")
    x = x.to(gpu)
    expected = answer(dense, x)
    assert (answer(model, x) - expected).norm() < 0.02 * expected.norm()
    assert prunus.to_dense_(model) == ["0", "2"]
    for i in (0, 2):
        assert model[i].weight.dtype == dtype
        assert torch.equal(model[i].weight, dense[i].weight)
    assert torch.equal(answer(model, x), expected)


def test_what_precision_allows(gpu):
    x = torch.randn(2, 128, device=gpu)
    runs = {}
    for precision in ("float32", "bfloat16", "int8"):
        model = pruned(gpu, torch.float32)
        report = prunus.accelerate_(model, x, precision=precision, min_speedup=0.0)
        runs[precision] = {row["runs"] for row in report.rows}
        reasons = {row["reason"] for row in report.rows}
        if precision == "float32":
            assert reasons == {'weight is float32 on cuda: packed where precision "bfloat16" is allowed'}
        assert report.summary["relative_error"] < 0.1
    assert runs["float32"] == {"dense"}
    assert runs["bfloat16"] == {"sparse bfloat16"}
    assert runs["int8"] <= {"sparse bfloat16", "sparse int8"}


def test_a_dense_model_stays_dense(gpu):
    model = pruned(gpu, torch.bfloat16, Unstructured(0.0))
    report = prunus.accelerate_(model, torch.randn(2, 128, dtype=torch.bfloat16), precision="int8")
    assert {row["reason"] for row in report.rows} == {"0% zeros: too few"}


def test_nothing_is_taken_that_is_not_faster(gpu):
    model = pruned(gpu, torch.bfloat16)
    report = prunus.accelerate_(model, torch.randn(512, 128, dtype=torch.bfloat16), precision="int8")
    for row in report.rows:
        assert not row["converted"] or row["speedup"] >= 1.05
        assert row["converted"] or row["reason"]


def test_without_the_kernels_layers_stay_dense(gpu, monkeypatch):
    monkeypatch.setattr(candidates, "why_closed", lambda: "prunus was built without CUDA (...)")
    model = pruned(gpu, torch.bfloat16)
    report = prunus.accelerate_(model, torch.randn(2, 128, dtype=torch.bfloat16), min_speedup=0.0)
    assert {row["reason"] for row in report.rows} == {"on cuda: prunus was built without CUDA (...)"}


def test_odd_dtypes_and_trained_layers_say_why(gpu):
    report = prunus.accelerate_(pruned(gpu, torch.float64), torch.randn(2, 128).double(), min_speedup=0.0)
    only = "only float32, bfloat16 and float16 on cuda are packed"
    assert {row["reason"] for row in report.rows} == {f"weight is float64 on cuda: {only}"}
    report = prunus.accelerate_(pruned(gpu, torch.bfloat16), torch.randn(2, 128).bfloat16(), trainable=True)
    reason = "layers that train their packed weight are on the cpu only"
    assert {row["reason"] for row in report.rows} == {reason}


def test_layers_on_both_devices_race_where_they_are(gpu):
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(128, 256), nn.Linear(256, 64)

        def forward(self, x):
            return self.second(self.first(x).cpu())

    model = Split().bfloat16()
    prunus.prune_(model, Unstructured(0.9))
    model.first.to(gpu)
    report = prunus.accelerate_(model, torch.randn(4, 128).bfloat16(), min_speedup=0.0)
    assert report.summary["converted"] == 2
    assert (model.first.packed.device.type, model.second.packed.device.type) == ("cuda", "cpu")


def test_autocast_of_the_gpu(gpu):
    if gpu != "cuda":
        pytest.skip("autocast needs a real GPU")
    model = pruned(gpu, torch.float32)
    dense = copy.deepcopy(model)
    x = torch.randn(4, 128, device=gpu)
    with torch.autocast("cuda", torch.bfloat16):
        report = prunus.accelerate_(model, x, precision="bfloat16", min_speedup=0.0)
        assert report.summary["converted"] == 2
        assert model(x).dtype == torch.bfloat16
        expected = answer(dense, x)
        assert (answer(model, x) - expected).norm() < 0.02 * expected.norm()


def test_a_language_model_decodes_as_before(gpu):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = build("llama", Sizes(hidden=128, width=256, heads=4), initializer_range=0.2).bfloat16()
    prunus.prune_(model, Unstructured(0.8))
    model.to(gpu)
    dense = copy.deepcopy(model)
    ids = tokens(1, rows=1, length=1)[0]
    report = prunus.accelerate_(model, {"input_ids": ids}, min_speedup=0.0)
    assert report.summary["converted"] >= 14, report
    a, b = (answer_of(m, ids.to(gpu)) for m in (dense, model))
    assert (a - b).norm() < 0.05 * a.norm()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    again = copy.deepcopy(model)
    assert (answer_of(again, ids.to(gpu)) - b).norm() < 0.01 * b.norm()
    prunus.to_dense_(model)
    assert torch.equal(answer_of(model, ids.to(gpu)), a)


def answer_of(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits.float().cpu()


def test_packed_layers_in_files(gpu, tmp_path):
    model = pruned(gpu, torch.bfloat16)
    x = torch.randn(4, 128).bfloat16()
    prunus.accelerate_(model, x, min_speedup=0.0)
    prunus.save(model, tmp_path / "file")
    fresh = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64)).bfloat16()
    there = prunus.load(copy.deepcopy(fresh), tmp_path / "file")
    assert isinstance(there[0], SparseLinear)
    assert there[0].packed.is_cpu
    here = prunus.load(fresh.to(gpu), tmp_path / "file")
    assert isinstance(here[0], SparseLinear)
    assert here[0].packed.is_cuda
    expected = answer(model, x.to(gpu))
    for loaded, given in ((there, x), (here, x.to(gpu))):
        assert (answer(loaded, given) - expected).norm() < 0.02 * expected.norm()


# 2:4: torch's own products.


def two_four(gpu: str, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(128, 64, bias=bias)
    prunus.prune_(nn.Sequential(layer), NM(2, 4))
    return layer.to(gpu, torch.bfloat16)


def able(gpu: str) -> bool:
    """Whether torch has 2:4 products on this device."""
    return not why_not_two_four(two_four(gpu).weight)


def test_torchs_two_four_products_race(gpu):
    if not able(gpu):
        pytest.skip(why_not_two_four(two_four(gpu).weight))
    model = nn.Sequential(two_four(gpu))
    dense = copy.deepcopy(model)
    x = torch.randn(512, 128).bfloat16()
    report = prunus.accelerate_(model, x, min_speedup=0.0)
    (row,) = report.rows
    # Not faster than "sparse" everywhere; it has run, or took too long to launch.
    assert row["two_four_ms"] is None or row["two_four_ms"] > 0
    model[0] = TwoFourLinear.from_linear(dense[0])
    expected = answer(dense, x.to(gpu))
    assert (answer(model, x.to(gpu)) - expected).norm() < 0.01 * expected.norm()
    assert prunus.accelerate_(model, x).rows[0]["reason"] == "already sparse"
    with pytest.raises(ValueError, match="expected ordinary layers, got 1 packed ones"):
        prunus.prune_(model, Unstructured(0.9))
    assert prunus.to_dense_(model) == ["0"]
    assert torch.equal(model[0].weight, dense[0].weight)
    assert torch.equal(model[0].bias, dense[0].bias)


@pytest.mark.parametrize("bias", [True, False])
def test_a_two_four_layer_is_copied_saved_and_moved(gpu, bias, tmp_path):
    linear = two_four(gpu, bias)
    layer = TwoFourLinear.from_linear(linear)
    assert layer.compressed == able(gpu)
    x = torch.randn(3, 16, 128, device=gpu).bfloat16()
    expected = answer(layer, x)
    same = linear(x).float().cpu()
    assert (expected - same).norm() < 0.01 * same.norm()
    assert expected.shape == same.shape
    assert torch.equal(layer.weight, linear.weight)
    for again in (copy.deepcopy(layer), pickled(layer).to(gpu)):
        assert again.compressed == layer.compressed
        assert torch.equal(answer(again, x), expected)
    state = layer.state_dict()
    assert list(state) == (["weight", "bias"] if bias else ["weight"])
    linear.load_state_dict(state)  # it is that of the Linear
    other = TwoFourLinear.from_linear(nn.Linear(128, 64, bias=bias).to(gpu, torch.bfloat16))
    assert not other.compressed  # four of four
    other.load_state_dict(state)
    assert torch.equal(answer(other, x), expected)
    with pytest.raises(RuntimeError, match="weight: expected shape"):
        other.load_state_dict(state | {"weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})
    there = copy.deepcopy(layer).cpu()
    assert not there.compressed
    assert torch.equal(there.weight, layer.weight.cpu())
    back = there.to(gpu)
    assert back.packed.is_cuda, why_not_two_four(back.weight)
    assert back.compressed == layer.compressed, why_not_two_four(back.weight)
    prunus.save(nn.Sequential(layer), tmp_path / "file")
    loaded = prunus.load(nn.Sequential(nn.Linear(128, 64, bias=bias)), tmp_path / "file")
    assert torch.equal(loaded[0].weight, layer.weight.cpu())


def pickled(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_gradients_pass_a_two_four_layer(gpu):
    linear = two_four(gpu)
    layer = TwoFourLinear.from_linear(linear)
    x = torch.randn(32, 128, device=gpu).bfloat16()
    grads = []
    for module in (linear, layer):
        given = x.clone().requires_grad_()
        module.bias.grad = None
        module(given).float().square().sum().backward()
        grads.append((given.grad.float().cpu(), module.bias.grad.float().cpu()))
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() < 0.02 * a.norm()


def test_two_four_of_a_conv1d(gpu):
    Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    conv = Conv1D(64, 128)
    prunus.prune_(nn.Sequential(conv), NM(2, 4))
    conv.to(gpu, torch.float16)
    layer = TwoFourLinear.from_linear(conv)
    assert layer.compressed == able(gpu)
    assert layer.weight.shape == (128, 64)
    model = nn.Sequential(layer)
    prunus.to_dense_(model)
    assert isinstance(model[0], Conv1D)
    assert torch.equal(model[0].weight, conv.weight)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.ones(32, 64), "float32 on cuda"),
        (torch.ones(32, 64).bfloat16(), "has more than two values in four inputs"),
        (torch.zeros(31, 64).bfloat16(), "31 x 64 is no multiple of 32 x 64"),
        (torch.full((32, 16), torch.inf).bfloat16().repeat_interleave(4, 1).mul(0), "has more than two"),
    ],
)
def test_why_torch_cannot_store_a_weight(gpu, weight, reason):
    assert why_not_two_four(weight.to(gpu)).startswith(reason)


def test_what_torch_cannot_do_is_said(gpu, monkeypatch):
    def unable(weight: Tensor) -> Tensor:
        raise RuntimeError("no cusparselt\nand more")

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", unable)
    monkeypatch.setattr("prunus.nn.two_four._unable", {})
    weight = torch.zeros(32, 64, device=gpu).bfloat16()
    assert why_not_two_four(weight) == "torch has no 2:4 products here (no cusparselt)"
    layer = TwoFourLinear.from_linear(two_four(gpu))
    assert not layer.compressed
    assert layer(torch.ones(2, 128, device=gpu).bfloat16()).shape == (2, 64)


# Clocks.


def test_clocks_wait_for_the_device(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append(device))
    times = Times(settle=settling(GPU))
    times.add(lambda: done.append("call"))
    assert done == [GPU, "call", GPU]
    assert len(times.seconds) == 1
    done.clear()
    take_turns([lambda: None, lambda: None], 0.0, at_least=2, at_most=2, devices=[GPU, torch.device("cpu")])
    assert done == [GPU, GPU] * 2
    assert settling(torch.device("cpu"))() is None


def test_the_device_is_given_a_few_calls_at_once(monkeypatch):
    """It waits until it has them, and is waited for before its clocks are read."""
    log: list[str] = []

    class Logged(Event):
        def record(self) -> None:
            log.append("event")
            super().record()

        def elapsed_time(self, later: Event) -> float:
            assert log[-1] == "wait"
            return 7.0

    @contextmanager
    def current(device: torch.device):
        yield

    monkeypatch.setattr(torch.cuda, "Event", Logged)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("hold"))
    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    monkeypatch.setattr(device_clock, "MOST_CALLS", 2)
    call: Callable[[], object] = lambda: log.append("call")  # noqa: E731
    racers = [Racer([[call], [call]], [3], device=GPU) for _ in range(3)]
    take_laps(racers, 0.0, 1, 1, "")
    one = ["event", "call", "event"]
    group = ["wait", "hold", *one, *one, "wait"]
    assert log == ([*group, "wait", "hold", *one, "wait"]) * 2
    assert racers[0].best_ms(0) == racers[2].ms(1) == pytest.approx(21.0)
    assert 0 < racers[0].issue_ms(0) < 21.0


def test_what_takes_long_to_launch_loses(monkeypatch):
    """Device times decide; but a candidate may not be much slower where every call is launched."""

    class Raced:
        device = GPU

        def best_ms(self, which: int) -> float:
            return (10.0, 2.0, 1.0)[which]

        def issue_ms(self, which: int) -> float:
            return (3.0, 14.0, 16.0)[which]

    monkeypatch.setattr(race, "MOST_TO_ISSUE", 1.5)
    made: Any = Raced()
    assert race._milliseconds(made, ["dense", "sparse", "2:4"]) == {"dense": 10.0, "sparse": 2.0}
    made.device = None
    assert race._milliseconds(made, ["dense", "", "2:4"]) == {"dense": 10.0, "2:4": 1.0}


@pytest.mark.parametrize("strip", [1024, 7])
def test_the_gradient_of_the_gpu_is_that_of_the_cpu(monkeypatch, strip):
    """The same text on CPU tensors: strips of columns, by unit vectors."""
    monkeypatch.setattr(autograd, "STRIP", strip)
    torch.manual_seed(0)
    weight = torch.randn(12, 20) * (torch.rand(12, 20) > 0.6)
    packed = buffer_tensor(pack(weight))
    grad = torch.randn(2, 3, 12)
    found = autograd._input_gradient_on_gpu(grad, packed, 20)
    assert torch.allclose(found, autograd._input_gradient(grad, packed, 20), atol=1e-5)
    assert torch.allclose(found, grad @ weight, atol=1e-5)


def test_gradients_pass_packed_layers(gpu):
    if gpu != "cuda":
        pytest.skip("torch sends CPU tensors to the kernels of the CPU")
    model = pruned(gpu, torch.bfloat16)
    dense = copy.deepcopy(model)
    x = torch.randn(4, 128, device=gpu).bfloat16()
    prunus.accelerate_(model, x, min_speedup=0.0)
    assert isinstance(model[0], SparseLinear)
    grads = []
    for one in (dense, model):
        given = x.clone().requires_grad_()
        one(given).float().square().sum().backward()
        grads.append(given.grad.float())
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()
