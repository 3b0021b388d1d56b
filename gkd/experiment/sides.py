"""The two sides of an experiment: the task's adapter, the teacher's images and the student's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from gkd.config import schema
from gkd.config.shipped import shipped_methods
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.user_code import told_of
from gkd.data import ImageSet
from gkd.experiment.checks import check_teacher_images, plan_of
from gkd.experiment.networks import has_own_network
from gkd.experiment.sources import load_source, load_unlabelled_images
from gkd.experiment.suggestions import working_methods
from gkd.experiment.teacher_classes import own_classes
from gkd.methods.method import Method, refusal, require
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
        unlabelled: those without labels, where the method trains on any.
    """

    experiment: schema.Experiment
    task: Task
    teacher: Source
    student: Source
    unlabelled: ImageSet | None = None

    @cached_property
    def own_classes(self) -> LabelSpace | None:
        """The classes of a teacher that keeps its own; None of any other."""
        section = self.experiment.teacher
        if section is None or not section.keeps_classes:
            return None
        if self.task.students_teach:
            raise UserError(
                f"In the task {self.experiment.task.name} the teacher is the model that the first student grows out "
                "of, over the task's classes, so it keeps none of its own; leave out teacher.classes and "
                "teacher.pretrained.",
                code="other-classes",
            )
        return own_classes(section)

    @cached_property
    def relation(self) -> LabelRelation:
        """How the classes of the two sides relate, before any image is selected."""
        with told_of(self.task, f"the task {self.experiment.task.name!r} relates the classes"):
            if self.own_classes is None:
                return self.task.spaces(self.teacher.space, self.student.space)
            students = self._without_teacher.spaces(self.student.space, self.student.space).student
            return self.task.relate(self.own_classes, students)

    @cached_property
    def _without_teacher(self) -> Task:
        """The task as it is without a teacher, whose options speak of classes that the data may not have."""
        return task_of(self.task.for_judging())

    @property
    def taught_relation(self) -> LabelRelation | None:
        """The relation that a method must be able to work with; None where no network teaches."""
        taught = self.experiment.teacher is not None or self.task.students_teach
        return self.relation if taught else None

    def problems(self) -> Iterator[Problem]:
        """The task's problems in their order, the training images limited to ``data.per_class``."""
        data, run = self.experiment.data, self.experiment.run
        seed = run.seed if data.subset_seed is None else data.subset_seed
        for problem in self._made(run.seed):
            if self.unlabelled is not None:
                problem = replace(problem, unlabelled=self.unlabelled)
            yield problem if data.per_class is None else problem.limited(data.per_class, seed=seed)

    def _made(self, seed: int) -> Iterator[Problem]:
        """The task's problems as it makes them; what it raises is told of it, and what their reader raises is not."""
        what = f"the task {self.experiment.task.name!r} makes its problems"
        own = self.own_classes
        with told_of(self.task, what):
            if own is None:
                problems = iter(self.task.problems(self.teacher, self.student, seed))
            else:
                problems = iter(self._without_teacher.problems(self.student, self.student, seed))
        while True:
            with told_of(self.task, what):
                problem = next(problems, None)
                if problem is not None and own is not None:
                    problem = self.task.with_own_teacher(problem, own)
            if problem is None:
                return
            yield problem

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
        own = has_own_network(self.experiment)
        require(
            self.experiment.method,
            self.taught_relation,
            lambda: self._other_methods(try_networks=not own),
            tried=not own,
        )
        has_teacher = self.experiment.teacher is not None
        problem = next(each for each in problems if not (has_teacher and each.solved_by_teacher))
        check_teacher_images(self.experiment, problem)
        problem.check(plan_of(self.experiment))
        return problem

    def _other_methods(self, *, try_networks: bool) -> dict[str, Method]:
        """The shipped methods that a refusal may suggest: those that pass what is checked before the first step.

        Beside a teacher only methods that read one are meant. Networks of the user's own are not imported for this.
        """
        steps, relation = self.task.students_teach, self.taught_relation
        use_teacher = self.experiment.teacher is not None and not steps
        methods = {
            name: method
            for name, method in shipped_methods().items()
            if (steps or not method.after)
            and (method.needs_teacher or not use_teacher)
            and (self.unlabelled is not None or not method.uses_unlabelled)
            and refusal(method, relation) is None
        }
        if not try_networks or not methods:
            return methods
        return working_methods(methods, self.experiment, next(self.problems()))


def sides_of(experiment: schema.Experiment, caches: Caches | None = None) -> Sides:
    """The two sides of an experiment.

    Args:
        experiment: the experiment.
        caches: hold the data sets that were read last; without them they are read anew.
    """
    caches = caches or Caches()
    teacher_data = (experiment.teacher and experiment.teacher.data) or experiment.data
    student, teacher = load_source(experiment.data, caches), load_source(teacher_data, caches)
    unlabelled = None
    if experiment.method.uses_unlabelled:
        unlabelled = load_unlabelled_images(experiment.data, student.train, caches)
    return Sides(experiment, task_of(experiment.task), teacher, student, unlabelled)
