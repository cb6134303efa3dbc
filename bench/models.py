"""`python -m bench models`: a whole encoder in every engine, dense and pruned, with its quality beside it."""

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.environment import commit, describe
from bench.load import LoadMeter
from bench.quality.metrics import embedding_quality
from bench.quality.subjects import Batch, MiniLM
from bench.records import Record, Writer
from bench.recover import kept_models
from bench.tables import Table, machine_text
from bench.timing import Budget, interleave
from prunus import Block, Calibration, Neurons, SparseGPT, accelerate_, prune_, shrink_
from prunus._tools.running import Batch as Pass
from prunus.cli.encoder import pool
from prunus.engines import onnx, openvino
from prunus.engines.graph import dense_copy, make_graph
from prunus.engines.packages import installed
from prunus.families import weight_count

Run = Callable[[Batch], Tensor]  # -> last hidden state, float32
BUDGET = Budget(rounds=9, turn=0.1, limit=60.0)


@dataclass(frozen=True)
class Contender:
    """An engine with a model in it."""

    name: str
    run: Run


def run(args: argparse.Namespace, unset: list[str]) -> int:
    """Measure, print the table."""
    torch.set_num_threads(args.threads)
    subject = MiniLM()
    writer = Writer(args.out)
    writer.write(describe(unset))
    for texts, length in args.batches:
        batch = subject.encoder.full_batch(subject.held_out_texts[::-1], texts, length)
        field = list(contenders(subject, batch, args))
        for record in measure(subject, field, batch):
            writer.write({"record": "model", "threads": args.threads, "commit": commit(), **record})
    writer.close()
    print(machine_text(writer.records))
    for table in model_tables(writer.records):
        print()
        table.print()
    return 0


def contenders(subject: MiniLM, batch: Batch, args: argparse.Namespace) -> Iterator[Contender]:
    """Dense engines first, then prunus; what is not installed is left out by name."""
    dense = subject.model
    yield Contender("torch fp32", of_torch(dense))
    half = copy.deepcopy(dense).bfloat16()
    yield Contender("torch bf16", of_torch(half))
    if args.compiled:
        yield Contender("torch.compile bf16", of_torch(torch.compile(half)))
    yield from elsewhere(dense, batch, args.threads)
    for precision in ("bfloat16", "int8"):
        yield ours(f"prunus {precision}, no zeros", copy.deepcopy(dense), batch, precision)
    yield ours("prunus int8 in a bfloat16 model, no zeros", copy.deepcopy(half), batch, "int8")
    if args.recovered is None:
        yield from not_recovered(subject, batch, args)
    else:
        yield from recovered(subject, batch, args)


def not_recovered(subject: MiniLM, batch: Batch, args: argparse.Namespace) -> Iterator[Contender]:
    """Two models as pruning leaves them."""
    calibration = Calibration(subject.calibration(0), progress=False)
    blocks = copy.deepcopy(subject.model)
    prune_(blocks, Block((4, 4), 0.5), SparseGPT(), calibration)
    yield ours("prunus int8, 4x4 blocks, 50 %, not recovered", blocks, batch, "int8")
    neurons = copy.deepcopy(subject.model)
    shrink_(neurons, Neurons(0.5), calibration)
    yield from everywhere("half of the neurons, not recovered", neurons, batch, args.threads)


def recovered(subject: MiniLM, batch: Batch, args: argparse.Namespace) -> Iterator[Contender]:
    """The models that `bench recover --keep FOLDER` wrote. Other engines get those that became smaller: for
    zeros alone they are no faster."""
    whole = weight_count(subject.model)
    for name, model in kept_models(args.recovered, subject.model):
        if weight_count(model) < whole:
            yield from everywhere(name, model, batch, args.threads)
        else:
            yield ours(f"prunus int8, {name}", model, batch, "int8")


def everywhere(name: str, model: nn.Module, batch: Batch, threads: int) -> Iterator[Contender]:
    """A model that became smaller, in every engine."""
    half = copy.deepcopy(model).bfloat16()
    yield Contender(f"torch bf16, {name}", of_torch(copy.deepcopy(half)))
    for one in elsewhere(model, batch, threads):
        yield Contender(f"{one.name}, {name}", one.run)
    yield ours(f"prunus int8 in a bfloat16 model, {name}", half, batch, "int8")
    yield ours(f"prunus int8, {name}", model, batch, "int8")


def ours(name: str, model: nn.Module, batch: Batch, precision: str) -> Contender:
    accelerate_(model, batch, precision, min_speedup=1.0)
    return Contender(name, of_torch(model))


def of_torch(model: Any) -> Run:
    def run(batch: Batch) -> Tensor:
        with torch.inference_mode():
            hidden: Tensor = model(**batch).last_hidden_state
            return hidden.float()

    return run


def of_reader(read: Callable[[Batch], Batch]) -> Run:
    return lambda batch: read(batch)["last_hidden_state"]


def elsewhere(model: nn.Module, batch: Batch, threads: int) -> Iterator[Contender]:
    """A model in the other engines that are installed."""
    if not installed("onnx"):
        return
    file = onnx.convert(make_graph(dense_copy(model), [Pass((), dict(batch))]))
    if installed("onnxruntime"):
        yield Contender("ONNX Runtime fp32", of_reader(onnx.reader(file, threads)))
        yield Contender("ONNX Runtime int8", of_reader(onnx.reader(onnx.int8(file), threads)))
    if installed("openvino"):
        read = openvino.reader(openvino.from_onnx(file), threads)
        yield Contender("OpenVINO as it comes", of_reader(read))


def measure(subject: MiniLM, field: list[Contender], batch: Batch) -> Iterator[Record]:
    """One record a contender: quality on held-out texts first, then all in turn."""
    figures = []
    for one in field:
        embeddings = torch.cat([pool(one.run(part), part) for part in subject.held_out])
        figures.append(embedding_quality(subject.dense, embeddings))
    meter = LoadMeter()
    samples = interleave([[lambda one=one: one.run(batch)] for one in field], BUDGET)
    foreign = meter.foreign()
    texts, length = batch["input_ids"].shape
    for one, figure, sample in zip(field, figures, samples, strict=True):
        case = {
            "model": subject.title,
            "texts": texts,
            "length": length,
            "peer": one.name,
            "foreign": foreign,
        }
        yield {**case, **figure, **sample.record()}


def model_tables(records: list[Record]) -> list[Table]:
    """A table a batch; speed against torch fp32, minima."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for r in records:
        if r["record"] == "model":
            found.setdefault((r["model"], r["texts"], r["length"], r["threads"]), []).append(r)
    tables = []
    for (model, texts, length, threads), group in found.items():
        first = group[0]["min_us"]
        table = Table(
            f"{model}, {texts} texts of {length} tokens, {threads} thread(s)",
            ["engine", "ms", "speed", "cosine"],
        )
        for r in group:
            ms, speed = f"{r['min_us'] / 1e3:.1f}", f"{first / r['min_us']:.2f}"
            table.rows.append([r["peer"], ms, speed, f"{r['cosine']:.4f}"])
        tables.append(table)
    return tables
