"""compare: the figures are right, whatever the outputs look like."""

import copy

import pytest
import torch
from model_zoo import IDS, tiny
from small_models import Sizes, build
from torch import nn

from prunus import SparseLinear, accelerate_, compare
from prunus._tools.running import module_bytes
from prunus.accelerate import race as race_module
from prunus.report import comparison as compare_module


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(compare_module, "SECONDS", 0.0)
    monkeypatch.setattr(race_module, "SECONDS", 0.0)


class Const(nn.Module):
    """Returns what it was given at construction, whatever comes in."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *_, **__):
        return self.output


def test_a_model_against_itself_and_its_accelerated_form():
    model = tiny()
    same = compare(model, model, IDS).summary
    assert same["relative_error"] == 0
    assert same["cosine"] == pytest.approx(1.0)
    assert same["bytes_before"] == same["bytes_after"] == module_bytes(model)
    fast = copy.deepcopy(model)
    accelerate_(fast, IDS, min_speedup=0)
    report = compare(model, fast, [IDS, {"ids": IDS}])
    assert report.summary["relative_error"] < 1e-5
    assert report.summary["bytes_after"] < report.summary["bytes_before"]
    assert report.summary["batches"] == 2
    assert report.summary["ms_before"] > 0
    assert report.summary["speedup"] == report.summary["ms_before"] / report.summary["ms_after"]
    text = str(report)
    for word in ("time, ms", "spread, ms", "size, MB", "hidden", "logits", "the bytes"):
        assert word in text


def test_relative_error_and_cosine_by_hand():
    before, after = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [2.0, 0.0]])
    summary = compare(Const(before), Const(after), IDS).summary
    assert summary["cosine"] == pytest.approx(0.5)
    assert summary["relative_error"] == pytest.approx((8 / 29) ** 0.5)
    zero = torch.zeros(2, 2)
    assert compare(Const(zero), Const(zero), IDS).summary["cosine"] == 1.0
    assert compare(Const(zero), Const(zero), IDS).summary["relative_error"] == 0.0
    assert compare(Const(zero), Const(after), IDS).summary["relative_error"] == float("inf")


def test_outputs_of_any_nesting():
    out = {
        "a": torch.ones(2, 3),
        "b": (torch.ones(2, 3), [torch.ones(4), torch.arange(3)]),
        "c": None,
        "d": 5,
    }
    rows = compare(Const(out), Const(copy.deepcopy(out)), IDS).rows
    assert [row["figure"] for row in rows if "cosine" in row] == ["a", "b.0", "b.1.0"]


def test_padding_is_left_out():
    before = torch.randn(2, 3, 4)
    after = before.clone()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    after[mask == 0] = 100.0
    batch = {"attention_mask": mask}
    assert compare(Const(before), Const(after), batch).summary["relative_error"] == 0
    assert compare(Const(before), Const(after), {"other": mask}).summary["relative_error"] > 1


def test_batch_encoding_and_model_output():
    model = build("bert", Sizes(vocabulary=20, layers=1)).train()
    inputs = {"input_ids": IDS[:2] % 20, "attention_mask": torch.ones(2, 15, dtype=torch.long)}
    report = compare(model, model, inputs)
    # Dropout would show: both ran in evaluation mode, and the flag came back.
    assert report.summary["relative_error"] == 0
    assert model.training
    assert [row["figure"] for row in report.rows][3:] == ["last_hidden_state", "pooler_output"]


def test_bytes_count_shared_tensors_once_and_packed_ones_as_they_are():
    model = tiny()
    plain = 4 * (50 * 64 + 128 * 64 + 128 + 128 * 64 + 64 + 64 * 64 + 2 * 64) + 8
    assert module_bytes(model) == plain
    layer = SparseLinear.from_linear(model.up)
    assert module_bytes(layer) == layer.packed.numel() + 4 * 128


@pytest.mark.parametrize(
    ("before", "after", "inputs", "error", "sentence"),
    [
        (None, nn.ReLU(), IDS, TypeError, "before: expected a torch.nn.Module, got NoneType"),
        (nn.ReLU(), 3, IDS, TypeError, "after: expected a torch.nn.Module, got int"),
        (nn.ReLU(), nn.ReLU(), None, TypeError, "inputs: expected a tensor"),
        (Const(None), nn.ReLU(), IDS, ValueError, "before: expected a model with floating-point outputs"),
        (
            Const({"a": torch.ones(1)}),
            Const({"b": torch.ones(1)}),
            IDS,
            ValueError,
            r"after: expected the outputs \['a'\], got \['b'\]",
        ),
        (
            Const(torch.ones(2, 3)),
            Const(torch.ones(3, 2)),
            IDS,
            ValueError,
            r"after: expected output output of shape \(2, 3\), got \(3, 2\)",
        ),
    ],
)
def test_bad_arguments(before, after, inputs, error, sentence):
    with pytest.raises(error, match=sentence):
        compare(before, after, inputs)
