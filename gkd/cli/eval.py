"""gkd eval: judge a finished run's students again."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gkd.runs import WEIGHTS, evaluate_run

HELP = "judge a finished run's saved students on its test images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", help="overrides, such as data.root=where/the/images/are/now"
    )


def main(arguments: argparse.Namespace, console: Console) -> int:
    results = evaluate_run(arguments.run, arguments.overrides)
    console.print(f"{results['config']} {results['method']} seed {results['seed']}", highlight=False)
    for which in WEIGHTS:
        values = "  ".join(f"{name} {value:.4g}" for name, value in results[which].items())
        console.print(f"{which:5}{values}", highlight=False)
    return 0
