"""gkd eval: judge a finished run's students again, or the network in any weight file."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.cli.run import few_shot_lines, leak_lines
from gkd.commands.evaluate import evaluate_checkpoint, evaluate_run
from gkd.storage.judged import Judged


def main(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.path.is_file():
        _evaluate_file(arguments, console)
    else:
        _evaluate_run(arguments, console)
    return 0


def _evaluate_file(arguments: argparse.Namespace, console: Console) -> None:
    result = evaluate_checkpoint(arguments.path, arguments.overrides)
    about = f"{result.network}, {result.classes} classes, {result.images} test images"
    console.print(f"{arguments.path.name}: {about}", markup=False, highlight=False)
    for note in result.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    stated = "" if result.stated is None else f"  (the file says accuracy {result.stated:.4g})"
    console.print(_line(result.judged) + stated, highlight=False)


def _evaluate_run(arguments: argparse.Namespace, console: Console) -> None:
    result = evaluate_run(arguments.path, arguments.overrides)
    console.print(f"{result.config} {result.method} seed {result.seed}", highlight=False)
    for line in leak_lines(result.leak):
        console.print(line, markup=False, highlight=False)
    for which, judged in result.judged.items():
        console.print(f"{which:5}{_line(judged)}", highlight=False)
        for line in few_shot_lines(judged):
            console.print(line, highlight=False)


def _line(judged: Judged) -> str:
    values = {"accuracy": judged.accuracy, "ece": judged.ece, "nll": judged.nll, **judged.metrics}
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
