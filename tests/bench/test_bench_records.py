"""Result files, tables and the comparison of two files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.compare import changes
from bench.plots import break_even, plot_file
from bench.records import Writer, best_dense, read
from bench.tables import all_tables, jump_table, ratio_tables, summary_table

ROOT = Path(__file__).resolve().parents[2]


def record(peer: str, median: float, sparsity: float | None = None, **more: Any) -> dict[str, Any]:
    """A linear record; dense without a sparsity. The quartiles are 1 % around the median."""
    dense = sparsity is None
    nnz = 3072 * 768 * (1.0 if dense else 1.0 - sparsity)
    m = more.get("m", 128)
    return {
        "record": "linear", "model": "BERT-base", "layer": "up", "n": 3072, "k": 768, "m": m, "threads": 1,
        "activation": None, "bias": False, "rotate": False, "peer": peer, "dtype": "float32",
        "pattern": "dense" if dense else "unstructured", "sparsity": sparsity or 0.0, "nnz": nnz,
        "bytes": 4 * nnz, "ok": True, "median_us": median, "min_us": 0.98 * median, "q1_us": 0.995 * median,
        "q3_us": 1.005 * median,
        "gflops": 2 * nnz * m / median / 1e3, **more,
    }  # fmt: skip


def run_file(path: Path, factor: float = 1.0, machine: float = 1.0) -> Path:
    out = Writer(path)
    for r in (
        record("torch", 1000.0 * machine),
        record("numpy", 800.0 * machine),
        record("prunus", 500.0 * machine, 0.8),
        record("prunus", 250.0 * machine * factor, 0.9),
    ):
        out.write(r)
    out.close()
    return path


def test_file_round_trip_and_a_broken_line(tmp_path: Path) -> None:
    path = run_file(tmp_path / "a.jsonl")
    assert len(read(path)) == 4
    path.write_text(path.read_text() + '{"record": "lin')
    with pytest.raises(ValueError, match="line 5: expected one JSON object"):
        read(path)


def test_ratio_table_is_against_torch(tmp_path: Path) -> None:
    (table,) = ratio_tables(read(run_file(tmp_path / "a.jsonl")))
    assert table.columns == ["peer", "dense", "80 %", "90 %"]
    assert table.rows == [
        ["torch", "1.00", "", ""],
        ["numpy", "1.25", "", ""],
        ["prunus", "", "2.00", "4.00"],
    ]
    assert "| prunus |  | 2.00 | 4.00 |" in table.markdown()


def test_summary_names_the_best_dense_and_the_rate(tmp_path: Path) -> None:
    table = summary_table(read(run_file(tmp_path / "a.jsonl")))
    assert table
    assert table.rows == [["3072x768", "128", "1", "numpy", "2.00 / 1.60 / 32%", "4.00 / 3.20 / 32%"]]


def test_wrong_answers_and_other_dtypes_do_not_count(tmp_path: Path) -> None:
    rows = [record("torch", 1000.0), record("int8", 100.0, dtype="int8")]
    best = best_dense(rows)
    assert best
    assert best["peer"] == "torch"
    tables = ratio_tables([record("torch", 1000.0), record("prunus", 1.0, 0.9, ok=False)])
    assert [row[0] for row in tables[0].rows] == ["torch"]


def test_jump_table_finds_the_cliff() -> None:
    times = {m: 10.0 * m for m in range(1, 33)}
    times[17] = 25.0 * 17
    table = jump_table([record("prunus", t, 0.8, m=m) for m, t in times.items()])
    assert table
    assert table.rows[0][-3] == "2.50"
    assert {*table.rows[0][-2:]} <= {"16", "17", "18"}


@pytest.mark.parametrize(("factor", "slower"), [(1.0, 0), (1.04, 0), (1.2, 1), (0.5, 0)])
def test_compare_counts_what_exceeds_the_spread(tmp_path: Path, factor: float, slower: int) -> None:
    before, after = read(run_file(tmp_path / "a.jsonl")), read(run_file(tmp_path / "b.jsonl", factor))
    found = changes(before, after, "prunus", floor=0.05, relative=False)
    assert len(found) == 2
    assert sum(c.verdict == "slower" for c in found) == slower


def test_relative_compare_divides_out_a_slower_machine(tmp_path: Path) -> None:
    before, after = read(run_file(tmp_path / "a.jsonl")), read(run_file(tmp_path / "b.jsonl", machine=1.5))
    assert {c.verdict for c in changes(before, after, "prunus", 0.05, relative=False)} == {"slower"}
    assert {c.verdict for c in changes(before, after, "prunus", 0.05, relative=True)} == {""}


def test_a_wide_spread_is_no_regression(tmp_path: Path) -> None:
    before, after = [record("prunus", 100.0, 0.8)], [record("prunus", 130.0, 0.8, q1_us=100.0, q3_us=140.0)]
    assert [c.verdict for c in changes(before, after, "prunus", 0.05, relative=False)] == [""]


def test_compare_command_exit_codes(tmp_path: Path) -> None:
    same, slow = run_file(tmp_path / "a.jsonl"), run_file(tmp_path / "b.jsonl", 2.0)
    other = tmp_path / "c.jsonl"
    other.write_text(json.dumps(record("torch", 1.0)) + "\n")

    def code(a: Path, b: Path) -> int:
        return subprocess.run(
            [sys.executable, "-m", "bench", "compare", a, b], cwd=ROOT, check=False
        ).returncode

    assert code(same, same) == 0
    assert code(same, slow) == 1
    assert code(same, other) == 2
    assert code(same, tmp_path / "missing.jsonl") == 2


def test_break_even_is_interpolated() -> None:
    assert break_even([(0.2, 0.8), (0.4, 1.2)]) == pytest.approx(0.3)
    assert break_even([(0.2, 1.1), (0.4, 1.2)]) is None


def test_plots_are_small_and_repeatable(tmp_path: Path) -> None:
    path = run_file(tmp_path / "a.jsonl")
    assert plot_file(path, tmp_path / "one") == 0
    assert plot_file(path, tmp_path / "two") == 0
    first = sorted((tmp_path / "one").glob("*.svg"))
    assert [p.name for p in first] == ["rate-3072x768-m128-t1.svg", "speed-3072x768-m128-t1.svg"]
    for p in first:
        assert p.read_bytes() == (tmp_path / "two" / p.name).read_bytes()
        assert p.stat().st_size < 60_000


def test_tables_of_selection_records() -> None:
    rows = [
        {"record": "selection", "what": "2:4", "n": 8, "k": 8, "threads": 1, "peer": peer, "ok": True,
         "median_us": t, "min_us": t, "q1_us": t, "q3_us": t, "gbs": 1.0, "peak_bytes": 512}
        for peer, t in (("prunus", 10.0), ("torch.topk", 150.0))
    ]  # fmt: skip
    (table,) = all_tables(rows)
    assert [row[2] for row in table.rows] == ["1.00", "15.00"]
    assert table.rows[0][4] == "2.00"


def test_line_pictures_of_the_cliffs_and_threads_suites(tmp_path: Path) -> None:
    out = Writer(tmp_path / "a.jsonl")
    for m in (1, 2, 3):
        out.write(record("prunus", 10.0 * m, 0.8, m=m, suite="cliffs"))
    for threads in (1, 2):
        out.write(record("prunus", 10.0 / threads, 0.8, threads=threads, suite="threads"))
    out.close()
    assert plot_file(tmp_path / "a.jsonl", tmp_path) == 0
    assert {p.name for p in tmp_path.glob("*.svg")} == {"cliffs-0.svg", "threads-0.svg"}


def test_the_same_layer_in_two_suites_is_two_groups() -> None:
    rows = [record("torch", 1000.0, suite="encoder"), record("torch", 900.0, suite="fused")]
    assert len(ratio_tables(rows)) == 2
