"""Every refusal is one sentence, the same for numpy and torch, and nothing is changed."""

import numpy as np
import pytest
import torch

from prunus import NM, Block, Unstructured, apply_mask_, normalize, select

KINDS = [np.asarray, torch.from_numpy]
HALF = Unstructured(0.5)
FLOATS = "float32, float64, float16 or bfloat16"


def refuses(error, sentence, fn, *args):
    with pytest.raises(error) as caught:
        fn(*args)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("kind", KINDS, ids=["numpy", "torch"])
class TestBothKinds:
    @pytest.mark.parametrize("name", ["int64", "bool", "uint8", "complex64"])
    def test_dtype(self, kind, name):
        refuses(
            ValueError, f"scores: expected {FLOATS}, got {name}", select, kind(np.zeros((4, 4), name)), HALF
        )
        refuses(ValueError, f"w: expected {FLOATS}, got {name}", normalize, kind(np.zeros((4, 4), name)), 1)
        w = kind(np.zeros((4, 4), name))
        refuses(ValueError, f"w: expected {FLOATS}, got {name}", apply_mask_, w, kind(np.zeros((4, 4), bool)))

    def test_nan(self, kind):
        scores = np.zeros((100, 100), np.float32)
        scores[3, 7] = scores[50, 1] = np.nan
        for pattern in (
            HALF,
            Unstructured(0.0),
            Unstructured(1.0),
            Unstructured(0.5, "row"),
            NM(2, 4),
            NM(3, 100),
        ):
            sentence = "scores: expected no NaN, got 2, the first at flat index 307"
            refuses(ValueError, sentence, select, kind(scores), pattern)
            sentence = "scores: expected no NaN, got 2, the first at flat index 150"
            refuses(ValueError, sentence, select, kind(scores).T, pattern)
        for pattern in (Unstructured(0.5, "column"), Block((4, 4), 0.5)):
            sentence = "scores: expected no NaN, got 2, the first at flat index 307"
            refuses(ValueError, sentence, select, kind(scores), pattern)
        large = np.zeros((700, 701), np.float64)
        large[699, 700] = -np.nan
        sentence = "scores: expected no NaN, got 1, the first at flat index 490699"
        refuses(ValueError, sentence, select, kind(large), HALF)

    def test_blocks_without_a_sum(self, kind):
        scores = np.zeros((4, 4), np.float32)
        scores[0, 0], scores[0, 1] = np.inf, -np.inf
        sentence = "scores: expected blocks with a sum, got one that holds both inf and -inf"
        refuses(ValueError, sentence, select, kind(scores), Block((2, 2), 0.5))

    def test_dimensions(self, kind):
        refuses(ValueError, "scores: expected at least 1 dimension, got 0", select, kind(np.zeros(())), HALF)
        for pattern in (Unstructured(0.5, "row"), Unstructured(0.5, "column"), NM(2, 4), Block((2, 2), 0.5)):
            for shape in ((8,), (2, 4, 8), ()):
                sentence = f"scores: expected 2 dimensions (n, k), got {len(shape)}"
                refuses(ValueError, sentence, select, kind(np.zeros(shape)), pattern)
        refuses(ValueError, "w: expected 2 dimensions (n, k), got 1", normalize, kind(np.zeros(3)), 1)
        sentence = "w: expected at least 1 dimension, got 0"
        refuses(ValueError, sentence, apply_mask_, kind(np.zeros(())), kind(np.zeros((), bool)))

    def test_nm_must_divide(self, kind):
        sentence = "scores: expected rows of a multiple of m = 4 entries, got 30"
        refuses(ValueError, sentence, select, kind(np.zeros((4, 30))), NM(2, 4))
        refuses(ValueError, sentence, select, kind(np.zeros((30, 4))).T, NM(2, 4))

    def test_pattern(self, kind):
        scores = kind(np.zeros((4, 4)))
        refuses(TypeError, "pattern: expected Unstructured, NM or Block, got float", select, scores, 0.5)
        sentence = "pattern: expected scope tensor, row or column, got model (see select_global)"
        refuses(ValueError, sentence, select, scores, Unstructured(0.5, "model"))

    def test_axis(self, kind):
        w = kind(np.zeros((4, 4)))
        refuses(ValueError, "axis: expected 0 (columns) or 1 (rows), got 2", normalize, w, 2)
        refuses(ValueError, "axis: expected 0 (columns) or 1 (rows), got -1", normalize, w, -1)
        refuses(TypeError, "axis: expected an integer, got float", normalize, w, 1.0)
        refuses(TypeError, "axis: expected an integer, got bool", normalize, w, True)

    def test_mask(self, kind):
        w = kind(np.ones((4, 6)))
        refuses(
            ValueError,
            "mask: expected shape (4, 6), got (6, 4)",
            apply_mask_,
            w,
            kind(np.zeros((6, 4), bool)),
        )
        refuses(
            ValueError, "mask: expected shape (4, 6), got (24,)", apply_mask_, w, kind(np.zeros(24, bool))
        )
        refuses(
            ValueError, "mask: expected bool, got uint8", apply_mask_, w, kind(np.zeros((4, 6), np.uint8))
        )
        refuses(ValueError, "mask: expected bool, got float64", apply_mask_, w, kind(np.zeros((4, 6))))
        refuses(
            TypeError, "mask: expected a numpy array or a torch tensor, got list", apply_mask_, w, [[True]]
        )
        assert (np.asarray(w) == 1).all()

    def test_scattered_strides(self, kind):
        scores = kind(np.zeros((8, 12)))[::2, ::2]
        sentence = (
            "scores: expected contiguous memory, or a matrix with contiguous rows or columns, "
            "got byte strides (192, 16)"
        )
        for pattern in (HALF, Unstructured(0.5, "row"), NM(2, 3), Block((2, 2), 0.5)):
            refuses(ValueError, sentence, select, scores, pattern)
        refuses(ValueError, sentence.replace("scores", "w"), normalize, scores, 1)
        mask = np.zeros((4, 6), bool)
        refuses(ValueError, sentence.replace("scores", "w"), apply_mask_, scores, mask)

    def test_overlapping_memory_is_not_written(self, kind):
        base = kind(np.zeros((1, 6)))
        w = np.broadcast_to(base, (4, 6)) if isinstance(base, np.ndarray) else base.expand(4, 6)
        if isinstance(w, np.ndarray):
            w = np.lib.stride_tricks.as_strided(base, (4, 6), (0, 8))
        sentence = "w: expected memory of its own for every element, got overlapping strides (0, 1)"
        refuses(ValueError, sentence, apply_mask_, w, np.zeros((4, 6), bool))


@pytest.mark.parametrize(
    "value", [[[1.0, 2.0]], 1.0, None, "w", np.float32(1), np.ma.ones((2, 2))], ids=lambda v: type(v).__name__
)
def test_other_kinds(value):
    name = type(value).__name__
    sentence = f"expected a numpy array or a torch tensor, got {name}"
    refuses(TypeError, f"scores: {sentence}", select, value, HALF)
    refuses(TypeError, f"w: {sentence}", normalize, value, 1)
    refuses(TypeError, f"w: {sentence}", apply_mask_, value, np.ones(2, bool))


def test_read_only_numpy():
    w = np.ones((2, 2))
    w.flags.writeable = False
    refuses(
        ValueError,
        "w: expected a writable array, got a read-only one",
        apply_mask_,
        w,
        np.zeros((2, 2), bool),
    )
    assert select(w, HALF).sum() == 2  # reading is fine
    assert w.sum() == 4


def test_foreign_byte_order():
    w = np.ones((2, 2), ">f4")
    refuses(ValueError, "scores: expected native byte order, got >f4", select, w, HALF)


def test_tensor_that_requires_grad():
    w = torch.ones(2, 2, requires_grad=True)
    mask = torch.zeros(2, 2, dtype=torch.bool)
    sentence = (
        "w: expected a tensor that does not require grad, got one that does (w.detach() is the same memory)"
    )
    refuses(ValueError, sentence, apply_mask_, w, mask)
    assert select(w, HALF).sum() == 2
    assert not normalize(w, 1).requires_grad
    apply_mask_(w.detach(), mask)
    assert w.sum() == 0


def test_other_devices_and_layouts():
    refuses(
        ValueError,
        "scores: expected a CPU tensor, got device meta",
        select,
        torch.ones(2, 2, device="meta"),
        HALF,
    )
    sparse = torch.ones(2, 2).to_sparse()
    refuses(ValueError, "scores: expected a dense tensor, got layout torch.sparse_coo", select, sparse, HALF)
