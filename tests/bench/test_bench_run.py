"""One tiny run through the whole suite: peers prepared, answers checked, records written."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from bench.cases import Layer
from bench.peers import PEERS, Prepared
from bench.peers.base import Peer
from bench.problem import Problem, dense_weight, inputs, prune, relative_error
from bench.records import read
from bench.roofline import best, measure
from bench.run import choose_peers, run

TINY = Layer("test", "layer", 32, 16)


# torch calls CSR a beta feature and will drop quantised tensors.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("peer", [p for p in PEERS if not p.slow], ids=lambda p: p.name)
@pytest.mark.parametrize("m", [1, 5])
def test_every_installed_peer_is_right(peer: Peer, m: int) -> None:
    if peer.missing():
        assert peer.name != "torch"
        assert peer.missing()  # says in words what is missing
        return
    pattern = peer.patterns[0] if peer.patterns else "unstructured"
    x, _ = inputs(TINY, m)
    problem = Problem(prune(dense_weight(TINY), 0.5, pattern), x, None, None, 1)
    prepared = peer.prepare(problem)
    assert isinstance(prepared, Prepared)
    assert relative_error(peer.to_numpy(prepared.call()), problem.reference()) <= peer.tolerance
    assert prepared.nbytes > 0


@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.7), ("4x4", 0.5), ("2:4", 0.5)])
def test_prune_makes_the_pattern(pattern: str, sparsity: float) -> None:
    w = prune(dense_weight(Layer("test", "layer", 32, 40)), sparsity, pattern)
    assert np.mean(w == 0) == pytest.approx(sparsity)
    if pattern == "2:4":
        assert np.all(np.count_nonzero(w.reshape(-1, 4), axis=1) == 2)
    if pattern == "4x4":
        kept = np.count_nonzero(w.reshape(8, 4, 10, 4), axis=(1, 3))
        assert set(np.unique(kept)) == {0, 16}


def test_unknown_peer_and_suite_are_named() -> None:
    with pytest.raises(ValueError, match=r"peers: expected names of .* got nonsense"):
        choose_peers(("nonsense",), quick=False)


def test_roofline_is_measured() -> None:
    one, two = measure((1, 2), megabytes=8)
    assert one["record"] == "roofline"
    assert (one["threads"], two["threads"]) == (1, 2)
    assert min(one["gflops"], one["read_gbs"], one["copy_gbs"]) > 0
    assert best([{**one, "gflops": 1.0}], [{**one, "gflops": 2.0}])[0]["gflops"] == 2.0


def test_run_writes_a_file_and_checks_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run.measure", lambda threads: [])
    args = argparse.Namespace(
        suites=["encoder"], quick=True, shapes=((32, 48),), m=(3,), threads=(1,), sparsity=(0.5,),
        peers=("torch", "numpy", "prunus"), rounds=2, out=tmp_path / "run.jsonl",
    )  # fmt: skip
    assert run(args, unset=[]) == 0
    records = read(args.out)
    assert records[0]["record"] == "run"
    assert {"cpu", "isa", "versions", "commit", "blas"} <= set(records[0])
    linear = [r for r in records if r["record"] == "linear"]
    assert [r["peer"] for r in linear] == ["torch", "numpy", "prunus"]
    assert all(r["ok"] and r["samples"] == 2 for r in linear)
    assert "speed against torch fp32" in capsys.readouterr().out
