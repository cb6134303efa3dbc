"""What the pruning backend refuses on a device, in the sentences of the CPU; and its public door."""

import pytest
import torch
from places import DTYPES, Place, make, outcome
from torch import Tensor

import prunus
from prunus import NM, Block, Unstructured
from prunus._tools.arrays import as_tensor_on
from prunus.masks import selection


def with_nan(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    scores = torch.zeros(shape, dtype=dtype)
    scores.view(-1)[[shape[-1] + 3, scores.numel() - 2]] = torch.nan
    return scores


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_is_refused_in_the_same_sentence(place: Place, dtype: torch.dtype) -> None:
    scores, square = with_nan((20, 130), dtype), with_nan((130, 130), dtype)
    patterns = [
        Unstructured(0.5),
        Unstructured(0.0),
        Unstructured(1.0),
        NM(2, 10),
        NM(3, 130),
        Block((4, 4), 0.5),
    ]
    patterns += [Unstructured(s, scope) for s in (0.0, 0.5) for scope in ("row", "column")]
    for pattern in patterns:
        for view in (scores, square.t()):
            expected = outcome(prunus.select, view, pattern)
            assert "expected no NaN, got 2, the first at flat index" in expected[1]
            assert outcome(place.select, view, pattern) == expected
    both = [torch.zeros(3), scores]
    expected = outcome(prunus.select_global, both, 0.5)
    assert expected[1].startswith("scores[1]: expected no NaN")
    assert outcome(place.functions.select_global, [place.to(s) for s in both], 0.5) == expected
    assert place.select(torch.ones(3, dtype=dtype), Unstructured(0.0)).all()  # the next call starts afresh


def test_other_input_is_refused_in_the_same_sentence(place: Place) -> None:
    infinite = torch.zeros(4, 4)
    infinite[0, 0], infinite[0, 1] = torch.inf, -torch.inf
    bad = [
        (infinite, Block((2, 2), 0.5)),
        (torch.zeros(8, 12)[::2, ::2], Unstructured(0.5)),
        (torch.zeros(8, 12)[::2, ::2], NM(2, 3)),
        (torch.zeros(3, 4, 5).transpose(0, 2), Unstructured(0.5)),
        (torch.zeros(()), Unstructured(0.5)),
        (torch.zeros(8), Unstructured(0.5, "row")),
        (torch.zeros(2, 2, 4), NM(2, 4)),
        (torch.zeros(4, 30), NM(2, 4)),
        (torch.zeros(4, 4, dtype=torch.int64), Unstructured(0.5)),
        (torch.zeros(4, 4).to_sparse(), Unstructured(0.5)),
    ]
    for scores, pattern in bad:
        expected = outcome(prunus.select, scores, pattern)
        assert expected[0] == "ValueError"
        there = scores.to(place.device) if scores.is_sparse else place.to(scores)
        assert outcome(place.functions.select, there, pattern) == expected


def test_normalize_refuses_in_the_same_sentence(place: Place) -> None:
    for w, axis in ((torch.zeros(3), 1), (torch.zeros(4, 4), 2), (torch.zeros(8, 8)[::2, ::2], 1)):
        expected = outcome(prunus.normalize, w, axis)
        assert expected[0] == "ValueError"
        assert outcome(place.functions.normalize, place.to(w), axis) == expected


def test_apply_mask_refuses_in_the_same_sentence(place: Place) -> None:
    keep = torch.zeros(4, 6, dtype=torch.bool)
    bad = [
        (torch.ones(4, 6), keep.t()),
        (torch.ones(4, 6), keep.float()),
        (torch.ones(4, 6, requires_grad=True), keep),
        (torch.ones(1, 6).expand(4, 6), keep),
        (torch.ones(8, 12)[::2, ::2], keep),
        (torch.ones(4, 6, dtype=torch.int32), keep),
        (torch.ones(2, 2, 6), torch.zeros(2, 2, 12, dtype=torch.bool)[:, :, ::2]),
    ]
    for w, mask in bad:
        expected = outcome(prunus.apply_mask_, w, mask)
        assert expected[0] == "ValueError"
        there = place.to(w.detach()).requires_grad_(w.requires_grad)
        assert outcome(place.functions.apply_mask_, there, place.to(mask)) == expected
        assert (w == 1).all()


def test_another_device_is_refused() -> None:
    sentence = "mask: expected a tensor on cuda:0, got device cpu"
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        as_tensor_on(torch.zeros(1), "mask", "cuda:0")
    with pytest.raises(ValueError, match=r"^w: expected a tensor on cuda:0, got a numpy array$"):
        as_tensor_on(torch.zeros(1).numpy(), "w", "cuda:0")


def test_the_door_sends_cuda_tensors_to_the_device(
    host_library: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every public function asks `is_cuda` first; here the answer is made up and the host computes."""
    called = []
    monkeypatch.setattr(selection, "is_cuda", lambda value: isinstance(value, Tensor))
    monkeypatch.setattr(selection, "open_library", called.append)
    scores = make("normal", (8, 8), torch.float32)
    assert prunus.select(scores, NM(2, 4)).sum() == 32
    assert [int(mask.sum()) for mask in prunus.select_global([scores, scores], 0.5)] == [32, 32]
    torch.testing.assert_close(prunus.normalize(scores, 1).norm(dim=1), torch.ones(8))
    assert prunus.apply_mask_(scores, torch.zeros(8, 8, dtype=torch.bool)) is scores
    assert (scores == 0).all()
    assert called == ["scores", "scores[0]", "w", "w"]
