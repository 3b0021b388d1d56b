"""The two sides of an experiment, whose task may be a third party's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gkd.config.load import load
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.experiment.sides import Sides
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task
from tests.refusals import refused


class Unrelated(Task):
    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        raise KeyError("cat")


class Unmade(Task):
    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        yield from ()
        raise ZeroDivisionError


def test_what_a_third_partys_task_raises_is_a_sentence() -> None:
    experiment = load("quickstart", ["method=student"]).experiment
    images: Any = type("Images", (), {"space": LabelSpace(["a", "b"])})()
    with refused("own-code-fails"):
        _ = Sides(experiment, Unrelated(experiment.task), images, images).relation
    with refused("own-code-fails"):
        list(Sides(experiment, Unmade(experiment.task), images, images).problems())
