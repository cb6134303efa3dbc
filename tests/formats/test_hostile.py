"""Bytes that somebody meant to harm: the header's sum is right, but its fields or the payload are not.

Before, each of these crashed the process, ran for minutes, or spread NaN into rows whose weight is zero.
"""

import importlib.util
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import prunus
from prunus import _core
from prunus.packed import DTYPES, FLOAT_FORMATS, FORMATS

# Offset and type of the header's fields (csrc/formats/packed.h).
FIELDS = {
    "format": (5, "<u1"),
    "dtype": (6, "<u1"),
    "holes": (7, "<u1"),
    "n": (8, "<u8"),
    "k": (16, "<u8"),
    "nnz": (24, "<u8"),
    "tile_rows": (40, "<u2"),
    "tile_cols": (42, "<u2"),
    "unit_rows": (44, "<u2"),
    "unit_cols": (46, "<u2"),
}
HEADER = 64


def resealed(buffer: np.ndarray, **fields: int) -> np.ndarray:
    """A copy with other fields and the sum that a header with them has."""
    out = buffer.copy()
    for name, value in fields.items():
        at, kind = FIELDS[name]
        out[at : at + np.dtype(kind).itemsize] = np.frombuffer(np.array([value], kind).tobytes(), np.uint8)
    total = 2166136261
    for byte in out[: HEADER - 4].tolist():
        total = (total ^ byte) * 16777619 & 0xFFFFFFFF
    out[HEADER - 4 : HEADER] = np.frombuffer(np.array([total], "<u4").tobytes(), np.uint8)
    return out


def small(fit, format: str, dtype: str | None = None, n: int = 40, k: int = 52) -> np.ndarray:
    dtype = dtype or ("int8" if format == "dot" else "float32")
    rng = np.random.default_rng(3)
    w = rng.standard_normal((n, k)).astype(np.float32) * (rng.random((n, k)) < 0.4)
    return prunus.pack(fit(w, format), dtype=dtype, format=format).buffer


def multiply(buffer: np.ndarray, m: int = 1) -> np.ndarray:
    """The door of numpy; FormatError or an answer."""
    p = object.__new__(prunus.PackedWeight)
    p.buffer = buffer
    k = int(_core.packed_info(buffer)["k"])
    return prunus.linear(np.ones((m, k), np.float32), p)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tile_cols", [0, 65, 128, 241, 255, 256, 300, 65535]),
        ("tile_rows", [0, 4, 12, 264, 65528, 65535]),
        ("unit_rows", [3, 5, 17, 33, 64, 65535]),
        ("unit_cols", [3, 5, 17, 32, 255, 65535]),
        ("holes", [2, 255]),
        ("n", [2**31, 2**40, 2**63, 2**64 - 1]),
        ("k", [2**31, 2**40, 2**63, 2**64 - 1]),
        ("nnz", [40 * 52 + 1, 2**63]),
        ("format", [0, 9, 255]),
        ("dtype", [2, 9, 255]),
    ],
)
def test_every_field_is_proved_where_the_header_is_read(fit, format, field, values):
    buffer = small(fit, format)
    for value in values:
        wide = {"dot": 65536, "bitmap": 65, "warp": 40961}.get(format, 256)
        if (field == "tile_cols" and 0 < value < wide) or (field, format, value) == ("unit_rows", "nm", 3):
            continue  # one that this format may have: what follows from it is for the other doors
        with pytest.raises(prunus.FormatError, match=r"^packed\."):
            _core.packed_info(resealed(buffer, **{field: value}))


@pytest.mark.parametrize("rows", [2, 8])
def test_a_dot_block_of_a_height_that_no_kernel_has_is_refused_by_every_door(fit, rows):
    """Kernels take four rows at a time: two more would be read and summed behind the last group."""
    buffer = resealed(small(fit, "dot"), unit_rows=rows)
    for door in (_core.packed_info, _core.unpack, prunus.PackedWeight.from_buffer, multiply):
        with pytest.raises(prunus.FormatError, match=r"packed\.unit"):
            door(buffer)


@pytest.mark.parametrize("cols", [65, 128, 255])
def test_a_bitmap_wider_than_a_word_is_refused_by_every_door(fit, cols):
    buffer = resealed(small(fit, "bitmap", k=64), tile_cols=cols)
    for door in (_core.packed_info, _core.unpack, prunus.PackedWeight.from_buffer, multiply):
        with pytest.raises(prunus.FormatError, match=r"packed\.tile"):
            door(buffer)


@pytest.mark.parametrize("n", [2**40, 2**31 - 1])
def test_rows_without_columns_cost_nothing(n):
    header = resealed(prunus.pack(np.zeros((1, 0), np.float32)).buffer, n=n)
    assert header.size == 72
    if n < 2**31:
        assert prunus.PackedWeight.from_buffer(header).to_dense().shape == (n, 0)
        return
    with pytest.raises(prunus.FormatError, match=r"packed\.shape"):
        prunus.PackedWeight.from_buffer(header)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_damaged_payloads_are_refused_or_give_a_wrong_answer(isa, fit, format, dtype):
    """No crash: offsets are proved in every call, and every index that bytes can hold has its room."""
    multiply_damaged(small(fit, format, dtype))


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_damaged_dot_payloads_too(dot_isa, fit, dtype):
    multiply_damaged(small(fit, "dot", dtype))


def multiply_damaged(buffer: np.ndarray) -> None:
    rng = np.random.default_rng(11)
    for _ in range(150):
        bad = buffer.copy()
        at = rng.integers(HEADER, bad.size, rng.integers(1, 9))
        bad[at] = rng.choice([0, 1, 127, 128, 254, 255], at.size)
        for m in (1, 2, 4, 9, 64):
            with suppress(prunus.FormatError):
                assert multiply(bad, m).shape == (m, 40)
        with suppress(prunus.FormatError):
            _core.unpack(bad)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("threads_to_use", [1, 3])
def test_damage_found_while_unpacking_is_an_error_not_the_end(fit, format, threads_to_use, set_threads):
    """What `read` throws in a parallel region comes out of it."""
    set_threads(threads_to_use)
    buffer = small(fit, format, n=600, k=500)
    refused = 0
    for seed in range(20):
        bad = buffer.copy()
        rng = np.random.default_rng(seed)
        begin = int(np.frombuffer(bad[HEADER : HEADER + 8].tobytes(), "<u8")[0]) + HEADER
        bad[rng.integers(begin, bad.size, 40)] = 255
        try:
            _core.unpack(bad)
        except prunus.FormatError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("format", ["nm", "block"])
def test_a_cleared_flag_of_holes_is_refused(fit, format):
    w = np.tile(np.array([[1, 2, 0, 0], [3, 4, 0, 0]], np.float32), (8, 8))
    w[0, 1] = 0
    buffer = prunus.pack(w, format=format).buffer
    assert buffer[FIELDS["holes"][0]] == 1
    with pytest.raises(prunus.FormatError, match=r"packed\.holes"):
        prunus.PackedWeight.from_buffer(resealed(buffer, holes=0))


def test_the_fuzzing_program_runs() -> None:
    """Its seeds follow the formats; `.ci/sanitize` runs it for longer."""
    program = Path(__file__).resolve().parents[1] / "fuzz/run.py"
    done = subprocess.run(
        [sys.executable, program, "--seconds", "3"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no fault") == 4


def test_fuzzing_begins_with_every_kind_of_dot_block() -> None:
    spec = importlib.util.spec_from_file_location("fuzz_run", Path(__file__).parents[1] / "fuzz/run.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    infos = [_core.packed_info(seed) for seed in program.seeds()]
    found = {(info["dtype"], info["unit"]) for info in infos if info["format"] == "dot"}
    assert found == {(dtype, (r, c)) for dtype, c in (("int8", 4), ("bfloat16", 2)) for r in (1, 4, 16, 32)}
    assert {info["format"] for info in infos} == set(FORMATS)
