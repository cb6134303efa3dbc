"""What only a GPU can show of the pruning backend: sizes, streams, graphs, and that nothing waits."""

import pytest
import torch

import prunus
from prunus import NM, Block, Unstructured

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PATTERNS = [
    Unstructured(0.5),
    Unstructured(0.9),
    Unstructured(0.5, "row"),
    Unstructured(0.5, "column"),
    NM(2, 4),
    NM(10, 32),
    Block((4, 4), 0.5),
    Block((16, 16), 0.8),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_large_masks_equal_the_cpus(kind: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(4096, 4096, generator=generator)
    scores = (scores * 4).round().to(dtype) if kind == "ties" else scores.to(dtype)
    there = scores.cuda()
    for pattern in PATTERNS:
        assert torch.equal(prunus.select(there, pattern).cpu(), prunus.select(scores, pattern)), pattern
    few = [scores[:100], scores[100:3000].double(), scores[3000:]]
    on_device = prunus.select_global([s.cuda() for s in few], 0.6)
    for mask, expected in zip(on_device, prunus.select_global(few, 0.6), strict=True):
        assert torch.equal(mask.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_large_norms_have_the_bits_of_the_cpu(axis: int, dtype: torch.dtype) -> None:
    w = torch.randn(4096, 1031, generator=torch.Generator().manual_seed(6)).to(dtype)
    assert torch.equal(prunus.normalize(w.cuda(), axis).cpu(), prunus.normalize(w, axis))
    mask = prunus.select(w, Unstructured(0.5))
    assert torch.equal(prunus.apply_mask_(w.cuda(), mask.cuda()).cpu(), prunus.apply_mask_(w, mask))


def test_nothing_waits_but_the_question_for_nan() -> None:
    w = torch.randn(512, 512, device="cuda")
    mask = prunus.select(w, NM(2, 4))
    torch.cuda.set_sync_debug_mode("error")
    try:
        prunus.normalize(w, 0)
        prunus.normalize(w, 1)
        prunus.apply_mask_(w, mask)
        with pytest.raises(RuntimeError, match="synchron"):
            prunus.select(w, Unstructured(0.5))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (w == 0).sum() == w.numel() // 2


def test_the_work_goes_to_the_current_stream() -> None:
    """On a stream that has to wait, what comes first is seen."""
    stream, expected = torch.cuda.Stream(), torch.rand(2048, 2048) + 1
    source, w = expected.cuda(), torch.zeros(2048, 2048, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        w.copy_(source)
        mask = prunus.select(w, Unstructured(0.5))
        unit = prunus.normalize(w, 1)
    stream.synchronize()
    assert torch.equal(mask.cpu(), prunus.select(expected, Unstructured(0.5)))
    assert torch.equal(unit.cpu(), prunus.normalize(expected, 1))


def test_a_graph_captures_norms_and_masks() -> None:
    w, mask = torch.randn(64, 128, device="cuda"), torch.rand(64, 128, device="cuda") > 0.5
    other = torch.randn(64, 128)
    graph = torch.cuda.CUDAGraph()
    prunus.normalize(w, 1)  # opens the library
    with torch.cuda.graph(graph):
        unit = prunus.normalize(w, 1)
        prunus.apply_mask_(unit, mask)
    w.copy_(other)
    graph.replay()
    assert torch.equal(unit.cpu(), prunus.apply_mask_(prunus.normalize(other, 1), mask.cpu()))


def test_tensors_on_different_devices_are_refused() -> None:
    w, mask = torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^mask: expected a tensor on cuda:0, got device cpu$"):
        prunus.apply_mask_(w.cuda(), mask)
    with pytest.raises(ValueError, match=r"^mask: expected a CPU tensor, got device cuda:0$"):
        prunus.apply_mask_(w, mask.cuda())
    with pytest.raises(ValueError, match=r"^scores\[1\]: expected a tensor on cuda:0, got device cpu$"):
        prunus.select_global([w.cuda(), w], 0.5)
    with pytest.raises(ValueError, match=r"^scores\[1\]: expected a CPU tensor, got device cuda:0$"):
        prunus.select_global([w, w.cuda()], 0.5)
    with pytest.raises(ValueError, match=r"^scores\[1\]: expected a tensor on cuda:0, got a numpy array$"):
        prunus.select_global([w.cuda(), w.numpy()], 0.5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_tensor_computes() -> None:
    w = torch.randn(300, 300)
    there = w.to("cuda:1")
    assert torch.equal(prunus.select(there, Unstructured(0.5)).cpu(), prunus.select(w, Unstructured(0.5)))
    assert prunus.normalize(there, 1).device == there.device
