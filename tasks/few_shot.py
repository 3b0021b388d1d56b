"""Few-shot learning: a student of the base classes, judged on episodes over classes that it has never seen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet, gather
from gkd.data.episodes import draw_episodes
from gkd.few_shot.classifiers import CENTRED, known_classifiers
from gkd.few_shot.judging import MOST_QUERIES, EpisodeSet, setting_name
from gkd.few_shot.learn2learn import NAMELESS, TASKSETS, learn2learn_episodes
from gkd.few_shot.problem import FewShotProblem
from gkd.few_shot.task_judging import EpisodeJudging
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task

from .splits import (
    ClassSplitOptions,
    check_apart,
    leak,
    novel_classes,
    of_classes,
    parts_of,
    sides,
    teacher_task,
    validation_classes,
    with_own_teacher,
    without_teacher,
)
from .teacher_options import options_of_each, own_relation


def _one_or_more(value: Any) -> Any:
    """``5`` is short for ``[5]``."""
    return (value,) if isinstance(value, int | str) else value


Numbers = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_one_or_more), Field(min_length=1)
]


def _check_classifiers(names: tuple[str, ...]) -> tuple[str, ...]:
    return known_classifiers(names, CENTRED)


Classifiers = Annotated[
    tuple[str, ...], BeforeValidator(_one_or_more), AfterValidator(_check_classifiers), Field(min_length=1)
]


class EpisodeOptions(BaseModel):
    """The episodes that a student is judged on, and the classifiers.

    Attributes:
        count: E, the episodes of the test for each number of ways.
        validation: E of those that choose the best epoch, by the first number of ways.
        ways: N, the classes of an episode, one number or several.
        shots: K, the support images of each class, one number or several, judged on the same classes and queries.
        queries: Q of each class.
        seed: of the draw; the same for all methods, seeds and teachers.
        classifiers: what answers the queries; the first chooses the epoch and leads tables.
        source: what draws the novel episodes: gkd, or ``learn2learn``, whose ``taskset`` has images of its own.
        taskset: of learn2learn (``gkd.few_shot.learn2learn.TASKSETS``).
        root: the folder of the taskset. learn2learn unpickles what it finds there: a folder that you trust.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=2000, ge=2)
    validation: int = Field(default=200, ge=2)
    ways: Numbers = (5,)
    shots: Numbers = (1, 5)
    queries: int = Field(default=15, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    classifiers: Classifiers = ("nearest-mean", "cosine", "logistic")
    source: Literal["gkd", "learn2learn"] = "gkd"
    taskset: str | None = None
    root: Path | None = None

    @model_validator(mode="after")
    def _a_taskset_to_draw_from(self) -> EpisodeOptions:
        stated = [name for name in ("taskset", "root") if getattr(self, name) is not None]
        if self.source == "learn2learn" and len(stated) < 2:
            raise ValueError(
                "episodes of learn2learn need taskset and root, as in taskset: cifarfs, root: FOLDER"
            )
        if self.source == "gkd" and stated:
            raise ValueError(
                f"{' and '.join(stated)} are for source: learn2learn; set that, or leave them out"
            )
        if self.taskset is not None and self.taskset not in TASKSETS:
            raise ValueError(unknown("taskset", self.taskset, TASKSETS))
        if max(self.ways) * self.queries > MOST_QUERIES:
            raise ValueError(
                f"{max(self.ways)} ways of {self.queries} queries are more than {MOST_QUERIES} an episode"
            )
        return self


_WITHOUT_VALIDATION = "data.validation, which chooses the epoch where task.validation names no classes"


class FewShotOptions(ClassSplitOptions):
    """The class split, and the episodes that the student is judged on.

    Attributes:
        episodes: how the student is judged.

    Without validation classes the epoch is chosen on episodes of the base classes' held-out images.
    """

    UNPICKLES: ClassVar[tuple[str, ...]] = ("episodes.root",)  # by learn2learn

    name: Literal["few_shot"] = "few_shot"
    episodes: EpisodeOptions = EpisodeOptions()

    def numbers_by(self) -> dict[str, tuple[str, ...]]:
        episodes = self.episodes
        settings = [setting_name(ways, shots) for ways in episodes.ways for shots in episodes.shots]
        return {"setting": tuple(settings), "classifier": episodes.classifiers}


class FewShotTask(Task):
    """One problem over the base classes; the student is judged on episodes over novel ones."""

    Options = FewShotOptions

    def __init__(self, options: FewShotOptions) -> None:
        self.options = options

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation of the teacher's classes to the base classes, which are among those of the training images."""
        return sides(self.options, teacher, student)

    def relate(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        return own_relation(self.options, teacher, student)

    def leaves_out_rows(self, *, foreign: bool) -> bool:
        return foreign or self.options.teacher_classes is not None

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        relation = self.spaces(teacher.space, student.space)
        validation, novel = validation_classes(self.options, student), self._novel(student)
        check_apart({"base": relation.student, "validation": validation, "novel": novel.images.space})
        leaked = leak(self.options, relation, novel.images.space)
        if self.options.episodes.taskset in NAMELESS:
            leaked = (*leaked, f"perhaps all of learn2learn's {self.options.episodes.taskset}")
        base = of_classes(student, relation.student)
        held_out = gather(parts_of(student), validation) if validation else base.validation
        options = self.options.episodes
        about = (
            "validation classes" if validation else f"base classes' held-out images ({_WITHOUT_VALIDATION})"
        )
        chosen = self._drawn(held_out, options.validation, options.ways[:1], about)
        judging = EpisodeJudging(novel, chosen, options.classifiers)
        of_teacher = of_classes(teacher, relation.teacher)
        yield FewShotProblem(
            "student", relation, of_teacher, base, measured=base.train, judging=judging, leak=leaked
        )

    def _novel(self, source: Source) -> EpisodeSet:
        """The test episodes, drawn by gkd or by learn2learn."""
        options = self.options.episodes
        if options.taskset is None or options.root is None:  # both or none, as the source says
            images = gather(parts_of(source), novel_classes(self.options, source))
            return self._drawn(images, options.count, options.ways, "novel classes")
        if options.taskset in NAMELESS and not self.options.allow_leak:
            raise UserError(
                f"learn2learn's {options.taskset} does not name its classes as data.name does, so nobody can tell "
                "whether training has seen them; use another, or task.allow_leak=true, which every table then says.",
                code="nameless-classes",
            )
        if len(options.ways) > 1:
            raise UserError(
                "Episodes of learn2learn have one number of ways; set task.episodes.ways to one.",
                code="several-ways",
            )
        images, drawn = learn2learn_episodes(
            options.taskset, root=options.root, ways=options.ways[0], shots=max(options.shots),
            queries=options.queries, count=options.count, seed=options.seed, allow_leak=self.options.allow_leak,
        )  # fmt: skip
        if images.image_shape != source.train.image_shape:
            novel, base = ("×".join(map(str, part.image_shape)) for part in (images, source.train))
            raise UserError(
                f"The images of learn2learn's {options.taskset} are {novel} and those of data.name {base}; set "
                "data.image_size and data.channels to theirs.",
                code="other-image-shape",
            )
        return EpisodeSet(images, (drawn,), options.shots)

    def with_own_teacher(self, problem: Problem, classes: LabelSpace) -> Problem:
        assert isinstance(problem.judging, EpisodeJudging)
        relation = self.relate(classes, problem.relation.student)
        return with_own_teacher(self.options, problem, relation, problem.judging.novel.images.space)

    def teacher_task(self) -> dict[str, Any] | None:
        return teacher_task(self.options)

    def of_each(
        self, classes: Mapping[str, LabelSpace], own: Collection[str], *, unread: bool = False
    ) -> dict[str, Task]:
        each = options_of_each(self.options, classes, own, unread=unread)
        return {name: FewShotTask(options) for name, options in each.items()}

    def for_judging(self) -> FewShotOptions:
        return without_teacher(self.options)

    def _drawn(self, images: ImageSet, count: int, ways: tuple[int, ...], what: str) -> EpisodeSet:
        options = self.options.episodes
        try:
            drawn = tuple(
                draw_episodes(
                    images.labels,
                    count=count,
                    ways=number,
                    shots=max(options.shots),
                    queries=options.queries,
                    seed=options.seed,
                    classes=images.space.names,
                )
                for number in ways
            )
        except UserError as error:
            raise UserError(f"Episodes of the {what}: {error}", code=error.code) from None
        return EpisodeSet(images, drawn, options.shots)
