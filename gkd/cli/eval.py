"""gkd eval: judge a finished run's students again, or the network in any weight file."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.cli.run import few_shot_lines, leak_lines
from gkd.commands.evaluate import evaluate_checkpoint, evaluate_run
from gkd.commands.evaluate_teacher import evaluate_teacher, names_a_teacher
from gkd.core.text import say, visible
from gkd.experiment.run_folder import unchecked
from gkd.problems.task import PLAIN
from gkd.storage.judged import Judged
from gkd.storage.preprocessing import HEAD


def main(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.path.is_file() and names_a_teacher(arguments.overrides):
        for line in evaluate_teacher(arguments.path, arguments.overrides):
            say(console, line)
    elif arguments.path.is_file():
        _evaluate_file(arguments, console)
    else:
        _evaluate_run(arguments, console)
    return 0


def _evaluate_file(arguments: argparse.Namespace, console: Console) -> None:
    result = evaluate_checkpoint(arguments.path, arguments.overrides)
    about = f"{result.network}, {result.classes} classes, {result.images} test images"
    if result.answers != HEAD:
        about += f", by the {result.answers} in the file"
    about += "" if result.task == PLAIN else f", judged as {result.task}"
    say(console, f"{visible(arguments.path.name)}: {visible(about)}")
    for note in result.notes:
        say(console, note)
    stated = "" if result.stated is None else f"  (the file says accuracy {result.stated:.4g})"
    say(console, _line(result.judged) + stated)
    for line in [*leak_lines(result.leak), *few_shot_lines(result.judged)]:
        say(console, line)


def _evaluate_run(arguments: argparse.Namespace, console: Console) -> None:
    result = evaluate_run(arguments.path, arguments.overrides)
    say(console, visible(f"{result.config} {result.method} seed {result.seed}"))
    note = unchecked(arguments.path)
    if note is not None:
        say(console, f"note      {note}")
    for line in leak_lines(result.leak):
        say(console, line)
    for which, judged in result.judged.items():
        say(console, f"{which:5}{_line(judged)}")
        for line in few_shot_lines(judged):
            say(console, line)


def _line(judged: Judged) -> str:
    values = {
        "accuracy": judged.accuracy,
        "top-5": judged.accuracy_top5,
        "ece": judged.ece,
        "nll": judged.nll,
        **judged.metrics,
    }
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
