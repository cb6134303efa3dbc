"""The quality bench on models of a few thousand weights: cells, records, going on, tables, pictures."""

import argparse
import email
import math
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bench.quality import corpus, gpt, work
from bench.quality.grid import (
    OPTIONS,
    Cell,
    cells,
    full_cells,
    method_of,
    pattern_of,
    quick_cells,
    structure_of,
    timed_cells,
)
from bench.quality.metrics import embedding_quality, input_variation, live_weights
from bench.quality.publish import BEGIN, END, publish
from bench.quality.run import Results, quality_jobs, run_jobs
from bench.quality.tables import quality_tables, timed, uniform_at
from prunus import NM, OWL, Block, Layers, Neurons, Sensitivity, Taylor, Unstructured
from prunus._tools.timing import Times


class Tiny:
    name = "gpt"
    title = "tiny"
    goal = "perplexity"

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
            loss_type="ForCausalLM",
        )  # fmt: skip
        self.model = GPT2LMHeadModel(config).eval()
        self.text = torch.randint(40, (400,))
        self.timed = {"input_ids": gpt.windows(self.text, 16, 2, 0)}

    def calibration(self, seed: int) -> list[dict[str, torch.Tensor]]:
        return [{"input_ids": part} for part in gpt.windows(self.text, 16, 8, seed).split(4)]

    def quality(self, model: Any) -> dict[str, float]:
        return {"perplexity": math.exp(gpt.mean_loss(model, gpt.windows(self.text, 16, 8, None)))}

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = model(**batch, labels=batch["input_ids"]).loss
        return loss


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # conftest.py puts it back; matrices of 16 x 16 are no work for two


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.mark.parametrize(
    "cell",
    [
        Cell("magnitude/column", "tensor", 0.5),
        Cell("random", "16x1", 0.5),
        Cell("wanda+repair x2", "row", 0.5),
        Cell("sparsegpt", "2:4", 0.5),
        Cell("taylor", "global", 0.5),
        Cell("wanda", "owl", 0.5),
        Cell("wanda", "sensitivity", 0.5),
        Cell("weight", "neurons", 0.5),
        Cell("bias", "layers", 0.5),
    ],
    ids=lambda c: f"{c.method} {c.pattern}",
)
def test_a_cell_leaves_the_dense_model_alone_and_takes_what_it_says(tiny: Tiny, cell: Cell) -> None:
    before = {name: p.clone() for name, p in tiny.model.named_parameters()}
    record = work.quality_record(tiny, cell)
    assert all(torch.equal(p, before[name]) for name, p in tiny.model.named_parameters())
    share = {"neurons": 0.5 * 2 / 3}.get(cell.pattern, 0.5)  # neurons own two thirds of a block
    assert record["gone"] == pytest.approx(share, abs=0.04)
    assert record["perplexity"] > 1
    assert record["perplexity"] != pytest.approx(tiny.quality(tiny.model)["perplexity"], rel=1e-9)


def test_a_file_is_gone_on_with(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = argparse.Namespace(quick=True, full=False)
    path = tmp_path / "q.jsonl"
    first = Results(path, [])
    jobs = list(quality_jobs(tiny, args))
    run_jobs(first, jobs[:3], "tiny")
    first.writer.close()
    path.write_text(path.read_text() + '{"record": "quality", "par')  # interrupted here
    monkeypatch.setattr(work, "quality_record", lambda subject, cell: cell.record())
    second = Results(path, [])
    assert len(second.writer.records) == 4  # the header and three
    run_jobs(second, quality_jobs(tiny, args), "tiny")
    second.writer.close()
    keys = [tuple(r["key"]) for r in second.writer.records[1:]]
    assert len(keys) == len(set(keys)) == len(jobs)
    assert len(Results(path, []).done) == len(jobs)


def test_times_tables_and_pictures(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "SECONDS", 0.0)
    shared = {"part": "gpt", "commit": "x"}
    run = {"cpu": "test", "cpus": 1, "isa": "avx2", "commit": "x", "time": "now", "versions": {}, "blas": []}
    records: list[dict[str, Any]] = [{"record": "run", **run}]
    records.append({"record": "quality-variation", **shared, **work.variation_record(tiny, 0)})
    for sparsity in (0.5, 0.9):
        cell = Cell("wanda", "row", sparsity)
        records.append({"record": "quality", **shared, **work.quality_record(tiny, cell)})
        records.append({"record": "quality-time", **shared, **work.time_record(tiny, cell)})
    times = timed(records)
    assert all(r["ms"] > 0 and r["speedup"] == pytest.approx(r["dense_ms"] / r["ms"]) for r in times)
    balance = times[0] | {"record": "quality-balance", "pattern": "balance 1.5x", "off": 0.01}
    records.append(balance | {"predicted_speedup": 1.5, "measured_speedup": 1.5})
    titles = [table.title for table in quality_tables(records)]
    assert [any(word in t for t in titles) for word in ("perplexity", "variation", "time", "balance_")] == [
        True
    ] * 4
    page = tmp_path / "README.md"
    page.write_text(f"Before\n{BEGIN}\nold\n{END}\nAfter\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/quality-minilm-ms.svg").write_text("of nothing in these records")
    keyed = [r if r["record"] == "run" else r | {"key": [r["record"]]} for r in records]
    for _ in range(2):  # the second time over its own text
        publish(keyed, page)
        text = page.read_text()
        assert text.startswith(f"Before\n{BEGIN}\ntest")
        assert text.endswith(f"{END}\nAfter\n")
        assert "Commits: gpt at x; gpt times at x." in text
        assert "| dense | " in text
        assert "old" not in text
        made = {path.name: path for path in (tmp_path / "pictures").iterdir()}
        assert set(made) == {"quality-gpt-ms.svg", "quality-gpt-sparsity.svg"}
        assert all(f"(pictures/{name})" in text for name in made)
        assert all(1000 < path.stat().st_size < 80_000 for path in made.values())
    page.write_text("no marks")
    with pytest.raises(ValueError, match="expected the marks"):
        publish(keyed, page)


def test_tables_have_the_dense_model_the_variation_and_the_range_over_seeds() -> None:
    shared = {"part": "minilm", "method": "wanda", "pattern": "row", "sparsity": 0.5, "gone": 0.5}
    perfect = {"cosine": 1.0, "spearman": 1.0, "overlap": 1.0}
    records: list[dict[str, Any]] = []
    for seed, cosine in enumerate((0.8, 0.9, 0.7)):
        variation = {"part": "minilm", "seed": seed, "layers": {}, "cv": 0.4 + 0.1 * seed, "dense": perfect}
        records.append({"record": "quality-variation", **variation})
        figures = {"cosine": cosine, "spearman": 0.5, "overlap": 0.5}
        records.append({"record": "quality", **shared, "seed": seed, **figures})
    figures = {"seed": 0, "cosine": 0.6, "spearman": 0.5, "overlap": 0.25}
    records.append({"record": "quality", **shared, "method": "magnitude", **figures})
    cut = {"pattern": "layers", "method": "bias", "gone": 1 / 3}
    records.append({"record": "quality", **shared, **cut, **figures})
    tables = quality_tables(records)
    assert tables[0].columns == ["method, pattern", "input cv", "0 %", "50 %"]
    assert tables[0].rows == [
        ["dense", "0.50", "1.000", ""],
        ["wanda, row", "0.50", "", "0.800 (0.700..0.900)"],
        ["magnitude, row", "0.40", "", "0.600"],
    ]
    structures = next(table for table in tables if "blocks" in table.title)
    assert structures.rows == [["layers (bias)", "50 %", "33 %", "0.600", "0.500", "25"]]


def test_processor_time_leaves_out_sleep_and_needs_one_thread() -> None:
    with work.processor_time(True):
        times = Times()
        times.add(lambda: time.sleep(0.05))
        assert times.seconds[0] < 0.04
    times.add(lambda: time.sleep(0.05))
    assert times.seconds[1] >= 0.05
    torch.set_num_threads(2)
    with (
        pytest.raises(ValueError, match="--cpu-time: expected --threads 1, got 2"),
        work.processor_time(True),
    ):
        pass


def test_uniform_is_read_between_its_neighbours() -> None:
    rows = [
        {"record": "quality-time", "method": "wanda", "pattern": "row", "speedup": v, "cosine": q}
        for v, q in ((1.0, 0.9), (2.0, 0.5))
    ]
    assert uniform_at(rows, 1.25, "cosine") == pytest.approx(0.8)
    assert uniform_at(rows, 3.0, "cosine") is None


def test_a_speed_out_of_reach_is_a_record_and_ends_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> None:
        raise ValueError("target: expected at least 61 ms, got 58 ms")

    monkeypatch.setattr(work, "balance_", fails)
    record = {"record": "quality-balance", "part": "gpt", **work.balance_record(tiny, 2.0)}
    assert record["pattern"] == "balance 2x"
    assert timed([record]) == []
    table = next(t for t in quality_tables([record]) if "balance_" in t.title)
    assert table.rows[0][:2] == ["balance 2x", "target: expected at least 61 ms, got 58 ms"]


def test_times_of_another_clock_or_thread_count_are_not_mixed_in() -> None:
    ways = [("cpu", 1), ("cpu", 1), ("wall", 2)]
    rows = [{"record": "quality-time", "clock": c, "threads": t, "ms": i} for i, (c, t) in enumerate(ways)]
    assert [r["ms"] for r in timed(rows)] == [2]
    assert [r["ms"] for r in timed(rows[:2])] == [0, 1]
    assert timed([]) == []


def test_quality_of_the_same_and_of_shuffled_embeddings() -> None:
    e = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert embedding_quality(e, e) == pytest.approx({"cosine": 1.0, "spearman": 1.0, "overlap": 1.0})
    other = embedding_quality(e, e.flip(0))
    assert abs(other["cosine"]) < 0.3
    assert abs(other["spearman"]) < 0.3
    assert other["overlap"] < 0.6


def test_input_variation_is_zero_for_equal_channels_and_grows_with_scales() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    x = torch.ones(4, 8)
    assert input_variation(model, [x])["0"] == pytest.approx(0.0, abs=1e-6)
    x[:, 0] = 100.0
    assert input_variation(model, [x])["0"] == pytest.approx(32.742 / 13.375, rel=1e-3)


def test_live_weights_counts_the_blocks_only(tiny: Tiny) -> None:
    live, whole = live_weights(tiny.model)
    assert whole == 2 * 12 * 16 * 16
    assert live == whole


def test_words_become_methods_and_patterns() -> None:
    assert str(method_of("sparsegpt+repair x4", 0, None)) == "SparseGPT(steps=4, repair=True)"
    assert isinstance(method_of("taylor", 0, lambda model, batch: None), Taylor)
    assert pattern_of("4:8", 0.5) == NM(4, 8)
    assert pattern_of("16x1", 0.7) == Block((16, 1), 0.7)
    assert pattern_of("global", 0.7) == Unstructured(0.7, scope="model")
    assert isinstance(pattern_of("owl", 0.7), OWL)
    assert isinstance(pattern_of("sensitivity", 0.7), Sensitivity)
    assert structure_of(Cell("none", "neurons", 0.25), 6) == Neurons(0.25, compensate="none")
    assert structure_of(Cell("bias", "layers", 0.34), 6) == Layers(2)
    with pytest.raises(ValueError, match=r"method: expected magnitude, .* got 'wander'"):
        method_of("wander", 0, None)
    with pytest.raises(ValueError, match=r"pattern: expected row, .* got 'rows'"):
        pattern_of("rows", 0.5)


@pytest.mark.parametrize(
    "grid", [quick_cells(), cells(), full_cells(), timed_cells(True), timed_cells(False)]
)
def test_every_cell_of_a_grid_is_there_once_and_can_be_read(grid: Any) -> None:
    found = list(grid)
    assert len({cell.key() for cell in found}) == len(found)
    for cell in found:
        if cell.pattern in ("neurons", "heads", "layers"):
            structure_of(cell, 6)
        else:
            assert method_of(cell.method, cell.seed, lambda model, batch: None).steps in (1, 4)
            pattern_of(cell.pattern, cell.sparsity)


def test_the_usual_grid_has_the_whole_comparison() -> None:
    found = set(cells())
    for sparsity, pattern in product((0.5, 0.6, 0.7, 0.8), ("row", "tensor", "4x4", "16x1")):
        assert {Cell("wanda", pattern, sparsity, seed) for seed in (0, 1, 2)} <= found
    assert {Cell("sparsegpt", nm, 0.5, seed) for nm in ("2:4", "4:8") for seed in (0, 1, 2)} <= found
    assert {Cell(option, "row", 0.6) for option in OPTIONS} <= found


def test_a_gpt_is_trained_once_and_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"Returns the {a} of the {b}, as a {c}. " * 4 for a in "abc" for b in "defgh" for c in "ijklmn"]
    monkeypatch.setattr(gpt, "docstrings", lambda limit: words)
    recipe = gpt.Recipe(vocabulary=280, layers=1, width=16, heads=1, length=16, steps=20, batch=2)
    first = gpt.small_gpt(recipe, tmp_path)
    monkeypatch.setattr(gpt, "_make", None)
    second = gpt.small_gpt(recipe, tmp_path)
    assert first.losses == second.losses
    assert [step for step, _ in first.losses] == list(range(1, 21))
    assert first.losses[-1][1] < first.losses[0][1]
    # The model is the one of the best check, not of the last step.
    count = len(first.held_out) // recipe.length
    found = gpt.mean_loss(first.model, gpt.windows(first.held_out, recipe.length, count, None)[-64:])
    assert found == pytest.approx(min(loss for _, loss in first.losses), abs=1e-5)
    assert torch.equal(first.model.transformer.wte.weight, second.model.transformer.wte.weight)
    assert len(list(tmp_path.iterdir())) == 1


def test_docstrings_are_split_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_folders", lambda: [Path(email.__file__).parent])
    texts = corpus.docstrings(20_000)
    assert 10_000 < sum(map(len, texts)) < 40_000
    train, held_out = corpus.split(texts)
    assert len(train) + len(held_out) == len(texts)
    assert held_out
    assert not set(train) & set(held_out)
    assert corpus.fingerprint(texts) != corpus.fingerprint(train)
