"""`python -m bench recover`: what `recover_` brings back of a pruned model, and in how many minutes."""

import argparse
import copy
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from bench.quality.corpus import docstrings
from bench.quality.grid import STRUCTURES, Cell, pattern_of
from bench.quality.run import Job, Results, run_jobs
from bench.quality.smollm import SmolLM2
from bench.quality.subjects import MiniLM
from bench.records import Record
from bench.tables import Table, machine_text, percent

# What is taken from the dense model, one after the other.
CELLS = {
    "neurons": (Cell("weight", "neurons", 0.5),),
    "narrow": (Cell("weight", "neurons", 0.75), Cell("weight", "heads", 0.5)),
    "unstructured": (Cell("sparsegpt", "row", 0.8),),
    "sparser": (Cell("sparsegpt", "row", 0.9),),
    "4x4": (Cell("sparsegpt", "4x4", 0.5),),
    "16x4": (Cell("sparsegpt", "16x4", 0.5),),
    "16x1": (Cell("sparsegpt", "16x1", 0.5),),
    "half": (Cell("sparsegpt", "row", 0.5),),
    "2:4": (Cell("sparsegpt", "2:4", 0.5),),
}
MODELS: dict[str, Any] = {"minilm": MiniLM, "smollm2": SmolLM2}
OF_LANGUAGE = ("half", "2:4")
USUAL = {"minilm": tuple(name for name in CELLS if name not in OF_LANGUAGE), "smollm2": OF_LANGUAGE}
GOALS = {"cosine": "cosine to the dense embeddings", "perplexity": "perplexity of held-out text"}
WHEN = ("dense", "before", "after")
CHARACTERS = 4_000_000  # about a million tokens


def run(args: argparse.Namespace, unset: list[str]) -> int:
    """Measure what the result file does not have, print the table."""
    import torch

    torch.set_num_threads(args.threads)
    out = Results(args.out, unset)
    subject = MODELS[args.model]()
    run_jobs(out, jobs(subject, args), "recover")
    out.writer.close()
    print(machine_text(out.writer.records))
    for table in recover_tables(out.writer.records):
        print()
        table.print()
    return 0


def jobs(subject: Any, args: argparse.Namespace) -> Iterator[Job]:
    for name in args.cells or USUAL[args.model]:
        for recipe in args.recipes:
            if recipe == "gradual" and _pattern(name) is None:
                continue  # structure is not gradual
            steps = 0 if recipe == "refit" else args.steps
            key = ("recover", subject.name, name, recipe, steps, args.threads, args.seed)
            yield key, partial(record, subject, name, recipe, steps, args.seed, args.keep)


def record(subject: Any, name: str, recipe: str, steps: int, seed: int, keep: Path | None = None) -> Record:
    """Prune, recover, look: figures on paragraphs that neither pruning nor training saw. keep: a folder that
    gets the recovered weights."""
    import torch

    from bench.quality.work import pruned
    from prunus import Distill, Gradual, Refit, SparseGPT, Texts, recover_, save

    model = pruned(subject, *CELLS[name])
    before = subject.quality(model)
    methods: list[Any] = [Refit(seed=seed)] if "refit" in recipe else []
    if "distill" in recipe:
        methods.append(Distill(steps=steps, seed=seed))
    if recipe == "gradual":
        model = copy.deepcopy(subject.model)
        methods.append(Distill(steps=steps, seed=seed, gradual=Gradual(_pattern(name), SparseGPT())))
    data = Texts(training_texts(subject), subject.tokenizer)
    wall, processor = time.perf_counter(), time.process_time()
    report = recover_(model, subject.model, data, methods)
    minutes = (time.perf_counter() - wall) / 60, (time.process_time() - processor) / 60
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        save(model, keep / f"{name}-{recipe}-{steps}.safetensors")
    return {
        "model": subject.title,
        "goal": subject.goal,
        "cell": name,
        "recipe": recipe,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "tokens": report.summary["tokens"],
        "minutes": minutes[0],
        "processor_minutes": minutes[1],
        "precision": report.rows[-1].get("precision", "float32"),
        "dense": subject.quality(subject.model),
        "before": before,
        "after": subject.quality(model),
        "curve": report.to_dict()["curve"],
    }


def kept_models(folder: Path, dense: Any) -> Iterator[tuple[str, Any]]:
    """What `--keep` wrote there, by name: each a copy of the dense model with its weights."""
    from prunus import load

    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ValueError(f"--recovered: expected models of `bench recover --keep`, got none in {folder}")
    for file in files:
        yield file.stem, load(copy.deepcopy(dense), file)


def _pattern(name: str) -> Any:
    """The pattern of a cell; None: structure."""
    last = CELLS[name][-1]
    return None if last.pattern in STRUCTURES else pattern_of(last.pattern, last.sparsity)


def training_texts(subject: Any) -> list[str]:
    """Docstrings, in pieces where the subject wants them, without those that hold a paragraph that quality is
    measured on."""
    held_out = set(subject.held_out_texts)
    found = []
    for text in docstrings(CHARACTERS):
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        whole = " ".join(text.split())
        if held_out.isdisjoint(paragraphs) and not any(paragraph in whole for paragraph in held_out):
            longest = subject.longest or len(whole)
            found += [whole[at : at + longest] for at in range(0, len(whole), longest)]
    return [text for text in found if len(text) >= 40]


def recover_tables(records: list[Record]) -> list[Table]:
    """One for each model, with a row per way of pruning and recipe; mean over the seeds."""
    models: dict[tuple[str, str], list[Record]] = {}
    for r in (r for r in records if r["record"] == "recover"):
        models.setdefault((r["model"], r["goal"]), []).append(r)
    return [_table(model, goal, found) for (model, goal), found in models.items()]


def _table(model: str, goal: str, records: list[Record]) -> Table:
    table = Table(
        f"{model} recovered: {GOALS[goal]}",
        ["pruned", "sparsity", "recipe", "steps", "tokens", "minutes", "of processor", *WHEN],
    )
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for r in records:
        groups.setdefault((r["cell"], r["recipe"], r["steps"], r["threads"]), []).append(r)
    for (name, recipe, steps, _), found in groups.items():
        digits = 3 if goal == "cosine" else 2
        figures = [f"{mean(r[when][goal] for r in found):.{digits}f}" for when in WHEN]
        times = [f"{mean(r[what] for r in found):.1f}" for what in ("minutes", "processor_minutes")]
        cells = CELLS[name]
        what = ", ".join(f"{cell.pattern} ({cell.method})" for cell in cells)
        told = [what, ", ".join(percent(cell.sparsity) for cell in cells), recipe, str(steps)]
        table.rows.append([*told, f"{mean(r['tokens'] for r in found):,.0f}", *times, *figures])
    return table
