"""The peer in an interpreter of its own, with a module in DeepSparse's place that computes with numpy."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench.cases import Layer
from bench.environment import versions
from bench.load import HELPERS, own_seconds
from bench.peers import Prepared
from bench.peers.elsewhere import VARIABLE, DeepSparse, Worker, look
from bench.problem import Problem, dense_weight, inputs, prune, relative_error
from bench.run import choose_peers
from bench.timing import Budget, interleave

TINY = Layer("test", "layer", 32, 16)
STUB = """
import onnx
import numpy as np

__version__ = "1.8.0"
print("a banner")

class Engine:
    def __init__(self, model, batch_size, num_cores):
        if num_cores != 1:
            raise ValueError("num_cores: no")
        constants = onnx.load(model).graph.initializer
        self.w, *self.b = map(onnx.numpy_helper.to_array, constants)
        self.batch_size = batch_size

    def run(self, inp, val_inp=True):
        assert len(inp[0]) == self.batch_size
        return [sum(self.b, inp[0] @ self.w)]

compile_model = Engine
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deepsparse.py"
    path.write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(VARIABLE, sys.executable)
    look.cache_clear()
    return path


def problem(m: int = 3, bias: bool = False, threads: int = 1) -> Problem:
    x, b = inputs(TINY, m)
    return Problem(prune(dense_weight(TINY), 0.5, "unstructured"), x, b if bias else None, None, threads)


def error_of(prepared: Prepared, reference: Problem) -> float:
    return relative_error(DeepSparse().to_numpy(prepared.call()), reference.reference())


def test_what_is_missing_is_said(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = DeepSparse()
    assert peer.missing() is None
    assert versions()["deepsparse"] == "1.8.0"
    stub.unlink()
    assert peer.missing() is None  # looked at once
    look.cache_clear()
    assert "No module named 'deepsparse'" in str(peer.missing())
    assert "deepsparse" not in versions()
    monkeypatch.setenv(VARIABLE, "/nowhere/python")
    assert peer.missing() == "/nowhere/python: No such file or directory"
    monkeypatch.delenv(VARIABLE)
    assert peer.missing() == f"{VARIABLE} not set"
    assert choose_peers(("torch", "deepsparse"), quick=False)[1] == [
        f"deepsparse: skipped, {VARIABLE} not set"
    ]


@pytest.mark.usefixtures("stub")
def test_it_runs_only_when_named() -> None:
    assert "deepsparse" not in [peer.name for peer in choose_peers(None, quick=False)[0]]
    assert [peer.name for peer in choose_peers(("deepsparse",), quick=False)[0]] == ["deepsparse"]


@pytest.mark.usefixtures("stub")
def test_answers_are_right_and_times_are_its_own() -> None:
    one, two = problem(1), problem(5, bias=True)
    first, second = DeepSparse().prepare(one), DeepSparse().prepare(two)
    assert len(HELPERS) == 1  # one child for both
    assert error_of(first, one) <= DeepSparse.tolerance
    assert error_of(second, two) <= DeepSparse.tolerance
    assert first.nbytes == 4 * np.count_nonzero(one.w)
    assert first.turn
    assert second.turn
    budget = Budget(rounds=3, turn=0.0, warm=0.0)
    for samples in interleave([[first.turn], [first.turn, second.turn]], budget):
        assert len(samples.seconds) == 3
        assert min(samples.seconds) > 0
    assert own_seconds() > 0


@pytest.mark.usefixtures("stub")
def test_the_child_ends_with_its_last_problem() -> None:
    first, second = DeepSparse().prepare(problem()), DeepSparse().prepare(problem())
    process = Worker.living[sys.executable].process
    del first
    assert process.poll() is None
    del second
    assert process.poll() is not None
    assert not HELPERS
    assert not Worker.living


@pytest.mark.usefixtures("stub")
def test_the_child_ends_when_nobody_is_left_to_ask() -> None:
    prepared = DeepSparse().prepare(problem())
    process = Worker.living[sys.executable].process
    process.communicate()  # closes its stdin, as our end would
    assert process.returncode == 0
    del prepared


@pytest.mark.usefixtures("stub")
def test_the_childs_error_is_told_and_the_next_problem_gets_a_new_child() -> None:
    with pytest.raises(RuntimeError, match=r"^deepsparse: ValueError: num_cores: no \(exit status 1\)$"):
        DeepSparse().prepare(problem(threads=2))
    good = DeepSparse().prepare(problem())
    assert error_of(good, problem()) <= DeepSparse.tolerance
    Worker.living[sys.executable].process.kill()
    with pytest.raises(RuntimeError, match=r"exit status -9"):
        good.call()
