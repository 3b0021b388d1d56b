"""The two sides of an experiment: the task's adapter, the teacher's images and the student's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

from gkd.config import schema
from gkd.config.shipped import shipped_methods
from gkd.config.teacher_sections import alone_with, named_teachers_read
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.user_code import told_of
from gkd.data import ImageSet
from gkd.experiment.checks import check_teacher_images, plan_of
from gkd.experiment.networks import has_own_network
from gkd.experiment.sources import load_source, load_unlabelled_images
from gkd.experiment.suggestions import working_methods
from gkd.experiment.teacher_classes import classes_beside, of_named, own_classes
from gkd.methods.method import Method
from gkd.methods.refusal import Relations, refusal, require
from gkd.methods.term_checks import PREVIOUS
from gkd.problems.problem import NamedTeacher, Problem, Source
from gkd.problems.task import Task, students_teach, task_of
from gkd.training.caches import Caches, Recent


@dataclass(frozen=True)
class Sides:
    """An experiment's task and the images from which it chooses classes; read and built once.

    Attributes:
        experiment: the experiment.
        task: its adapter.
        teacher, student: the images of each side.
        unlabelled: those without labels, where the method trains on any.
        named: each of several teachers that the method reads as the only one; the first, where it reads none.
        chosen: holds the first problem, so that a grid's rows do not copy the images of their classes anew.
    """

    experiment: schema.Experiment
    task: Task
    teacher: Source
    student: Source
    unlabelled: ImageSet | None = None
    named: Mapping[str, Sides] = field(default_factory=dict)
    chosen: Recent[Problem] = field(default_factory=lambda: Recent(1))

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
        """How the classes of the two sides relate, before any image is selected; of several teachers the first's."""
        if self.named and not self.task.students_teach:
            return next(iter(self.named.values())).relation
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
    def taught_relation(self) -> Relations:
        """The relation that a method must be able to work with, of several teachers by name; None without a teacher."""
        if self.experiment.teachers:
            previous = {PREVIOUS: self.relation} if self.task.students_teach else {}
            return previous | {name: self.relation_of(name) for name in self.named}
        taught = self.experiment.teacher is not None or self.task.students_teach
        return self.relation if taught else None

    def relation_of(self, name: str) -> LabelRelation:
        """The relation of one of several teachers."""
        sides = self.named[name]
        if not self.task.students_teach:
            return sides.relation
        return self._relation_beside(self._classes_beside(name), self.relation.student)

    def _relation_beside(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation of a teacher beside the steps' models to the classes seen so far."""
        with told_of(self.task, f"the task {self.experiment.task.name!r} relates the classes"):
            return self.task.relate(teacher, student)

    def _classes_beside(self, name: str) -> LabelSpace:
        with of_named(name):
            return classes_beside(self.named[name].experiment)

    def problems(self) -> Iterator[Problem]:
        """The task's problems in their order, the training images limited to ``data.per_class``."""
        data, run = self.experiment.data, self.experiment.run
        seed = run.seed if data.subset_seed is None else data.subset_seed
        for problem in self._made_for_all(run.seed):
            if self.unlabelled is not None:
                problem = replace(problem, unlabelled=self.unlabelled)
            yield problem if data.per_class is None else problem.limited(data.per_class, seed=seed)

    def _made_for_all(self, seed: int) -> Iterator[Problem]:
        """The task's problems with the named teachers, whose images and classes are each their own."""
        if not self.named:
            yield from self._made(seed)
        elif self.task.students_teach:
            spaces = {name: self._classes_beside(name) for name in self.named}
            for problem in self._made(seed):
                for name, space in spaces.items():
                    relation = self._relation_beside(space, problem.relation.student)
                    problem = problem.with_teacher(name, NamedTeacher(relation, problem.student))
                yield problem
        else:
            # A task makes the student's side of its problems whatever the teacher.
            for each in zip(*(sides._made(seed, name) for name, sides in self.named.items()), strict=True):
                problem, leak = each[0], tuple(dict.fromkeys(name for one in each for name in one.leak))
                if leak != problem.leak:
                    problem = replace(problem, leak=leak)
                for name, one in zip(self.named, each, strict=True):
                    problem = problem.with_teacher(name, NamedTeacher(one.relation, one.teacher))
                yield problem

    def _made(self, seed: int, name: str | None = None) -> Iterator[Problem]:
        """The task's problems as it makes them; what it raises is told of it, and what their reader raises is not.

        What is wrong about the classes of one of several teachers is told by its ``name``.
        """
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
                    with nullcontext() if name is None else of_named(name):
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
        of = self.experiment
        key = (
            of.task,
            of.data,
            of.teacher,
            of.teachers,
            tuple(self.named),
            of.run.seed,
            self.unlabelled is None,
        )
        return self._checked(lambda: self.chosen.get(repr(key), lambda: self._first(self.problems())))

    def last_problem(self) -> Problem:
        """The last of all problems, where the experiment can solve the first."""
        problems = self.problems()
        first = self._checked(lambda: self._first(problems))
        return [first, *problems][-1]

    def _first(self, problems: Iterator[Problem]) -> Problem:
        """The first that is not one whose student the experiment's teacher is."""
        has_teacher = self.experiment.teacher is not None
        return next(each for each in problems if not (has_teacher and each.solved_by_teacher))

    def _checked(self, choose: Callable[[], Problem]) -> Problem:
        """A problem that the experiment can solve; what no image is needed to know is checked before it is chosen."""
        own = has_own_network(self.experiment)
        require(
            self.experiment.method,
            self.taught_relation,
            lambda: self._other_methods(try_networks=not own),
            tried=not own,
        )
        problem = choose()
        check_teacher_images(self.experiment, problem)
        for name, sides in self.named.items():
            with of_named(name):
                check_teacher_images(sides.experiment, problem.of_teacher(name))
        problem.check(plan_of(self.experiment))
        return problem

    def _other_methods(self, *, try_networks: bool) -> dict[str, Method]:
        """The shipped methods that a refusal may suggest: those that pass what is checked before the first step.

        Beside a teacher only methods that read one are meant. Networks of the user's own are not imported for this.
        """
        steps, relation = self.task.students_teach, self.taught_relation
        use_teacher = relation is not None and not steps
        methods = {
            name: method
            for name, method in shipped_methods().items()
            if (steps or not method.after)
            and (method.needs_teacher or not use_teacher)
            and (self.unlabelled is not None or not method.uses_unlabelled)
            and (self.task.judges_peers or not method.reads_peer)
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
    names = named_teachers_read(experiment)
    if experiment.teachers and not names and not students_teach(experiment.task.name):
        names = (next(iter(experiment.teachers)),)  # whose classes tell how the task's relate
    alone = {name: alone_with(experiment, name) for name in names}
    views = {name: one.data.teacher_view for name, one in alone.items()}
    student = load_source(experiment.data, caches, views)
    teacher_data = (experiment.teacher and experiment.teacher.data) or experiment.data
    teacher = student if teacher_data == experiment.data else load_source(teacher_data, caches)
    unlabelled = None
    if experiment.method.uses_unlabelled:
        unlabelled = load_unlabelled_images(experiment.data, student.train, caches, views)
    task = task_of(experiment.task)
    named, kept = {}, {}
    for name, one in alone.items():
        with of_named(name):
            data = None if one.teacher is None else one.teacher.data
            images = student if data is None else load_source(data, caches)
            named[name] = Sides(one, task, images, student)
            if not task.students_teach:
                kept[name] = named[name].own_classes
    if len(experiment.teachers) > 1 and not task.students_teach:
        classes = {name: kept[name] or sides.teacher.space for name, sides in named.items()}
        with told_of(task, f"the task {experiment.task.name!r} tells its teachers apart"):
            own = [name for name, space in kept.items() if space is not None]
            each = task.of_each(classes, own, unread=len(named) < len(experiment.teachers))
        named = {name: replace(sides, task=each[name]) for name, sides in named.items()}
    return Sides(experiment, task, teacher, student, unlabelled, named, caches.problems)
