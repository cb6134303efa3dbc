"""Selection and packing cases at a tiny size: every contestant runs and is right."""

import pytest

from bench.fusions import run_fusions
from bench.packing import run_packing
from bench.selection import run_selection
from bench.tables import contest_tables, fusion_tables, pack_tables
from bench.timing import Budget

ONCE = Budget(rounds=1, turn=0.0, warm=0.0)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch calls CSR a beta feature


def test_selection_contestants_are_right() -> None:
    said: list[str] = []
    records = list(run_selection((96, 128), 1, ONCE, said.append))
    assert not said
    assert {r["what"] for r in records} == {"tensor 50 %", "tensor 90 %", "row 50 %", "2:4", "normalize rows"}
    assert all(r["ok"] and r["gbs"] > 0 for r in records)
    assert len(contest_tables(records)) == 5


def test_packing_contestants_are_right() -> None:
    said: list[str] = []
    records = list(run_packing((96, 128), 1, (0.5, 0.9), ONCE, said.append))
    assert not said
    assert all(r["ok"] for r in records)
    titles = [table.title for table in pack_tables(records)]
    assert [title.split(",")[0] for title in titles] == ["pack", "unpack"]


def test_fusion_contestants_are_right() -> None:
    said: list[str] = []
    records = list(run_fusions((96, 128), 3, 1, (0.5, 0.9), ONCE, said.append))
    assert not said
    assert all(r["ok"] for r in records)
    titles = [table.title for table in fusion_tables(records)]
    assert [title.split(",")[0] for title in titles] == [
        "bias and gelu",
        "residual",
        "gated silu",
        "query key value",
    ]
