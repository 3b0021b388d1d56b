"""The schema of an experiment file: what each section may hold. Unknown keys are forbidden."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from gkd.config.data_section import Data, TeacherView, Unlabelled, Validation
from gkd.config.generations import check_generations
from gkd.config.peers import check_peer
from gkd.config.run_section import Run
from gkd.config.section import HomePath, Section
from gkd.config.side_sections import ABOVE_CHANCE, MapTap, Side, Student, Taps, Teacher, TeacherTraining
from gkd.config.teacher_sections import check_teachers, named_sections
from gkd.core.errors import unknown
from gkd.methods.method import Method
from gkd.metrics import check_metric_name
from gkd.problems.task import TaskOptions, task_class

__all__ = [
    "ABOVE_CHANCE",
    "Compare",
    "Data",
    "Evaluate",
    "Experiment",
    "MapTap",
    "MethodRow",
    "Run",
    "Section",
    "Side",
    "Student",
    "Taps",
    "Teacher",
    "TeacherTraining",
    "TeacherView",
    "Unlabelled",
    "Validation",
]


class Evaluate(Section):
    """How often and how the student is judged.

    Attributes:
        every: epochs from one validation to the next.
        batch_size: images a forward pass; it changes no result.
        metrics: what is computed of the test logits beside the accuracy: names (``gkd.metrics.METRICS``) or
            ``pkg.module:name``.
    """

    every: int = Field(default=1, ge=1)
    batch_size: int = Field(default=512, ge=1)
    metrics: tuple[str, ...] = ()

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_metric(cls, metrics: Any) -> Any:
        return (metrics,) if isinstance(metrics, str) else metrics

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name in metrics:
            check_metric_name(name)
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"a metric stands twice in {', '.join(metrics)}; name each once")
        return metrics


class MethodRow(Section):
    """A row of a grid that is a method under its own label, with some settings changed.

    Attributes:
        label: the row's name in the table.
        method: the method's name.
        set: dotted key -> value, such as ``optimiser.lr: 0.2``.
        terms: term -> its keys, changed in every stage that has the term, such as ``induced: {weight: 10}``.
        seeds: how many of ``compare.seeds``, as an override may state them, the row has, from the first; None has all.
    """

    label: str
    method: str
    seeds: int | None = Field(default=None, ge=1)
    set: dict[str, Any] = Field(default={})
    terms: dict[str, dict[str, Any]] = Field(default={})


class Compare(Section):
    """The axes of a grid: ``gkd compare`` runs every cell and prints one table.

    Attributes:
        methods: names of methods, or labelled variants of one; each is one row a relation.
        seeds: values of ``run.seed``; they are averaged over.
        axes: any other dotted key -> its values.
        pairs: name -> dotted key -> value of what changes together, such as two networks, a checkpoint and a learning
            rate; or the path of a CSV file with a row a pair and a column ``pair``. ``terms.dkd.beta`` is a key of the
            rows whose method has the term.
        pair: which of ``pairs``; None is all.
        baseline: the method that the others are compared with, image by image.
        report: what the table compares: test accuracy of the ``last`` epoch's student or of the ``best``
            on validation; or, for tuning, the best ``validation`` accuracy alone, without any test number.
        table: ``full``, or of test accuracies a ``short`` one: what each method gains over the baseline, with its
            interval. The table's CSV and JSON have everything.
        published: a CSV file of published numbers, whose columns are config, method, accuracy, source, perhaps std or
            interval, and those of axes (``pair``, ``task.shift``), of a few-shot task setting and classifier, of an
            incremental one answers and number; they stand beside the grid's own. Its path starts where the config is.
        results: a folder for the table and its cells, so that they can be committed; None keeps
            them beside the runs.
    """

    methods: tuple[str | MethodRow, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    axes: dict[str, tuple[Any, ...]] = Field(default={})
    pairs: dict[str, dict[str, Any]] = Field(default={})
    pair: tuple[str, ...] | None = Field(default=None, min_length=1)
    baseline: str = "student"
    report: Literal["last", "best", "validation"] = "last"
    table: Literal["full", "short"] = "full"
    published: HomePath | None = None
    results: HomePath | None = None

    @field_validator("pair", mode="before")
    @classmethod
    def _one_pair(cls, pair: Any) -> Any:
        return (pair,) if isinstance(pair, str) else pair

    @model_validator(mode="after")
    def _pairs_are_there(self) -> Compare:
        for name in self.pair or ():
            if name not in self.pairs:
                raise ValueError(unknown("pair of compare.pairs", name, sorted(self.pairs)))
        for name, changes in self.pairs.items():
            short = [key for key in changes if key.startswith("terms.") and key.count(".") < 2]
            if short:
                raise ValueError(
                    f"the pair {name!r} sets {short[0]}; name a term and its key, as in terms.dkd.beta"
                )
            twice = sorted(changes.keys() & {*self.axes, "method", "run.seed"})
            if twice:
                raise ValueError(
                    f"the pair {name!r} sets {twice[0]}, which is an axis of the grid already; let one of them set it"
                )
        return self

    @model_validator(mode="after")
    def _rows_have_names(self) -> Compare:
        labels = [row if isinstance(row, str) else row.label for row in self.methods]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"methods has two rows called {label!r}; give each its own label")
        if self.baseline not in labels:
            raise ValueError(
                unknown("baseline", self.baseline, labels) + f" As in compare.baseline={labels[0]}."
            )
        counts = {label: len(self.seeds_of(row)) for label, row in zip(labels, self.methods, strict=True)}
        if self.report != "validation" and counts[self.baseline] < max(counts.values()):
            raise ValueError(
                f"the baseline {self.baseline!r} has {counts[self.baseline]} of {max(counts.values())} seeds, and each "
                "difference to it is of one seed; give its row all seeds"
            )
        return self

    @property
    def chosen_pairs(self) -> dict[str, dict[str, Any]]:
        """The pairs of the grid, in the order in which they are asked for."""
        return {name: self.pairs[name] for name in self.pair or self.pairs}

    @property
    def axis_names(self) -> list[str]:
        """The axes of the grid, that of the pairs first."""
        return [*(["pair"] if self.pairs else []), *self.axes]

    def seeds_of(self, row: str | MethodRow) -> tuple[int, ...]:
        """The seeds of a row."""
        return self.seeds[: row.seeds] if isinstance(row, MethodRow) else self.seeds


class Experiment(Section):
    """A whole experiment, in the order of the file.

    Attributes:
        teachers: several teachers by name, in place of ``teacher``, each with its own classes, view, normalisation and
            weights. Terms read the first, or those that their ``teacher`` names; one that no term reads is not loaded.
            ``data.teacher_view`` is every one's view, but for the ``image_size`` and ``interpolation`` that one states.
            Where students teach the next ones, as in increments, they stand beside the previous model, which is called
            ``previous``. A teacher that is null is none.
    """

    task: SerializeAsAny[TaskOptions]
    data: Data
    teacher: Teacher | None = None
    teachers: dict[str, Teacher] = Field(default={})
    student: Student
    method: Method
    optimiser: dict[str, Any] = Field(default={})
    evaluate: Evaluate = Evaluate()
    run: Run = Run()
    compare: Compare | None = None

    @field_validator("teachers", mode="before")
    @classmethod
    def _of_named_teachers(cls, teachers: Any) -> Any:
        return named_sections(teachers)

    @model_validator(mode="after")
    def _teachers_go_together(self) -> Self:
        check_teachers(self)
        return self

    @model_validator(mode="after")
    def _generations_have_one_teacher(self) -> Self:
        check_generations(self)
        return self

    @model_validator(mode="after")
    def _task_has_a_peer(self) -> Self:
        check_peer(self)
        return self

    @model_validator(mode="after")
    def _can_be_extended(self) -> Self:
        """Refuse ``run.extend`` where nothing can be put behind the end of a shorter run."""
        if self.run.extend and len(self.method.stages) > 1:
            raise ValueError(
                f"run.extend goes on from the end of a method's one stage, and {self.method.name} has the stages "
                f"{', '.join(self.method.stages)}; drop run.extend, which trains from scratch"
            )
        if self.run.extend and task_class(self.task.name).solver is not None:
            raise ValueError(
                f"run.extend goes on from the end of a task's one problem, and {self.task.name} has several; drop "
                "run.extend, which trains from scratch"
            )
        return self
