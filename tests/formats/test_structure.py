"""What pack() finds in a mask: N:M groups, blocks, or nothing."""

import numpy as np
import pytest

import prunus
from prunus import NM, Block, Unstructured, _core

NMS = [(1, 2), (2, 4), (1, 4), (3, 5), (4, 8), (1, 8), (7, 12), (2, 16)]
BLOCKS = [(4, 1), (4, 4), (8, 1), (16, 1), (32, 1), (16, 16)]
FLAT_BLOCKS = [(1, 4), (2, 2), (2, 1), (1, 16)]  # on request: col8 and the bitmap are as fast


def pruned(rng, n, k, pattern):
    whole = k + -k % pattern.m if isinstance(pattern, NM) else k  # select wants whole groups
    w = rng.standard_normal((n, whole)).astype(np.float32)
    return np.ascontiguousarray((w * prunus.select(np.abs(w), pattern))[:, :k])


def found(p):
    return (p.format, _core.packed_info(p.buffer)["unit"])


@pytest.mark.parametrize("nm", NMS, ids=str)
@pytest.mark.parametrize("k", [240, 239, 97])
def test_nm_is_found_with_its_n_and_m(rng, nm, k):
    w = pruned(rng, 90, k, NM(*nm))
    p = prunus.pack(w)
    assert found(p) == ("nm", nm)
    np.testing.assert_array_equal(p.to_dense(), w)
    prunus.PackedWeight.from_buffer(p.buffer)


@pytest.mark.parametrize("shape", BLOCKS, ids=str)
@pytest.mark.parametrize("n", [320, 301])
def test_blocks_are_found_with_their_shape(rng, shape, n):
    w = pruned(rng, n, 642, Block(shape, 0.8))
    p = prunus.pack(w)
    assert found(p) == ("block", shape)
    np.testing.assert_array_equal(p.to_dense(), w)
    prunus.PackedWeight.from_buffer(p.buffer)


@pytest.mark.parametrize("shape", FLAT_BLOCKS, ids=str)
def test_flat_blocks_are_found_on_request(rng, shape):
    w = pruned(rng, 301, 642, Block(shape, 0.8))
    assert prunus.pack(w).format == "col8"
    p = prunus.pack(w, format="block")
    assert found(p) == ("block", shape)
    np.testing.assert_array_equal(p.to_dense(), w)


def test_a_larger_block_is_one_of_the_largest_that_a_kernel_has(rng):
    assert found(prunus.pack(pruned(rng, 384, 480, Block((64, 32), 0.8)))) == ("block", (32, 16))
    assert found(prunus.pack(pruned(rng, 384, 480, Block((12, 3), 0.8)))) == ("block", (4, 1))


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.75, 0.9, 0.99])
def test_unstructured_weights_are_left_to_the_others(rng, sparsity):
    assert prunus.pack(pruned(rng, 256, 512, Unstructured(sparsity))).format in ("col8", "bitmap")


def test_some_zeros_in_kept_places_do_not_hide_the_structure(rng):
    for pattern, format in [(NM(2, 4), "nm"), (Block((4, 4), 0.7), "block")]:
        w = pruned(rng, 128, 256, pattern) * (rng.random((128, 256)) < 0.97)
        p = prunus.pack(w)
        assert p.format == format
        assert p.nnz == np.count_nonzero(w)
        np.testing.assert_array_equal(p.to_dense(), w)


def test_one_group_that_is_too_full_hides_nm(rng):
    w = pruned(rng, 512, 256, NM(2, 4))
    w[300, 100:104] = 1
    assert prunus.pack(w).format == "bitmap"
    with pytest.raises(ValueError, match=r"format: expected fewer than m nonzeros .* for 'nm', got"):
        prunus.pack(w, format="nm")


def test_the_mask_decides_not_the_weight(rng):
    w = rng.standard_normal((64, 64)).astype(np.float32)
    mask = prunus.select(np.abs(w), NM(1, 4))
    assert found(prunus.pack(w, mask)) == ("nm", (1, 4))


def test_formats_that_do_not_fit_are_refused_with_a_sentence(rng):
    w = pruned(rng, 64, 64, Unstructured(0.98))
    with pytest.raises(ValueError, match=r"format: expected nonzeros that fill .* for 'block'"):
        prunus.pack(w, format="block")
    with pytest.raises(ValueError, match=r"format: expected fewer than m nonzeros .* for 'nm'"):
        prunus.pack(np.ones((4, 32), np.float32), format="nm")


def test_bytes_per_weight(rng):
    """2 values and 2 positions of 2 bits for 4 weights; a column byte for 16 values of a block."""
    assert prunus.pack(pruned(rng, 768, 768, NM(2, 4))).nbytes / 768**2 < 2.14
    p = prunus.pack(pruned(rng, 768, 768, Block((4, 4), 0.9)))
    assert p.nbytes / p.nnz < 4.2


def test_a_unit_that_does_not_fit_its_tiles_is_refused(rng):
    good = prunus.pack(pruned(rng, 64, 64, NM(2, 4))).buffer
    for at, value in [(44, 0), (44, 4), (46, 17), (46, 5), (7, 2)]:
        buffer = good.copy()
        buffer[at] = value
        hash_ = 2166136261
        for byte in buffer[:60]:
            hash_ = (hash_ ^ int(byte)) * 16777619 % 2**32
        buffer[60:64] = np.frombuffer(hash_.to_bytes(4, "little"), np.uint8)
        with pytest.raises(prunus.FormatError, match=r"packed\.(unit|holes)"):
            prunus.PackedWeight.from_buffer(buffer)
