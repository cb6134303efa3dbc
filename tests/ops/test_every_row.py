"""Every kernel of every isa that this machine has, against the naive reference, and no other in its place."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunus
from prunus import NM, Block, _core
from prunus.ops import reference

WIDEST = 64
LINEAR = Path(__file__).resolve().parents[2] / "csrc/kernels/linear"


def rows_of_all_isas() -> list[Any]:
    params = []
    for isa in _core.available_isas():
        _core.set_isa(isa)
        rows = [row for row in _core.kernel_rows() if row["isa"] == isa]
        params += [pytest.param(isa, row, id=f"{isa}-{row['name']}") for row in rows]
    _core.set_isa("auto")
    return params


def weight(rng: np.random.Generator, row: dict[str, Any]) -> np.ndarray:
    """Whole numbers in the pattern of the row's format; n and k are no multiples of a tile."""
    n = 95 if row["least_rows"] > 1 else 83  # short of whole groups, and of blocks without need
    w = rng.integers(1, 5, (n, 4 * 61)).astype(np.float32) * rng.choice([-1.0, 1.0], (n, 4 * 61))
    pattern = {"nm": NM(2, 4), "block": Block((1, 4), 0.5)}.get(row["format"])
    if pattern is None:
        # Rows are expanded only while most weights are kept; dot blocks are tall only then.
        many = row["panel"] == "rows" or row["least_rows"] > 1
        kept = rng.random(w.shape) < (0.95 if many else 0.1 if row["format"] == "dot" else 0.4)
    else:
        kept = prunus.select(rng.random(w.shape, dtype=np.float32), pattern)
    w = (w * kept).astype(np.float32)
    w[0, 0] = 4.0
    if careful(row):  # a hole: a stored zero, which must not be multiplied
        w[1:, :4] = 0.0
        w[1:, 1] = 2.0
    return w


def careful(row: dict[str, Any]) -> bool:
    return row["format"] in ("nm", "block") and row["needs"] == "any"


def tokens(row: dict[str, Any]) -> int:
    """So many that the row is the kernel, or that of the last strip."""
    strips = row["panel"] in ("strip", "lanes") and not careful(row)
    return 3 * WIDEST + row["tokens"] if strips else row["tokens"]


def integers(row: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """x as dot multiplies it: 8-bit integers with a scale and a zero point for every token."""
    if row["format"] != "dot" or row["dtype"] != "int8":
        return x
    low, high = np.minimum(x.min(axis=1), 0)[:, None], np.maximum(x.max(axis=1), 0)[:, None]
    scale = (high / np.float32(255) - low / np.float32(255)).astype(np.float32)
    inverse = np.float32(1) / np.where(scale > 0, scale, np.float32(1))
    zero = np.rint(-low * inverse)
    return (np.clip(np.rint(x * inverse) + zero, 0, 255) - zero) * scale


def test_a_name_leads_to_its_source() -> None:
    """What `explain` says begins with the name of one function."""
    text = "".join(path.read_text() for path in sorted(LINEAR.glob("*.h")))
    for param in rows_of_all_isas():
        function = param.values[1]["name"].rsplit("_", 2)[0]
        assert len(re.findall(rf"\bvoid {function}\(const TileArgs", text)) == 1, function


@pytest.mark.parametrize(("isa", "row"), rows_of_all_isas())
def test_row_runs_and_is_right(isa: str, row: dict[str, Any], rng: np.random.Generator) -> None:
    _core.set_isa(isa)
    try:
        packed = prunus.pack(weight(rng, row), dtype=row["dtype"], format=row["format"])
        m, (n, k) = tokens(row), packed.shape
        x = rng.integers(-3, 4, (m, k)).astype(np.float32)
        if careful(row):
            x[0, 0] = np.nan
        # On isas that look activations up, a plain few kernel serves what they must not see.
        plain_few = row["format"] == "col8" and row["panel"] == "few" and row["needs"] == "any"
        if plain_few:
            x[0, k // 2] = np.inf
        bias = rng.integers(-3, 4, n).astype(np.float32)
        y = prunus.linear(x, packed, bias)
        assert row["name"] in _core.last_kernels()
        plan = packed.explain(m, finite=bool(np.isfinite(x).all()))
        assert row["name"] in (plan["kernel"], plan["last_kernel"])
        expected = reference.linear(integers(row, x), packed.to_dense(), bias)
        if row["dtype"] == "int8":  # scales are no whole numbers
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-4)
        else:
            np.testing.assert_array_equal(y, expected.astype(np.float32))
    finally:
        _core.set_isa("auto")
