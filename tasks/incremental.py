"""Incremental learning: classes arrive in steps, and the model of each step teaches the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.incremental.accuracy_matrix import ANSWERS, NUMBERS
from gkd.incremental.dry_run import step_trials
from gkd.incremental.loop import solve_steps
from gkd.incremental.memory import SELECTIONS
from gkd.incremental.problem import IncrementalProblem, step_problems
from gkd.incremental.scenario import Steps, class_steps, folder_steps, given_steps, seen_classes
from gkd.incremental.step import Rehearsal
from gkd.problems.generations import refuse_generations
from gkd.problems.problem import Source
from gkd.problems.task import Task, TaskOptions

# A seed may be written as a number in YAML; a list names every class.
ArrivalOrder = Annotated[
    str | tuple[str | int, ...], BeforeValidator(lambda order: str(order) if type(order) is int else order)
]


class IncrementalOptions(TaskOptions):
    """The arrival of classes, the exemplar memory, and the network that a step's student starts from.

    Attributes:
        base: classes of the first step; 0 has ``increment`` of them.
        increment: classes of every later step; the last one has what remains.
        order: the classes in the order of arrival: ``natural``, a seed such as ``"1993"`` (the literature's), ``seed``
            for the run's own, a name of ``gkd.core.class_orders.NAMED_ORDERS``, or a list of all of them.
        steps: the classes of each step instead of base, increment and order; ``folders`` takes them from data
            with one folder for each step (``step-folders``).
        memory_total: exemplars of all classes together; this, ``memory_per_class`` or neither.
        memory_per_class: exemplars of each class.
        selection: how exemplars are chosen: ``herding``, ``closest`` or ``random``.
        base_epochs: epochs of the first step, where its model is not given, instead of ``run.epochs``.
        start_from: the step, from 1, whose model is the experiment's teacher: a weight file, or one trained
            once for all methods. Without a teacher section the first step is trained by the method itself.
        fresh_student: every step's student is a new network, which may be unlike the teacher, instead of the old one
            with further classes.
        match: a regular expression by which a teacher beside the previous model shares classes: two names are one
            class where its first match in them is equal.
    """

    name: Literal["incremental"] = "incremental"
    base: int | None = Field(default=None, ge=0)
    increment: int | None = Field(default=None, ge=1)
    order: ArrivalOrder = "natural"
    steps: Literal["folders"] | tuple[tuple[str | int, ...], ...] | None = None
    memory_total: int | None = Field(default=None, ge=1)
    memory_per_class: int | None = Field(default=None, ge=1)
    selection: str = "herding"
    base_epochs: int | None = Field(default=None, ge=1)
    start_from: int = Field(default=1, ge=1)
    fresh_student: bool = False
    match: str | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _without_generations(cls, options: Any) -> Any:
        return refuse_generations(options, "incremental", "the student of each step teaches the next already")

    @model_validator(mode="after")
    def _one_scenario(self) -> IncrementalOptions:
        numbers = (self.base, self.increment)
        if self.steps is not None and (numbers != (None, None) or self.order != "natural"):
            raise ValueError(
                "give steps, or base, increment and order, not both; drop one, in an override by null, as in "
                "task.base=null task.increment=null"
            )
        if self.steps is None and None in numbers:
            raise ValueError(
                "give base and increment, such as base: 50, increment: 10, or the classes of all steps"
            )
        if self.memory_total is not None and self.memory_per_class is not None:
            raise ValueError(
                f"give memory_total or memory_per_class, not both ({self.memory_total} and {self.memory_per_class}): a "
                "memory has one budget; drop one, in an override by null, as in task.memory_per_class=null"
            )
        if self.selection not in SELECTIONS:
            raise ValueError(unknown("selection of exemplars", self.selection, SELECTIONS))
        return self

    def numbers_by(self) -> dict[str, tuple[str, ...]]:
        return {"answers": ANSWERS, "number": tuple(NUMBERS)}


class IncrementalTask(Task):
    """One problem a step; the first has no old class, and the model of each is the teacher of the next."""

    Options = IncrementalOptions
    students_teach = True
    solver = solve_steps
    trials = step_trials

    def __init__(self, options: IncrementalOptions) -> None:
        self.options = options

    def steps(self, space: LabelSpace, seed: int = 0) -> Steps:
        """The classes of every step, in the order of arrival."""
        options = self.options
        if options.steps == "folders":
            steps = folder_steps(space)
        elif options.steps is not None:
            steps = given_steps(space, options.steps)
        else:
            order = str(seed) if options.order == "seed" else options.order
            base, increment = options.base or 0, options.increment or 1  # both set where steps are not
            steps = class_steps(space, base=base, increment=increment, order=order)
        if options.start_from >= len(steps):
            raise UserError(
                f"task.start_from={options.start_from} leaves nothing to learn: there are {len(steps)} steps; use 1 to "
                f"{len(steps) - 1}.",
                code="start-from-out-of-range",
            )
        return steps

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation of the first step that has a teacher; of an order by seed, that of seed 0."""
        steps, start = self.steps(student), self.options.start_from
        return LabelRelation(seen_classes(steps, start - 1), seen_classes(steps, start))

    def relate(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        return LabelRelation(teacher, student, match=self.options.match)

    def leaves_out_rows(self, *, foreign: bool) -> bool:
        return False  # a step's losses on logits read all rows

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[IncrementalProblem]:
        """One problem a step, without exemplars, which the models of earlier steps choose.

        Raises:
            UserError: test images of other classes, or a memory of less than an exemplar a class.
        """
        options = self.options
        yield from step_problems(
            student,
            self.steps(student.space, seed),
            rehearsal=Rehearsal(options.memory_total, options.memory_per_class, options.selection),
            start_from=options.start_from - 1,
            fresh=options.fresh_student,
            base_epochs=options.base_epochs,
        )

    def for_judging(self) -> IncrementalOptions:
        return self.options.model_copy(update={"start_from": 1})
