"""Task adapters: their base class, their options, and the registry that finds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.plugins import entry_point_table, load_plugin
from gkd.problems.problem import Problem, Source
from gkd.storage.run_results import RunSummary

# Adapters by name, found through the entry-point group, so that a third party's are found too.
GROUP = "gkd.tasks"
TASKS: dict[str, EntryPoint] = {name: points[0] for name, points in entry_point_table(GROUP).items()}


# The task that trains one network over given classes: a teacher, or one judged from its weight file alone.
PLAIN = "standard"


class TaskOptions(BaseModel):
    """Base of a task's options: its keys in the ``task`` section of an experiment file.

    Attributes:
        UNPICKLES: dotted keys of the options that name files whose content is unpickled, which is to run it.
        name: the task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    UNPICKLES: ClassVar[tuple[str, ...]] = ()

    name: str

    def numbers_by(self) -> dict[str, tuple[str, ...]]:
        """What a result of the task is a number of, beside the axes of a grid: column -> its values; here nothing.

        A published number names a value of each (``gkd.report.published``).
        """
        return {}


class Task:
    """Base of task adapters: which classes and images each side has, and how the problems are solved.

    An adapter has ``Options``, ``spaces`` and ``problems``; the rest has defaults.

    Attributes:
        Options: the class of its options.
        students_teach: whether the student of a problem teaches the next one, so that a method needs no other teacher.
        judges_peers: whether a method may train a second student beside the first, and both are judged.
        teacher_classes_key: the option that says which classes the teacher has.
        solver: solves all problems of a run, from a ``gkd.experiment.solve.Job``; None solves the one problem that
            there is (``gkd.experiment.solve.solve_problem``). ``gkd.incremental.sequence.solve_sequence`` solves one
            after the other, each student starting from the one before.
        trials: yields a dry run's trials, from a ``gkd.experiment.prepare.Prepared``; None tries the problem's stages.
    """

    Options: ClassVar[type[TaskOptions]]
    students_teach: ClassVar[bool] = False
    judges_peers: ClassVar[bool] = False
    teacher_classes_key: ClassVar[str] = "task.teacher_classes"
    solver: ClassVar[Callable[[Any], tuple[RunSummary, bool]] | None] = None
    trials: ClassVar[Callable[[Any], Iterable[Any]] | None] = None

    def __init__(self, options: Any) -> None:
        self.options = options

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation over the data sets' full spaces; needs no image, so it can refuse early."""
        raise NotImplementedError

    def relate(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation of a teacher that keeps classes of its own (``teacher.classes``) to the student's, as selected.

        Raises:
            UserError: a relation that the task has no use for.
        """
        return LabelRelation(teacher, student)

    def of_each(
        self, classes: Mapping[str, LabelSpace], own: Collection[str], *, unread: bool = False
    ) -> Mapping[str, Task]:
        """The task as it is for each of several teachers; by default the same for all.

        Args:
            classes: the teachers' names -> their classes, or those that the task may select of.
            own: the teachers that keep classes of their own.
            unread: there are teachers beside these, which the method does not read and options may be meant for.

        Raises:
            UserError: options that fit no teacher.
        """
        return dict.fromkeys(classes, self)

    def with_own_teacher(self, problem: Problem, classes: LabelSpace) -> Problem:
        """A problem of the task without a teacher, for a teacher that keeps these classes of its own.

        Raises:
            UserError: classes that the task has no use for.
        """
        return problem.with_relation(self.relate(classes, problem.relation.student))

    def leaves_out_rows(self, *, foreign: bool) -> bool:
        """Whether a loss on the teacher's logits may leave out rows, of classes that the teacher lacks.

        Decided by the options alone, since it names runs (``gkd.config.identity``); True where these do not tell.

        Args:
            foreign: a teacher keeps classes of its own, or was trained on other data than the student's.
        """
        return True

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        """The problems in the order in which they are solved; ``seed`` is that of the run, for tasks that draw."""
        raise NotImplementedError

    def teacher_task(self) -> dict[str, Any] | None:
        """The task section of the run that trains a teacher; None trains it by the plain task over its classes."""
        return None

    def taught_by_student(self) -> TaskOptions:
        """The options of a generation after the first, whose teacher has the student's classes, on the student's data.

        Needed of a task whose options have ``generations`` (``gkd.problems.generations``).
        """
        raise NotImplementedError

    def for_judging(self) -> TaskOptions:
        """The options without what concerns the teacher, to judge a finished run's student where it is gone."""
        options: TaskOptions = self.options
        return options


def task_class(name: str) -> Any:
    """The adapter class of a key of `TASKS`, imported now.

    Raises:
        UserError: two packages offer the name, or the import fails.
    """
    return load_plugin(GROUP, name, what="task")


def task_of(options: TaskOptions) -> Task:
    """The adapter of a task, over its options.

    Raises:
        UserError: an adapter that does not extend `Task`.
    """
    adapter = task_class(options.name)
    if not issubclass(adapter, Task):
        raise UserError(
            f"The task {options.name} is {adapter.__module__}.{adapter.__qualname__}, which does not extend "
            "gkd.problems.task.Task; let it do so, or use an adapter of this version of gkd.",
            code="not-a-task",
        )
    task: Task = adapter(options)
    return task


def students_teach(name: str) -> bool:
    """Whether the students of a task teach the next ones, so that its methods need no other teacher."""
    return bool(getattr(task_class(name), "students_teach", False))


def plain_task(classes: Iterable[str] | None = None) -> dict[str, Any]:
    """The task section of a run that trains or judges one network over some classes; None takes all of the data's."""
    names: Sequence[str] | None = None if classes is None else list(classes)
    section: dict[str, Any] = task_class(PLAIN).section(names)
    return section
