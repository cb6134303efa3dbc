"""The `prunus` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import prunus
from prunus.cli import demo, export, info, prune, recover, report
from prunus.cli.encoder import MissingPackage

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 after an error, 130 on Ctrl-C. SystemExit(2) where
    the arguments do not parse.

    >>> main(["info", "--json"])  # doctest: +ELLIPSIS
    {...
    0
    """
    parser = argparse.ArgumentParser(
        prog="prunus", description="Prune transformers and make the pruning pay."
    )
    parser.add_argument("--version", action="version", version=f"prunus {prunus.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (demo, prune, recover, report, export, info):
        module.add_parser(commands)
    options = parser.parse_args(argv)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except MissingPackage as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `prunus info | head`: nobody reads on, that is no error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"prunus: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
