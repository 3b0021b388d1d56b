"""gkd eval: judge a finished run's students again, or the network in any weight file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from gkd.cli.run import few_shot_lines, leak_lines
from gkd.commands.evaluate import evaluate_checkpoint, evaluate_run
from gkd.storage.run_files import WEIGHTS

HELP = "judge a finished run's students, or the network in a weight file, on test images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="RUN|FILE", type=Path, help="a run folder, or a .safetensors or .pth file"
    )
    parser.add_argument(
        "overrides",
        metavar="a.b=c",
        nargs="*",
        help="overrides: for a run such as data.root=where/the/images/are/now; for a file data.name=cifar100 "
        "student.network=wrn_40_2",
    )


def main(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.path.is_file():
        results = evaluate_checkpoint(arguments.path, arguments.overrides)
        about = (
            f"{results.pop('network')}, {results.pop('classes')} classes, {results.pop('images')} test images"
        )
        stated = results.pop("stated")
        console.print(f"{arguments.path.name}: {about}", markup=False, highlight=False)
        values = _line(results) + ("" if stated is None else f"  (the file says accuracy {stated:.4g})")
        console.print(values, highlight=False)
        return 0
    results = evaluate_run(arguments.path, arguments.overrides)
    console.print(f"{results['config']} {results['method']} seed {results['seed']}", highlight=False)
    for line in leak_lines(results):
        console.print(line, markup=False, highlight=False)
    for which in WEIGHTS:
        console.print(f"{which:5}{_line(results[which])}", highlight=False)
        for line in few_shot_lines(results[which]):
            console.print(line, highlight=False)
    return 0


def _line(values: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, int | float)
    )
