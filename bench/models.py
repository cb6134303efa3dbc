"""`python -m bench models`: a whole encoder in every engine, dense and pruned, with its quality beside it."""

import argparse
import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.environment import commit, describe
from bench.load import LoadMeter
from bench.peers.engines import onnx_session
from bench.quality.metrics import embedding_quality
from bench.quality.subjects import Batch, MiniLM
from bench.records import Record, Writer
from bench.tables import Table, machine_text
from bench.timing import Budget, interleave
from prunus import Block, Calibration, Neurons, SparseGPT, accelerate_, prune_, shrink_
from prunus.cli.encoder import pool

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
        with tempfile.TemporaryDirectory() as folder:
            field = list(contenders(subject, batch, Path(folder), args))
            for record in measure(subject, field, batch):
                writer.write({"record": "model", "threads": args.threads, "commit": commit(), **record})
    writer.close()
    print(machine_text(writer.records))
    for table in model_tables(writer.records):
        print()
        table.print()
    return 0


def contenders(subject: MiniLM, batch: Batch, folder: Path, args: argparse.Namespace) -> Iterator[Contender]:
    """Dense engines first, then prunus; what is not installed is left out by name."""
    dense = subject.model
    yield Contender("torch fp32", of_torch(dense))
    half = copy.deepcopy(dense).bfloat16()
    yield Contender("torch bf16", of_torch(half))
    if args.compiled:
        yield Contender("torch.compile bf16", of_torch(torch.compile(half)))
    path = folder / "dense.onnx"
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        export(dense, batch, path)
        yield Contender("ONNX Runtime fp32", of_onnx(path, args.threads))
        yield Contender("ONNX Runtime int8", of_onnx(quantised(path), args.threads))
        if importlib.util.find_spec("openvino"):
            yield Contender("OpenVINO as it comes", of_openvino(path, args.threads))
    for precision in ("bfloat16", "int8"):
        yield ours(f"prunus {precision}, no zeros", copy.deepcopy(dense), batch, precision)
    yield ours("prunus int8 in a bfloat16 model, no zeros", copy.deepcopy(half), batch, "int8")
    calibration = Calibration(subject.calibration(0), progress=False)
    blocks = copy.deepcopy(dense)
    prune_(blocks, Block((4, 4), 0.5), SparseGPT(), calibration)
    yield ours("prunus int8, 4x4 blocks, 50 %", blocks, batch, "int8")
    neurons = copy.deepcopy(dense)
    shrink_(neurons, Neurons(0.5), calibration)
    yield Contender("half of the neurons, torch bf16", of_torch(copy.deepcopy(neurons).bfloat16()))
    small = copy.deepcopy(neurons).bfloat16()
    yield ours("prunus int8 in a bfloat16 model, half of the neurons", small, batch, "int8")
    yield ours("prunus int8, half of the neurons", neurons, batch, "int8")


def ours(name: str, model: nn.Module, batch: Batch, precision: str) -> Contender:
    accelerate_(model, batch, precision, min_speedup=1.0)
    return Contender(name, of_torch(model))


def of_torch(model: Any) -> Run:
    def run(batch: Batch) -> Tensor:
        with torch.inference_mode():
            hidden: Tensor = model(**batch).last_hidden_state
            return hidden.float()

    return run


class Hidden(nn.Module):
    """The last hidden state alone: what the exporter can trace."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


def export(model: nn.Module, batch: Batch, path: Path) -> None:
    """Two inputs of any number of texts and tokens, one output."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")  # type: ignore[operator]
    axes = {name: {0: "texts", 1: "tokens"} for name in ("input_ids", "attention_mask", "hidden")}
    torch.onnx.export(
        Hidden(model),
        (batch["input_ids"], batch["attention_mask"]),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def quantised(path: Path) -> Path:
    """Dynamic int8, weights per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_suffix(".int8.onnx")
    quantize_dynamic(path, target, weight_type=QuantType.QInt8, per_channel=True)
    return target


def of_onnx(path: Path, threads: int) -> Run:
    session = onnx_session(str(path), threads)
    return lambda batch: torch.from_numpy(session.run(None, {k: v.numpy() for k, v in batch.items()})[0])


def of_openvino(path: Path, threads: int) -> Run:
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(str(path), "CPU", settings)
    return lambda batch: torch.from_numpy(
        np.array(compiled({k: v.numpy() for k, v in batch.items()})[0], np.float32)
    )


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
