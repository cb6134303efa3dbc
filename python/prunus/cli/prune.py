"""`prunus prune`: a local transformers model in, a pruned and accelerated one out."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from prunus.cli.demo import parse_patterns
from prunus.cli.inputs import (
    Inputs,
    SampleSize,
    add_threads,
    make_inputs,
    quiet_transformers,
    random_inputs,
    read_texts,
    threads,
)
from prunus.cli.recipe import run_recipe
from prunus.cli.recover import check_minutes, draw, recover_on_text
from prunus.cli.regimes import add_options, milliseconds, regimes, told
from prunus.cli.written import add_out, check_out, print_written, write
from prunus.methods.known import METHODS
from prunus.patterns import Pattern, Scope

if TYPE_CHECKING:
    from prunus._tools.report import Report
    from prunus.allocation import Allocation
    from prunus.methods import Method

__all__ = ["add_parser"]

ALLOCATIONS = ("uniform", "owl", "sensitivity")
DTYPES = ("auto", "float32", "bfloat16", "float16")
SPARSITY = 0.5
# What a recipe says itself.
RECIPE_HAS = (
    "method",
    "sparsity",
    "pattern",
    "scope",
    "allocation",
    "target_speedup",
    "precision",
    "steps",
    "repair",
    "recover",
    "no_accelerate",
)


def add_parser(commands: Any) -> None:
    """Add the `prune` command to the command line."""
    parser = commands.add_parser(
        "prune",
        help="prune a local transformers model directory and make it fast here",
        description="Reads a transformers model directory (config.json, safetensors, tokenizer), prunes the "
        "Linear layers of its blocks, packs those that are measured faster on this machine, and writes a new "
        "directory: config and tokenizer files, prunus.safetensors, and the reports as JSON. "
        "prunus.load_pretrained(DIR) reads it back. Everything is offline.",
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="transformers model directory with safetensors")
    add_out(parser)
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        help="a YAML file of steps instead: shrink, prune, recover, accelerate, export; files of export go "
        "to --out",
    )
    what = parser.add_argument_group("what to prune")
    rows = " and ".join(word for word, method in METHODS.items() if method.scope == "row")
    what.add_argument(
        "--method", choices=METHODS, default="magnitude", help="how weights are chosen (magnitude)"
    )
    what.add_argument("--sparsity", type=float, metavar="S", help=f"share of zeros, 0..1 ({SPARSITY})")
    what.add_argument("--pattern", default="unstructured", help="unstructured, N:M (2:4) or blocks RxC (4x4)")
    what.add_argument(
        "--scope",
        choices=get_args(Scope),
        help=f"what shares one budget of zeros (row for {rows}, else tensor)",
    )
    what.add_argument(
        "--allocation", choices=ALLOCATIONS, default="uniform", help="how layers share the budget (uniform)"
    )
    what.add_argument(
        "--target-speedup",
        type=float,
        metavar="X",
        help="choose the sparsity of every layer so that the whole model gets X times as fast here",
    )
    what.add_argument(
        "--max-error",
        type=float,
        metavar="E",
        help="with --target-speedup: stop where outputs would differ by more than this share (L2)",
    )
    what.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="how far layers may round to be faster (float32: not at all)",
    )
    what.add_argument(
        "--steps", type=int, default=1, help="cuts, with statistics measured again before each (1)"
    )
    what.add_argument("--repair", action="store_true", help="refit the kept weights by least squares")
    data = parser.add_argument_group("calibration and recovery")
    data.add_argument("--calibration", metavar="FILE", help="UTF-8 text, one passage per line")
    data.add_argument(
        "--recover",
        type=float,
        metavar="MINUTES",
        help="then train so long on all of that text, towards the dense model (see `prunus recover`)",
    )
    SampleSize.add_options(data, 128, "of the choice of samples and of --method random")
    run_ = parser.add_argument_group("run")
    add_options(run_)
    run_.add_argument("--no-accelerate", action="store_true", help="only write zeros: layers stay ordinary")
    run_.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="cast the model first (auto: as stored)"
    )
    add_threads(run_)
    run_.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, defaults={word: parser.get_default(word) for word in RECIPE_HAS})


def run(options: argparse.Namespace) -> int:
    """Prune, accelerate, write; then print the tables or JSON."""
    size = SampleSize.of(options)
    if options.recipe:
        return run_recipe(options, size)
    pattern = _check(options)
    texts = read_texts(options.calibration, "--calibration") if options.calibration else []
    with quiet_transformers("prune"), threads(options.threads):
        model, inputs = _load(options, size, texts)
        teacher = copy.deepcopy(model) if options.recover is not None else None

        def between() -> dict[str, Report]:
            if teacher is None:
                return {}
            args = (teacher, options.model, texts, size, options.recover)
            return {"recover": recover_on_text(model, *args, option="--calibration")}

        reports, note = _work(model, inputs, pattern, options, between)
        sizes = write(options, model, reports)
    if "recover" in reports:
        note = "\n".join(filter(None, [note, draw(reports["recover"], options.out)]))  # type: ignore[arg-type]
    print_written(options, reports, sizes, note, options.model)
    return 0


def _check(options: argparse.Namespace) -> Pattern:
    """What can be refused before anything is read; the pattern."""
    check_out(options.out)
    if options.recover is not None:
        check_minutes("--recover", options.recover)
        if not options.calibration:
            raise ValueError("--calibration: expected a text file for --recover, got none")
    method = METHODS[options.method]
    if (method.needs or options.repair or options.allocation != "uniform") and not options.calibration:
        why = f"--method {options.method}" if method.needs else "--repair and --allocation"
        raise ValueError(f"--calibration: expected a text file for {why}, got none")
    if options.target_speedup is not None:
        wrong = [
            f"--{name}"
            for name, given in (
                ("sparsity", options.sparsity is not None),
                ("allocation", options.allocation != "uniform"),
                ("no-accelerate", options.no_accelerate),
                ("recover", options.recover is not None),
                ("precision", options.precision != "float32"),
            )
            if given
        ]
        if wrong:
            raise ValueError(f"--target-speedup: expected no {wrong[0]} beside it, which it decides itself")
    elif options.max_error is not None:
        raise ValueError("--max-error: expected --target-speedup beside it, got none")
    scope = options.scope or method.scope
    given = [options.sparsity] if options.sparsity is not None else None
    is_nm = ":" in options.pattern
    return parse_patterns(options.pattern, given if given or is_nm else [SPARSITY], scope)[0][1]


def _load(options: argparse.Namespace, size: SampleSize, texts: list[str]) -> tuple[Any, Inputs]:
    import torch
    from rich.console import Console

    from prunus.checkpoint.pretrained import load_pretrained

    torch.manual_seed(options.seed)
    with Console(stderr=True).status("loading the model"):
        model = load_pretrained(options.model)
        if options.dtype != "auto":
            model.to(getattr(torch, options.dtype))
    if texts:
        return model, make_inputs(model, options.model, texts, size, "--calibration")
    return model, random_inputs(model, size)


def _work(
    model: Any,
    inputs: Inputs,
    pattern: Pattern,
    options: argparse.Namespace,
    between: Callable[[], dict[str, Report]],
) -> tuple[dict[str, Report], str]:
    """Reports by name, and a sentence on what was not done. between: work after pruning, its reports."""
    from prunus.accelerate import accelerate_
    from prunus.balance import Target, balance_
    from prunus.prune import prune_

    method = _method(options, inputs)
    given = inputs.batches if options.calibration else None
    wanted = regimes(options, inputs, model, SampleSize.of(options))
    example = [regime.example for regime in wanted]
    if options.target_speedup is not None:
        if not example:
            raise ValueError("--target-speedup: expected a model that reads tokens, got none to time it on")
        wanted_speed = {"speedup": options.target_speedup, "max_error": options.max_error}
        target = Target(pattern=pattern, **wanted_speed)  # type: ignore[arg-type]
        balance = balance_(model, example, target, method, given)
        return {"prune": balance.pruned, "accelerate": balance.accelerated, "balance": balance}, ""
    reports: dict[str, Report] = {"prune": prune_(model, _shared(pattern, options), method, given)}
    reports |= between()
    if options.no_accelerate:
        return reports, "All layers are ordinary ones with zeros (--no-accelerate)."
    if not example:
        return reports, "All layers are ordinary ones with zeros: no tokens to time this kind of model on."
    before = milliseconds(model, wanted)
    reports["accelerate"] = accelerate_(model, example, options.precision)
    after = milliseconds(model, wanted)
    reports["accelerate"].summary["whole_model"] = [
        {"name": regime.name, "ms_before": was, "ms_after": now}
        for regime, was, now in zip(wanted, before, after, strict=True)
    ]
    return reports, told(wanted, before, after)


def _shared(pattern: Pattern, options: argparse.Namespace) -> Pattern | Allocation:
    from prunus.allocation import OWL, Sensitivity

    if options.allocation == "owl":
        return OWL(pattern)  # type: ignore[arg-type]
    return Sensitivity(pattern) if options.allocation == "sensitivity" else pattern


def _method(options: argparse.Namespace, inputs: Inputs) -> Method:
    method = METHODS[options.method]
    if method.takes("loss") and not inputs.causal:
        raise ValueError(
            f"--method: {options.method} needs a loss: expected a model that predicts the next token, "
            "got another kind; prunus.prune_ takes a loss of your own"
        )
    given = {"steps": options.steps, "repair": options.repair, "seed": options.seed}
    return method.of(options.method, loss=_next_token_loss, **given)


def _next_token_loss(model: Any, batch: dict[str, Any]) -> Any:
    return model(**batch, labels=batch["input_ids"]).loss
