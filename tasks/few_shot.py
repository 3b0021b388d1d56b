"""Few-shot learning: a student of the base classes, judged on episodes over classes that it has never seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gkd.class_splits import CLASS_SPLITS, class_split
from gkd.data import ImageSet, gather
from gkd.data.episodes import draw_episodes
from gkd.data.rotations import unturned
from gkd.errors import UserError, unknown
from gkd.few_shot import EpisodeSet, FewShot
from gkd.labels import LabelRelation, LabelSpace, class_order
from gkd.metrics.few_shot import CENTRED, CLASSIFIERS
from gkd.task import Classes, Order, Problem, Source, TaskOptions


def _one_or_more(value: Any) -> Any:
    """``5`` is short for ``[5]``."""
    return (value,) if isinstance(value, int | str) else value


Numbers = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_one_or_more), Field(min_length=1)
]


class EpisodeOptions(BaseModel):
    """Which episodes a student is judged on, and by what.

    Attributes:
        count: E, the episodes of the test for each number of ways.
        validation: E of those that choose the best epoch, by the first number of ways.
        ways, shots: N and K, one or several; 1 and 5 shots are judged on the same classes and queries.
        queries: Q of each class.
        seed: of the draw; the same for all methods, seeds and teachers.
        classifiers: what answers the queries; the first chooses the epoch and leads tables.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=2000, ge=2)
    validation: int = Field(default=200, ge=2)
    ways: Numbers = (5,)
    shots: Numbers = (1, 5)
    queries: int = Field(default=15, ge=1)
    seed: int = Field(default=0, ge=0)
    classifiers: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = (
        "nearest-mean",
        "cosine",
        "logistic",
    )

    @field_validator("classifiers")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in (*CLASSIFIERS, CENTRED):
                raise ValueError(unknown("classifier", name, (*CLASSIFIERS, CENTRED)))
        return names


def _count_or_classes(value: Any) -> Any:
    """``64`` is short for the next 64 classes of the order; selections go on to their own schema."""
    return value if type(value) is int or value is None else Classes.model_validate(value)


Part = Annotated[int | Classes | None, BeforeValidator(_count_or_classes)]


class FewShotOptions(TaskOptions):
    """Which classes are trained on, chosen on and tested on, and the episodes.

    Attributes:
        split: a class split by its paper's name (``gkd.class_splits``); None goes by the next three.
        base, validation, novel: numbers of classes, taken one after the other from ``order``, or selections. All None:
            the classes of the data's own training, validation and test images, where these share none.
        order: of the classes, for numbers. Rotations of one class stay together and count once.
        teacher_classes: where the teacher's are not the base classes.
        aliases: student name -> teacher name, for a teacher of another data set.
        episodes: how the student is judged.
        allow_leak: lets a teacher know novel classes; every table says so.

    Without validation classes the epoch is chosen on episodes of the base classes' held-out images.
    """

    name: Literal["few_shot"] = "few_shot"
    split: str | None = None
    base: Part = None
    validation: Part = None
    novel: Part = None
    order: Order = "natural"
    teacher_classes: Classes | None = None
    aliases: dict[str, str] = Field(default_factory=dict)
    episodes: EpisodeOptions = EpisodeOptions()
    allow_leak: bool = False

    @model_validator(mode="after")
    def _one_kind_of_split(self) -> FewShotOptions:
        parts = {name: getattr(self, name) for name in ("base", "validation", "novel")}
        given = [name for name, part in parts.items() if part is not None]
        if self.split is not None and given:
            raise ValueError(f"split names the classes, so leave out {' and '.join(given)}")
        if self.split is not None and self.split not in CLASS_SPLITS:
            raise ValueError(unknown("class split", self.split, CLASS_SPLITS))
        if given and not {"base", "novel"} <= set(given) and given != ["validation"]:
            raise ValueError(
                "give base and novel, and validation if you like; or none, for data that is split by class"
            )
        kinds = {type(parts[name]) for name in given}
        if len(kinds) > 1:
            raise ValueError("give numbers for base, validation and novel, or selections for all of them")
        for name in given:
            if type(parts[name]) is int and parts[name] < (0 if name == "validation" else 2):
                raise ValueError(
                    f"{name}={parts[name]} classes are too few; a task needs two classes or more"
                )
        if self.order != "natural" and kinds != {int}:
            raise ValueError("order is for numbers of classes; give base, validation and novel as numbers")
        return self


class FewShotTask:
    """One problem over the base classes; the student is judged on episodes over novel ones."""

    Options = FewShotOptions

    def __init__(self, options: FewShotOptions) -> None:
        self.options = options

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation of the teacher's classes to the base classes, which are among those of the training images."""
        chosen = self.options.teacher_classes
        base = self._base(student)
        return LabelRelation(chosen.select(teacher) if chosen else base, base, self.options.aliases)

    def problems(self, teacher: Source, student: Source) -> Iterator[Problem]:
        relation = self.spaces(teacher.space, student.space)
        validation, novel = self._others(student)
        _check_apart({"base": relation.student, "validation": validation, "novel": novel})
        other = [] if student.other is None else [student.other]
        everything = [student.train, student.validation, student.test, *other]
        own = _of_classes(student, relation.student)
        held_out = gather(everything, validation) if validation else own.validation
        options = self.options.episodes
        few_shot = FewShot(
            self._episodes(gather(everything, novel), options.count, options.ways, "novel classes"),
            self._episodes(held_out, options.validation, options.ways[:1], "validation classes"),
            options.classifiers,
            self._leak(relation, novel),
        )
        yield Problem("student", relation, _of_classes(teacher, relation.teacher), own, few_shot=few_shot)

    def teacher_task(self) -> dict[str, Any] | None:
        """The same classes, but hardly judged, so that other episodes are no other teacher."""
        if self.options.teacher_classes is not None:
            return None
        kept = {"split", "base", "validation", "novel", "order"}
        few = {
            "count": 100,
            "validation": 100,
            "ways": 2,
            "shots": 1,
            "queries": 1,
            "classifiers": "nearest-mean",
        }
        classes = self.options.model_dump(mode="json", include=kept, exclude_defaults=True)
        return {"name": "few_shot", **classes, "episodes": few}

    def _base(self, train: LabelSpace) -> LabelSpace:
        """The base classes, from those of the training images."""
        options = self.options
        if options.split is not None:
            return train.select(class_split(options.split)["train"])
        if isinstance(options.base, Classes):
            return options.base.select(train)
        if isinstance(options.base, int):
            return LabelSpace(_in_turn(train, options.order, (options.base,))[0])
        if isinstance(options.validation, int):
            counts = (len(_groups(train)) - options.validation,)
            return LabelSpace(_in_turn(train, options.order, counts)[0])
        held = options.validation.select(train) if options.validation else ()
        return train.select([name for name in train if name not in held])

    def _others(self, source: Source) -> tuple[LabelSpace | None, LabelSpace]:
        """The validation classes (None: none) and the novel classes."""
        options, train, test = self.options, source.space, source.test.space
        apart = not set(train) & set(test)
        if options.split is not None:
            names = class_split(options.split)
            places = [train, test, *([source.other.space] if source.other else [])]
            return _among(places, names["validation"]), _among(places, names["test"])
        if options.novel is None and not apart:
            raise UserError(
                f"{source.train.name} has the same classes to train and to test on: say which of them are new to a few-"
                "shot learner, as in task.base=64 task.validation=16 task.novel=20, or by name: task.split=cifar_fs."
            )
        if options.novel is not None and apart:
            raise UserError(
                f"The test images of {source.test.name} are of {len(test)} classes without training images, and those "
                "are the novel ones; leave out task.base and task.novel (task.validation may take training classes)."
            )
        if isinstance(options.novel, int):
            assert isinstance(options.base, int)  # one kind of split
            assert not isinstance(options.validation, Classes)
            counts = (options.base, options.validation or 0, options.novel)
            _, held, rest = _in_turn(train, options.order, counts)
            return _space(held), LabelSpace(rest)
        novel = options.novel.select(train) if options.novel else test
        if isinstance(options.validation, Classes):
            return options.validation.select(train), novel
        if options.validation:
            kept = len(_groups(train)) - options.validation
            return _space(_in_turn(train, options.order, (kept, options.validation))[1]), novel
        return source.other.space if source.other else None, novel

    def _episodes(self, images: ImageSet, count: int, ways: tuple[int, ...], what: str) -> EpisodeSet:
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
            raise UserError(f"Episodes of the {what}: {error}") from None
        return EpisodeSet(images, drawn, options.shots)

    def _leak(self, relation: LabelRelation, novel: LabelSpace) -> tuple[str, ...]:
        """The novel classes that the teacher knows.

        Raises:
            UserError: there are some, and nothing allows them.
        """
        named = {teacher: student for student, teacher in relation.aliases.items()}
        leak = tuple(name for name in relation.teacher if named.get(name, name) in novel)
        if leak and not self.options.allow_leak:
            raise UserError(
                f"The teacher knows {len(leak)} of the {len(novel)} novel classes ({_some(leak)}), so its student "
                "would be no few-shot learner; use a teacher of the base classes (leave out task.teacher_classes), or "
                "set task.allow_leak=true, which every table then says."
            )
        return leak


def _groups(space: LabelSpace) -> dict[str, list[str]]:
    """The classes of a space by the class of which they are rotations."""
    groups: dict[str, list[str]] = {}
    for name in space:
        groups.setdefault(unturned(name), []).append(name)
    return groups


def _in_turn(space: LabelSpace, order: str, counts: Sequence[int]) -> list[list[str]]:
    """Classes one after the other in an order, so many for each part of the split."""
    groups = _groups(space)
    if sum(counts) > len(groups) or counts[0] < 2:
        raise UserError(
            f"The split asks for {' + '.join(map(str, counts))} classes, but the data has {len(groups)}; choose "
            "task.base, task.validation and task.novel to fit."
        )
    ordered, parts, start = list(class_order(LabelSpace(list(groups)), order)), [], 0
    for count in counts:
        parts.append([name for stem in ordered[start : start + count] for name in groups[stem]])
        start += count
    return parts


def _space(names: Sequence[str]) -> LabelSpace | None:
    return LabelSpace(names) if names else None


def _among(places: Sequence[LabelSpace], names: Sequence[str]) -> LabelSpace:
    """Classes of a named split, wherever the data has them."""
    known = LabelSpace(list(dict.fromkeys(name for place in places for name in place)))
    return known.select(names)


def _of_classes(source: Source, space: LabelSpace) -> Source:
    """A source's images of some classes; where no test image is of them, the held-out images stand in."""
    test = source.test if set(space) <= set(source.test.space) else source.validation
    return Source(source.train.restrict(space), source.validation.restrict(space), test.restrict(space))


def _check_apart(parts: dict[str, LabelSpace | None]) -> None:
    """Refuses parts that share a class, or rotations of one."""
    sets = {part: {unturned(name) for name in space} for part, space in parts.items() if space is not None}
    names = list(sets)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = sorted(sets[one] & sets[other])
            if shared:
                raise UserError(
                    f"The {one} and the {other} classes share {len(shared)} ({_some(shared)}); a class may be in one "
                    f"part of the split only: take them out of task.{one} or task.{other}."
                )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
