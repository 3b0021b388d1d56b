"""gkd validate: every mistake of a config at once, and what it resolves to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from rich.console import Console

from gkd.commands.grid_cells import count
from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.config.teacher_sections import teacher_sections
from gkd.core.errors import UserError
from gkd.core.text import say
from gkd.data import why_unread
from gkd.experiment.networks import check_image_sizes, has_own_network
from gkd.experiment.prepare import prepare
from gkd.experiment.sides import sides_of
from gkd.experiment.teachers import check_before_training
from gkd.methods.refusal import Relations, refusal
from gkd.problems.task import students_teach
from gkd.training.caches import Caches


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    experiment = resolved.experiment
    check_image_sizes(experiment)
    for line in _about_the_relation(resolved):
        say(console, f"# {line}")
    if experiment.compare is not None:
        say(console, f"# a grid of {count(experiment.compare)} cells")
    say(console, resolved.annotated_yaml(differing=not arguments.all), end="", wrap=False)
    if not arguments.all:
        say(console, "# all else is at its default: --all shows it")
    return 0


def _about_the_relation(resolved: Resolved) -> list[str]:
    """Lines on the label relation, where the images are there; refuses what a run would refuse before its first step.

    The method of a config with a grid need not be one of its rows, so there the reason is a line and not a refusal.
    """
    experiment = resolved.experiment
    sections = teacher_sections(experiment)
    taught = bool(sections) or students_teach(experiment.task.name)
    of_teachers = [section.data for section in sections.values() if section.data is not None]
    for data in (experiment.data, *of_teachers):
        unread = why_unread(data.name, data.root)
        if unread is not None:
            return [f"{unread}, so classes and method were not checked"] if taught else []
    unlabelled = experiment.data.unlabelled
    if experiment.method.uses_unlabelled and unlabelled is not None and not unlabelled.root.exists():
        return [
            f"the images without labels are not there ({unlabelled.root}), so classes and method were not checked"
        ]
    caches = Caches()
    sides = sides_of(experiment, caches)
    reason = refusal(experiment.method, sides.taught_relation) if taught else None
    if experiment.compare is None:
        notes = _checked(resolved, caches)
    else:
        notes = []
        if reason is None:
            next(sides.problems())  # refuses what would fail in every row
            try:
                notes = _checked(resolved, caches)
            except UserError as error:
                reason = str(error)
    return [*(_relations(sides.taught_relation) if taught else []), *([reason] if reason else []), *notes]


def _relations(relations: Relations) -> list[str]:
    """A line on the relation of the one teacher, or on each of several by its name."""
    if isinstance(relations, Mapping):
        return [f"{name}: {relation}" for name, relation in relations.items()]
    return [str(relations)]


def _checked(resolved: Resolved, caches: Caches) -> list[str]:
    """Refuse what a run would refuse before its first step; lines on what was not tried."""
    if has_own_network(resolved.experiment):
        sides_of(resolved.experiment, caches).first_problem()
        return ["networks of your own are not imported here, so images and terms were not tried on them"]
    prepared = prepare(resolved, caches=caches)
    check_before_training(prepared)
    return list(prepared.notes)
