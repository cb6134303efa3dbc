"""The suite of training steps: answers are looked at, and the table says what was measured."""

import pytest

from bench.problem import prune
from bench.tables import training_tables
from bench.timing import QUICK
from bench.training import GRADIENT, STEP, contests, run_training

pytest.importorskip("torch")


def test_steps_and_gradients_of_all_peers_are_right() -> None:
    said: list[str] = []
    records = list(run_training((64, 96), 32, 1, (0.5, 0.9), QUICK, said.append))
    assert said == []
    assert all(r["ok"] for r in records)
    peers = ["torch", "torch-bf16", "prunus", "prunus-bf16"]
    assert [(r["what"], r["peer"]) for r in records[:8]] == [(w, p) for w in (STEP, GRADIENT) for p in peers]
    tables = training_tables(records)
    assert [row[0] for row in tables[0].rows] == peers
    assert tables[0].columns == ["peer", "50 %", "90 %"]
    one = records[2]
    assert one["gflops"] == pytest.approx(6e-3 * 3072 * 32 / one["median_us"])


def test_a_wrong_gradient_is_noticed() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    w = prune(rng.standard_normal((16, 24), dtype=np.float32), 0.5, "unstructured")
    x, bias = rng.standard_normal((8, 24), dtype=np.float32), np.zeros(16, np.float32)
    ours = contests(w, x, bias)[STEP][2]
    answers = list(ours.call())
    assert ours.right(answers)
    answers[2] = answers[2] * 1.01
    assert not ours.right(answers)
