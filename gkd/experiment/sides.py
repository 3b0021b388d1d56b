"""The two sides of an experiment: the task's adapter, the teacher's images and the student's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gkd.config import schema
from gkd.config.shipped import shipped_methods
from gkd.core.labels import LabelRelation
from gkd.experiment.checks import check_teacher_images, plan_of
from gkd.experiment.sources import load_source
from gkd.methods.method import Method, require
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task, task_of
from gkd.training.caches import Caches


@dataclass(frozen=True)
class Sides:
    """An experiment's task and the images from which it chooses classes; read and built once.

    Attributes:
        experiment: the experiment.
        task: its adapter.
        teacher, student: the images of each side.
    """

    experiment: schema.Experiment
    task: Task
    teacher: Source
    student: Source

    @cached_property
    def relation(self) -> LabelRelation:
        """How the classes of the two sides relate, before any image is selected."""
        return self.task.spaces(self.teacher.space, self.student.space)

    @property
    def taught_relation(self) -> LabelRelation | None:
        """The relation that a method must be able to work with; None where no network teaches."""
        taught = self.experiment.teacher is not None or self.task.students_teach
        return self.relation if taught else None

    def problems(self) -> Iterator[Problem]:
        """The task's problems in their order, the training images limited to ``data.per_class``."""
        data, run = self.experiment.data, self.experiment.run
        seed = run.seed if data.subset_seed is None else data.subset_seed
        for problem in self.task.problems(self.teacher, self.student, run.seed):
            yield problem if data.per_class is None else problem.limited(data.per_class, seed=seed)

    def first_problem(self) -> Problem:
        """The first problem to train, where the experiment can solve it.

        Raises:
            UserError: a method that the relation denies, images of the teacher's that are not adapted, or what the
                problem refuses.
        """
        return self._first(self.problems())

    def last_problem(self) -> Problem:
        """The last of all problems, where the experiment can solve the first."""
        problems = self.problems()
        first = self._first(problems)
        return [first, *problems][-1]

    def _first(self, problems: Iterator[Problem]) -> Problem:
        require(self.experiment.method, self.taught_relation, self._other_methods)
        has_teacher = self.experiment.teacher is not None
        problem = next(each for each in problems if not (has_teacher and each.solved_by_teacher))
        check_teacher_images(self.experiment, problem)
        problem.check(plan_of(self.experiment))
        return problem

    def _other_methods(self) -> dict[str, Method]:
        """The shipped methods that a refusal may suggest instead."""
        steps = self.task.students_teach
        return {name: method for name, method in shipped_methods().items() if steps or not method.after}


def sides_of(experiment: schema.Experiment, caches: Caches | None = None) -> Sides:
    """The two sides of an experiment.

    Args:
        experiment: the experiment.
        caches: hold the data sets that were read last; without them they are read anew.
    """
    caches = caches or Caches()
    teacher_data = (experiment.teacher and experiment.teacher.data) or experiment.data
    student, teacher = load_source(experiment.data, caches), load_source(teacher_data, caches)
    return Sides(experiment, task_of(experiment.task), teacher, student)
