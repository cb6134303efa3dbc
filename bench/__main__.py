"""`python -m bench run|quality|recover|models|language|table|plot|compare|list`."""

import argparse
import sys
import warnings
from pathlib import Path

from bench.environment import clean_environment


def numbers(kind: type) -> object:
    return lambda text: tuple(kind(part) for part in text.split(","))


def shapes(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (part.lower().split("x") for part in text.split(","))
    return tuple((int(n), int(k)) for n, k in pairs)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="measure suites; write JSON lines, print tables")
    run.add_argument("suites", nargs="*", help="names from `list`; default: all")
    run.add_argument("--quick", action="store_true", help="about a minute: few cases, few rounds, fast peers")
    run.add_argument("--shapes", type=shapes, help="e.g. 3072x768,768x768 (out_features x in_features)")
    run.add_argument("--m", type=numbers(int), help="tokens, e.g. 1,8,128")
    run.add_argument("--threads", type=numbers(int), help="e.g. 1,2")
    run.add_argument("--sparsity", type=numbers(float), help="e.g. 0.5,0.9")
    run.add_argument("--peers", type=numbers(str), help="names from `list`")
    run.add_argument("--rounds", type=int, help="samples per case")
    run.add_argument("--out", type=Path, default=Path("bench/results/run.jsonl"))

    quality = commands.add_parser("quality", help="what pruning costs in quality, and what it pays")
    quality.add_argument("--quick", action="store_true", help="two minutes: the encoder, few cells")
    quality.add_argument(
        "--full", action="store_true", help="options and allocations with every pattern: hours"
    )
    quality.add_argument("--part", nargs="+", choices=("minilm", "gpt", "times", "speed", "plots"))
    quality.add_argument("--threads", type=int, help="torch's threads (default: torch's)")
    quality.add_argument(
        "--cpu-time", action="store_true", help="times: one thread's processor time, for busy machines"
    )
    quality.add_argument("--out", type=Path, default=Path("bench/results/quality.jsonl"), help="gone on with")
    quality.add_argument("--publish", action="store_true", help="tables and pictures into bench/README.md")

    recover = commands.add_parser("recover", help="what recovery brings back of a pruned model")
    recover.add_argument("--model", choices=("minilm", "smollm2"), default="minilm")
    recover.add_argument(
        "--cells",
        nargs="+",
        choices=("neurons", "narrow", "unstructured", "sparser", "4x4", "16x4", "16x1", "half", "2:4"),
        help="how the model is pruned; default: every way that is usual for it",
    )
    recover.add_argument(
        "--recipes",
        nargs="+",
        choices=("refit", "distill", "refit+distill", "gradual"),
        default=["refit+distill"],
    )
    recover.add_argument("--steps", type=int, default=400, help="of training: about five minutes (400)")
    recover.add_argument("--threads", type=int, default=1)
    recover.add_argument("--seed", type=int, default=0)
    recover.add_argument("--keep", type=Path, metavar="FOLDER", help="write the recovered models there")
    recover.add_argument("--out", type=Path, default=Path("bench/results/recover.jsonl"), help="gone on with")

    models = commands.add_parser("models", help="a whole encoder in every engine, dense and pruned")
    models.add_argument(
        "--batches", type=shapes, default=((8, 64), (16, 128)), help="texts x tokens: 8x64,16x128"
    )
    models.add_argument("--threads", type=int, default=2)
    models.add_argument(
        "--recovered", type=Path, metavar="FOLDER", help="of `bench recover --keep`: its models race too"
    )
    models.add_argument("--compiled", action="store_true", help="torch.compile too: minutes")
    models.add_argument("--out", type=Path, default=Path("bench/results/models.jsonl"))

    language = commands.add_parser("language", help="tokens a second of a language model, dense and pruned")
    language.add_argument("--threads", type=int, default=2)
    language.add_argument(
        "--recovered", type=Path, metavar="FOLDER", help="of `bench recover --model smollm2 --keep`"
    )
    language.add_argument("--out", type=Path, default=Path("bench/results/language.jsonl"))

    table = commands.add_parser("table", help="the tables of a result file")
    table.add_argument("file", type=Path)
    table.add_argument("--markdown", action="store_true")

    plot = commands.add_parser("plot", help="the pictures of a result file, as SVG")
    plot.add_argument("file", type=Path)
    plot.add_argument("--out", type=Path, default=Path("bench/results"))

    compare = commands.add_parser("compare", help="exit 1 when AFTER is slower than BEFORE beyond the spread")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--peer", default="prunus")
    compare.add_argument(
        "--floor", type=float, default=0.05, help="smaller changes never count (0.05 = 5 %%)"
    )
    compare.add_argument(
        "--relative", action="store_true", help="divide by torch's dense time of the same group"
    )

    commands.add_parser("list", help="suites, and peers with what is missing for them")
    return top


def show(file: Path, markdown: bool) -> int:
    from bench.language import language_tables
    from bench.models import model_tables
    from bench.quality.tables import quality_tables
    from bench.records import read
    from bench.recover import recover_tables
    from bench.tables import all_tables, machine_text

    records = read(file)
    print(machine_text(records))
    whole = [*recover_tables(records), *model_tables(records), *language_tables(records)]
    for table in [*all_tables(records), *quality_tables(records), *whole]:
        print()
        print(table.markdown()) if markdown else table.print()
    return 0


def compare(args: argparse.Namespace) -> int:
    from bench.compare import change_table, changes
    from bench.records import read

    found = changes(read(args.before), read(args.after), args.peer, args.floor, args.relative)
    if not found:
        print(f"no case of {args.peer} is in both files")
        return 2
    change_table(found).print()
    slower = sum(c.verdict == "slower" for c in found)
    print(f"{len(found)} cases, {slower} slower beyond the spread")
    return 1 if slower else 0


def main() -> int:
    # torch says at every start that CSR is a beta feature and that quantised tensors will go.
    warnings.filterwarnings("ignore", category=UserWarning)
    unset = clean_environment()
    args = parser().parse_args()
    try:
        if args.command == "run":
            from bench.run import run

            return run(args, unset)
        if args.command == "quality":
            from bench.quality.run import run as run_quality

            return run_quality(args, unset)
        if args.command == "models":
            from bench.models import run as run_models

            return run_models(args, unset)
        if args.command == "language":
            from bench.language import run as run_language

            return run_language(args, unset)
        if args.command == "recover":
            from bench.recover import run as run_recover

            return run_recover(args, unset)
        if args.command == "list":
            from bench.run import show_list

            return show_list()
        if args.command == "plot":
            from bench.plots import plot_file

            return plot_file(args.file, args.out)
        return show(args.file, args.markdown) if args.command == "table" else compare(args)
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
