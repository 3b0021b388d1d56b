"""gkd validate: every mistake of a config at once, and what it resolves to."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.commands import compare as grid
from gkd.config.load import load
from gkd.config.schema import Experiment
from gkd.core.errors import UserError
from gkd.core.text import say
from gkd.data import why_unread
from gkd.experiment.sides import sides_of
from gkd.methods.method import refusal
from gkd.problems.task import students_teach


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    experiment = resolved.experiment
    for line in _about_the_relation(experiment):
        say(console, f"# {line}")
    if experiment.compare is not None:
        say(console, f"# a grid of {grid.count(experiment.compare)} cells")
    say(console, resolved.annotated_yaml(), end="")
    return 0


def _about_the_relation(experiment: Experiment) -> list[str]:
    """Lines on the label relation, where the images are there; refuses a method that the relation denies.

    The method of a config with a grid need not be one of its rows, so there the reason is a line and not a refusal.
    """
    if experiment.teacher is None and not students_teach(experiment.task.name):
        return []
    of_teacher = experiment.teacher.data if experiment.teacher else None
    for data in (experiment.data, of_teacher or experiment.data):
        unread = why_unread(data.name, data.root)
        if unread is not None:
            return [f"{unread}, so classes and method were not checked"]
    sides = sides_of(experiment)
    relation = sides.relation
    reason = refusal(experiment.method, relation)
    if experiment.compare is None:
        sides.first_problem()  # refuses what a run would refuse
    elif reason is None:
        next(sides.problems())  # refuses what would fail in every row
        try:
            sides.first_problem()
        except UserError as error:
            reason = str(error)
    return [str(relation), *([reason] if reason else [])]
