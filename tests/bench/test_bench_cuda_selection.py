"""The cases of the selection bench on a GPU; here with small CPU tensors, which the same calls take."""

import pytest
import torch

from bench import cuda_selection
from bench.cuda_selection import CASES, separates


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("dtype", cuda_selection.DTYPES, ids=str)
def test_every_peer_answers_rightly(what: str, dtype: torch.dtype) -> None:
    t = torch.randn(32, 48, generator=torch.Generator().manual_seed(1)).abs().to(dtype)
    for one in CASES[what](t):
        assert one.right(one.call()), one.peer


def test_a_wrong_mask_is_seen() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert separates(scores, torch.tensor([[False, False], [True, True]]))
    assert not separates(scores, torch.tensor([[True, False], [True, False]]))
    assert separates(scores, torch.tensor([[False, True], [False, True]]), 1)
    assert not separates(scores, torch.tensor([[False, True], [True, False]]), 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="would take minutes")
def test_without_a_device_it_says_so(tmp_path, capsys) -> None:
    assert cuda_selection.main([str(tmp_path / "out.jsonl")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
