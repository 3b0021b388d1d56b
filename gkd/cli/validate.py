"""gkd validate: every mistake of a config at once, and what it resolves to."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.cli import add_config_arguments
from gkd.commands import compare as grid
from gkd.config.load import load
from gkd.config.schema import Experiment
from gkd.core.errors import UserError
from gkd.experiment.sides import sides_of
from gkd.methods.method import refusal
from gkd.problems.task import students_teach

HELP = "check a config and print it resolved, with the origin of each value"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    experiment = resolved.experiment
    for line in _about_the_relation(experiment):
        console.print(f"# {line}", markup=False, highlight=False)
    if experiment.compare is not None:
        console.print(f"# a grid of {grid.count(experiment.compare)} cells", markup=False, highlight=False)
    console.print(resolved.annotated_yaml(), end="", markup=False, highlight=False)
    return 0


def _about_the_relation(experiment: Experiment) -> list[str]:
    """How the classes relate, where the images are there; a refusal where the method cannot work so.

    A grid's own method says nothing of its rows, so there the reason is a line and not a refusal.
    """
    if experiment.teacher is None and not students_teach(experiment.task.name):
        return []
    theirs = experiment.teacher.data if experiment.teacher else None
    for data in (experiment.data, theirs or experiment.data):
        if data.name == "folder" and (data.root is None or not data.root.exists()):
            return [
                f"the images are not there ({data.root}), so classes and method were not checked with them"
            ]
        if data.name not in ("digits", "folder", "step-folders"):
            return [f"{data.name} is read when a run starts, so classes and method were not checked with it"]
    sides = sides_of(experiment)
    relation = sides.relation
    reason = refusal(experiment.method, relation)
    if experiment.compare is None:
        sides.first_problem()  # which refuses what a run would
    elif reason is None:
        next(sides.problems())  # which refuses what no row can have
        try:
            sides.first_problem()
        except UserError as error:
            reason = str(error)
    return [str(relation), *([reason] if reason else [])]
