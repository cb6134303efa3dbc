"""accelerate_ acts on the error of the model's outputs: it finds the layers to blame and says so."""

import copy
import math

import pytest
import torch
from model_zoo import sparse_
from torch import nn

from prunus import SparseLinear, accelerate_
from prunus.accelerate import race as race_module
from prunus.accelerate.answers import culprits, relative_error


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(race_module, "SECONDS", 0.0)


class Asks(nn.Module):
    """Its answer depends on what its child is, as forwards with an isinstance test do."""

    def __init__(self, wrong: float = 2.0) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32, bias=False)
        self.wrong = wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return y if isinstance(self.fc, nn.Linear) else y * self.wrong


def chain(*blocks: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return sparse_(
        nn.Sequential(nn.Linear(32, 32, bias=False), *blocks, nn.Linear(32, 32, bias=False)).eval(), 0.8
    )


@pytest.mark.parametrize("wrong", [2.0, math.nan, math.inf])
def test_a_layer_that_changes_the_answer_stays_dense(wrong: float) -> None:
    model = chain(Asks(1.0), Asks(wrong), Asks(1.0))
    dense = copy.deepcopy(model)
    x = torch.randn(4, 32)
    report = accelerate_(model, x, min_speedup=0.0)
    rows = {row["name"]: row for row in report.rows}
    assert [name for name, row in rows.items() if not row["converted"]] == ["2.fc"]
    assert rows["2.fc"]["reason"] == "the model's outputs change by more than 0.05 with it"
    assert report.summary["relative_error"] < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(model(x), dense(x))


def test_a_larger_bound_accepts_it_and_the_report_says_how_much() -> None:
    model = chain(Asks(1.1))
    report = accelerate_(model, torch.randn(4, 32), min_speedup=0.0, max_error=1.0)
    assert report.summary["converted"] == 3
    assert 0.01 < report.summary["relative_error"] < 1.0
    assert "outputs differ by" in str(report)


def test_layers_that_are_harmful_only_together_are_found() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Linear(32, 32, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.b(self.a(x))
            return -y if isinstance(self.a, SparseLinear) and isinstance(self.b, SparseLinear) else y

    model = chain(Both())
    report = accelerate_(model, torch.randn(4, 32), min_speedup=0.0)
    assert report.summary["relative_error"] < 1e-5
    assert report.summary["converted"] >= 2


def test_masked_outputs_are_compared_where_they_are_finite() -> None:
    y = torch.tensor([1.0, -math.inf, 2.0])
    assert relative_error([{"y": y}], [{"y": y.clone()}]) == 0.0
    assert relative_error([{"y": y}], [{"y": torch.tensor([1.0, math.inf, 2.0])}]) == math.inf
    assert relative_error([{"y": y}], [{"y": torch.tensor([1.0, math.nan, 2.0])}]) == math.inf
    assert relative_error([{"y": y}], [{"y": y[:2]}]) == math.inf
    assert relative_error([{"y": y}], [{}]) == math.inf
    assert 0 < relative_error([{"y": y}], [{"y": torch.tensor([1.0, -math.inf, 2.1])}]) < 0.1
    assert relative_error([{"y": torch.zeros(2)}], [{"y": torch.ones(2)}]) == math.inf
    assert relative_error([{"n": torch.tensor(3)}], [{"n": torch.tensor(4)}]) == math.inf


def test_culprits_by_bisection() -> None:
    def error_of(some: object) -> float:
        return 1.0 if {2, 7} & set(some) else 0.0

    assert culprits(range(10), error_of, 0.5) == [2, 7]
    assert culprits([], error_of, 0.5) == []


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "a"])
def test_a_bound_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="max_error: expected a finite number >= 0"):
        accelerate_(chain(), torch.randn(4, 32), max_error=bad)
