"""`python -m bench language`: tokens a second of a language model, dense and pruned, with its quality."""

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.environment import commit, describe
from bench.load import LoadMeter
from bench.peers import llama_cpp
from bench.quality.smollm import SmolLM2
from bench.records import Record, Writer
from bench.recover import kept_models
from bench.tables import Table, machine_text
from bench.timing import Budget, interleave
from prunus import Block, Calibration, SparseGPT, Unstructured, accelerate_, prune_

BUDGET = Budget(rounds=9, turn=0.1, limit=60.0)
BEFORE = 64  # tokens in the cache while one is decoded
REPLY = 64  # tokens decoded for a prompt, where both count
# What a user could pick instead and this suite does not run: said below the table.
LEFT_OUT = "Not measured: OpenVINO and ONNX Runtime with a cache (need a converter)."
NO_LLAMA = "Not measured: llama.cpp (pip install llama-cpp-python compiles it, which takes minutes)."


@dataclass
class Contender:
    """A model, and a cache with `BEFORE` tokens of its own."""

    name: str
    model: Any
    ids: Tensor

    def __post_init__(self) -> None:
        from transformers import DynamicCache

        self.cache = DynamicCache()
        with torch.inference_mode():
            self.model(input_ids=self.ids[:, :BEFORE], past_key_values=self.cache, use_cache=True)

    def decode(self) -> None:
        """One token behind the cache, which then forgets it."""
        with torch.inference_mode():
            self.model(input_ids=self.ids[:, BEFORE : BEFORE + 1], past_key_values=self.cache, use_cache=True)
        self.cache.crop(-1)

    def prompt(self) -> None:
        """All tokens at once; logits of the last one."""
        with torch.inference_mode():
            self.model(input_ids=self.ids, use_cache=False, logits_to_keep=1)

    def quality(self, subject: SmolLM2) -> dict[str, float]:
        """On held-out text."""
        return subject.quality(self.model)

    @property
    def megabytes(self) -> float:
        """Of all weights."""
        return sum(t.nbytes for t in _tensors(self.model)) / 1e6


def run(args: argparse.Namespace, unset: list[str]) -> int:
    """Measure, print the table."""
    torch.set_num_threads(args.threads)
    subject = SmolLM2()
    writer = Writer(args.out)
    writer.write(describe(unset))
    found = models(subject, args.recovered)
    field = [Contender(name, model, subject.held_out[:1]) for name, model in found]
    with of_llama(subject, args.threads) as others:
        for record in measure(subject, [*field, *others]):
            writer.write({"record": "language", "threads": args.threads, "commit": commit(), **record})
    writer.close()
    print(machine_text(writer.records))
    for table in language_tables(writer.records):
        print()
        table.print()
    print(LEFT_OUT)
    if not llama_cpp.INSTALLED:
        print(NO_LLAMA)
    return 0


@contextmanager
def of_llama(subject: SmolLM2, threads: int) -> Iterator[list[llama_cpp.LlamaCpp]]:
    """llama.cpp with the same weights in eight bits, and with the file as it is; none where it is not
    installed."""
    if not llama_cpp.INSTALLED:
        yield []
        return
    with llama_cpp.as_int8(subject.file) as eight:
        files = {"llama.cpp Q8_0": eight, "llama.cpp Q4_1": subject.file}
        ids = subject.held_out[:1]
        yield [llama_cpp.LlamaCpp(name, file, ids, BEFORE, threads) for name, file in files.items()]


def models(subject: SmolLM2, folder: Path | None) -> Iterator[tuple[str, nn.Module]]:
    """Dense engines first, then prunus, for one token at a time; folder: of models that were recovered."""
    dense = subject.model
    yield "torch fp32", dense
    half = copy.deepcopy(dense).bfloat16()
    yield "torch bf16", half
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what people have
        yield "torch int8 (dynamic)", torch.ao.quantization.quantize_dynamic(copy.deepcopy(dense))
    # A prompt and a reply: what is fast for both together.
    prompt = {"input_ids": subject.held_out[:1], "use_cache": False, "logits_to_keep": 1}
    one = {"input_ids": subject.held_out[:1, :1], "use_cache": False}
    both = [prompt, *[one] * REPLY]
    yield "prunus int8, no zeros", accelerated(copy.deepcopy(dense), both)
    yield "prunus int8 in a bfloat16 model, no zeros", accelerated(copy.deepcopy(half), both)
    pruned = not_recovered(subject) if folder is None else kept_models(folder, dense)
    for name, model in pruned:
        yield f"prunus int8, {name}", accelerated(model, both)


def not_recovered(subject: SmolLM2) -> Iterator[tuple[str, nn.Module]]:
    """Two models as pruning leaves them."""
    for name, pattern in (("4x4 blocks", Block((4, 4), 0.5)), ("unstructured", Unstructured(0.5))):
        model = copy.deepcopy(subject.model)
        prune_(model, pattern, SparseGPT(), Calibration(subject.calibration(), progress=False))
        yield f"{name}, 50 %, not recovered", model


def accelerated(model: nn.Module, examples: list[dict[str, Any]]) -> nn.Module:
    accelerate_(model, examples, "int8", min_speedup=1.0)
    return model


def measure(subject: SmolLM2, field: list[Any]) -> Iterator[Record]:
    """One record a contender: quality first, then all in turn, decoding and a prompt."""
    figures = [one.quality(subject) for one in field]
    meter = LoadMeter()
    times: dict[str, list[Any]] = {}
    calls: dict[str, Callable[[Any], Callable[[], None]]] = {
        "decode": lambda one: one.decode,
        "prompt": lambda one: one.prompt,
    }
    for kind, call in calls.items():
        times[kind] = interleave([[call(one)] for one in field], BUDGET)
    foreign = meter.foreign()
    for i, (one, figure) in enumerate(zip(field, figures, strict=True)):
        fastest = {f"{kind}_us": min(samples[i].seconds) * 1e6 for kind, samples in times.items()}
        yield {
            "model": subject.title,
            "peer": one.name,
            "foreign": foreign,
            "megabytes": one.megabytes,
            "prompt_tokens": subject.held_out.shape[1],
            **figure,
            **fastest,
        }


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, and the weights that torch's int8 layers keep elsewhere."""
    found = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if callable(weight) and hasattr(module, "_packed_params"):
            found.append(weight().int_repr())
    return found


def language_tables(records: list[Record]) -> list[Table]:
    """One table; speed against the first contender, minima."""
    group = [r for r in records if r["record"] == "language"]
    if not group:
        return []
    first = group[0]
    title = f"{first['model']}, {first['threads']} thread(s): one token at a time, and a prompt of "
    table = Table(
        f"{title}{first['prompt_tokens']} tokens",
        ["engine", "tokens/s", "speed", "prompt ms", "MB", "perplexity", "agreement"],
    )
    for r in group:
        speed = f"{1e6 / r['decode_us']:.1f}", f"{first['decode_us'] / r['decode_us']:.2f}"
        prompt, megabytes = f"{r['prompt_us'] / 1e3:.0f}", f"{r['megabytes']:.0f}"
        quality = f"{r['perplexity']:.2f}", f"{r['agreement']:.1%}"
        table.rows.append([r["peer"], *speed, prompt, megabytes, *quality])
    return [table]
