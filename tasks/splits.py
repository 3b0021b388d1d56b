"""Class splits of few-shot learning: base, validation and novel classes that share none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from gkd.core.class_orders import CLASS_SPLITS, class_order, class_split
from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.data.rotations import unturned
from gkd.few_shot.problem import FewShotProblem
from gkd.problems.classes import Classes, Order
from gkd.problems.generations import refuse_generations
from gkd.problems.problem import Problem, Source
from gkd.problems.task import TaskOptions

_TO = {"train": "train on", "validation": "choose on", "test": "test on"}  # part of a split -> its use


def _count_or_classes(value: Any) -> Any:
    """``64`` is short for the next 64 classes of the order; selections go on to their own schema."""
    return value if type(value) is int or value is None else Classes.model_validate(value)


Part = Annotated[int | Classes | None, BeforeValidator(_count_or_classes)]


class ClassSplitOptions(TaskOptions):
    """The classes to train on, to choose the best epoch on, and to test on.

    Attributes:
        split: a class split by its paper's name (``gkd.core.class_orders``); None goes by the next three.
        base: the classes to train on: a number, taken first from ``order``, or a selection. Where base, validation and
            novel are all None: those of the data's own training images, if its parts share no class.
        validation: the classes to choose the best epoch on: a number, taken next, or a selection.
        novel: the classes to test on, likewise.
        order: of the classes, for numbers. Rotations of one class stay together and count once.
        teacher_classes: where the teacher's are not the base classes.
        aliases: student name -> teacher name, for a teacher of another data set.
        match: a regular expression: two names are one class where its first match in them is equal.
        allow_leak: lets a teacher know novel classes; every table says so.
    """

    split: str | None = None
    base: Part = None
    validation: Part = None
    novel: Part = None
    order: Order = "natural"
    teacher_classes: Classes | None = None
    aliases: dict[str, str] = Field(default_factory=dict)
    match: str | None = Field(default=None, min_length=1)
    allow_leak: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_generations(cls, options: Any) -> Any:
        task = str(cls.model_fields["name"].default)
        return refuse_generations(options, task, "a teacher of the base classes is tried on novel ones")

    @model_validator(mode="after")
    def _one_kind_of_split(self) -> ClassSplitOptions:
        parts = {name: getattr(self, name) for name in ("base", "validation", "novel")}
        named = [name for name, part in parts.items() if part is not None]
        if self.split is not None and named:
            raise ValueError(f"split names the classes, so leave out {' and '.join(named)}")
        if self.split is not None and self.split not in CLASS_SPLITS:
            raise ValueError(unknown("class split", self.split, CLASS_SPLITS))
        if named and not {"base", "novel"} <= set(named) and named != ["validation"]:
            raise ValueError(
                "give base and novel, and validation if you like; or none, for data that is split by class"
            )
        kinds = {type(parts[name]) for name in named}
        if len(kinds) > 1:
            raise ValueError("give numbers for base, validation and novel, or selections for all of them")
        for name in named:
            if type(parts[name]) is int and parts[name] < (0 if name == "validation" else 2):
                raise ValueError(
                    f"{name}={parts[name]} classes are too few; a task needs two classes or more"
                )
        if self.order != "natural" and kinds != {int}:
            raise ValueError("order is for numbers of classes; give base, validation and novel as numbers")
        return self

    @property
    def classes(self) -> dict[str, Any]:
        """The options that select each part's classes, for the task section of another run."""
        keys = {"split", "base", "validation", "novel", "order"}
        return self.model_dump(mode="json", include=keys, exclude_defaults=True)


Split = TypeVar("Split", bound=ClassSplitOptions)


def sides(options: ClassSplitOptions, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
    """The relation of the teacher's classes, selected or by default, to the base classes."""
    base = base_classes(options, student)
    if options.teacher_classes is not None:
        of_teacher = options.teacher_classes.select(teacher)
    else:
        of_teacher = base if set(base) <= set(teacher) else teacher  # another data set's: all of them
    return LabelRelation(of_teacher, base, options.aliases, options.match)


def teacher_task(options: ClassSplitOptions) -> dict[str, Any] | None:
    """The task section of the run that trains the teacher; None where the teacher's classes are selected.

    Its few episodes are constant, so that tasks that differ in episodes share one teacher.
    """
    if options.teacher_classes is not None:
        return None
    few = {
        "count": 100,
        "validation": 100,
        "ways": 2,
        "shots": 1,
        "queries": 1,
        "classifiers": "nearest-mean",
    }
    return {"name": "few_shot", **options.classes, "episodes": few}


def without_teacher(options: Split) -> Split:
    """The options without the teacher's classes, which may be those of images that are gone."""
    return options.model_copy(update={"teacher_classes": None, "aliases": {}, "match": None})


def parts_of(source: Source) -> list[ImageSet]:
    """All images of a source."""
    return [source.train, source.validation, source.test, *([source.other] if source.other else [])]


def base_classes(options: ClassSplitOptions, train: LabelSpace) -> LabelSpace:
    """The base classes, from those of the training images."""
    if options.split is not None:
        return _of_split(options.split, "train", train)
    if isinstance(options.base, Classes):
        return options.base.select(train)
    if isinstance(options.base, int):
        return LabelSpace(_in_turn(train, options.order, (options.base,))[0])
    if isinstance(options.validation, int):
        counts = (len(_groups(train)) - options.validation,)
        return LabelSpace(_in_turn(train, options.order, counts)[0])
    held_out = options.validation.select(train) if options.validation else ()
    return train.select([name for name in train if name not in held_out])


def validation_classes(options: ClassSplitOptions, source: Source) -> LabelSpace | None:
    """The classes that choose the best epoch; None where none are kept apart for that."""
    train, count = source.space, options.validation
    if options.split is not None:
        return _of_split(options.split, "validation", _all_classes(source))
    if isinstance(count, Classes):
        return count.select(train)
    if not count:
        return source.other.space if source.other else None
    before = options.base if isinstance(options.base, int) else len(_groups(train)) - count
    return LabelSpace(_in_turn(train, options.order, (before, count))[1])


def novel_classes(options: ClassSplitOptions, source: Source) -> LabelSpace:
    """The classes that are tested.

    Raises:
        UserError: neither the options nor the data say which they are, or both do.
    """
    train, test = source.space, source.test.space
    apart = not set(train) & set(test)
    if options.split is not None:
        return _of_split(options.split, "test", _all_classes(source))
    if options.novel is None and not apart:
        raise UserError(
            f"{source.train.name} has the same classes to train and to test on: say which of them are new to a few-"
            "shot learner, as in task.base=64 task.validation=16 task.novel=20, or by name: task.split=cifar_fs.",
            code="novel-classes-missing",
        )
    if options.novel is not None and apart:
        raise UserError(
            f"The test images of {source.test.name} are of {len(test)} classes without training images, and those "
            "are the novel ones; leave out task.base and task.novel (task.validation may take training classes).",
            code="novel-classes-twice",
        )
    return novel_among(options, train) or test


def novel_among(options: ClassSplitOptions, train: LabelSpace) -> LabelSpace | None:
    """The novel classes as far as the options say them; None where they are those of the test images."""
    if options.split is not None:
        return LabelSpace(class_split(options.split)["test"])
    if isinstance(options.novel, Classes):
        return options.novel.select(train)
    if options.novel is None:
        return None
    counts = [
        part if isinstance(part, int) else 0 for part in (options.base, options.validation, options.novel)
    ]
    return LabelSpace(_in_turn(train, options.order, counts)[2])


# What is known of the novel classes that a teacher knows, where its own classes are not.
UNTOLD = "perhaps all of the novel classes, for those of the teacher are not known"
_WORDNET_ID = re.compile(r"n\d{8}(?=[ _-])")


def leak(options: ClassSplitOptions, relation: LabelRelation, novel: LabelSpace) -> tuple[str, ...]:
    """The teacher's classes that are novel ones, or rotations of one.

    One that is called by a WordNet id, as in a label set, is every class whose name begins with it, and by
    ``options.match`` every class in whose name that finds the same.

    Raises:
        UserError: there are some, and nothing allows them.
    """
    named = {teacher: student for student, teacher in relation.aliases.items()}
    new = {unturned(name) for name in novel}
    new |= {found[0] for found in map(_WORDNET_ID.match, new) if found}
    new |= {_key(name, options.match) for name in new}
    leaked = tuple(
        name
        for name in relation.teacher
        if {known := unturned(named.get(name, name)), _key(known, options.match)} & new
    )
    if leaked and not options.allow_leak:
        raise UserError(
            f"The teacher knows {len(leaked)} of the {len(novel)} novel classes ({_some(leaked)}), so its student "
            "would be no few-shot learner; use a teacher of the base classes (leave out task.teacher_classes), or "
            "set task.allow_leak=true, which every table then says.",
            code="leaked-classes",
        )
    return leaked


def _key(name: str, match: str | None) -> str:
    """What the expression finds in a name; the whole name without one, or where it finds nothing."""
    found = re.search(match, name) if match else None
    return found.group() if found and found.group() else name


def with_own_teacher(
    options: ClassSplitOptions, problem: Problem, relation: LabelRelation, novel: LabelSpace
) -> Problem:
    """A few-shot problem with a teacher that keeps classes of its own, none of which may be novel.

    Of one whose classes nobody knows, nobody knows that either; output and tables say so.
    """
    assert isinstance(problem, FewShotProblem)
    leaked = leak(options, relation, novel) if relation.teacher.named else (UNTOLD,)
    return replace(problem.with_relation(relation), leak=(*problem.leak, *leaked))


def _groups(space: LabelSpace) -> dict[str, list[str]]:
    """The classes of a space by the class of which they are rotations."""
    groups: dict[str, list[str]] = {}
    for name in space:
        groups.setdefault(unturned(name), []).append(name)
    return groups


def _in_turn(space: LabelSpace, order: str, counts: Sequence[int]) -> list[list[str]]:
    """Consecutive classes of an order: ``counts`` of them for the parts of the split."""
    groups = _groups(space)
    if sum(counts) > len(groups) or counts[0] < 2:
        raise UserError(
            f"The split asks for {' + '.join(map(str, counts))} classes, but the data has {len(groups)}; choose "
            "task.base, task.validation and task.novel to fit.",
            code="too-few-classes",
        )
    ordered, parts, start = list(class_order(LabelSpace(list(groups)), order)), [], 0
    for count in counts:
        parts.append([name for stem in ordered[start : start + count] for name in groups[stem]])
        start += count
    return parts


def _all_classes(source: Source) -> LabelSpace:
    """All classes that any part of the source has images of."""
    return LabelSpace(list(dict.fromkeys(name for images in parts_of(source) for name in images.space)))


def _of_split(split: str, part: str, space: LabelSpace) -> LabelSpace:
    """The classes of a part of a named split, for data that has them all."""
    names = class_split(split)[part]
    missing = [name for name in names if name not in space]
    if missing:
        raise UserError(
            f"task.split={split} names {len(names)} classes to {_TO[part]}, but the data lacks {len(missing)} of them "
            f"({_some(missing)}); use it with the data set that it splits, or give task.base and task.novel.",
            code="class-missing",
        )
    return space.select(names)


def of_classes(source: Source, space: LabelSpace) -> Source:
    """A source's images of some classes; where no test image is of them, the held-out images stand in."""
    test = source.test if set(space) <= set(source.test.space) else source.validation
    return Source(source.train.restrict(space), source.validation.restrict(space), test.restrict(space))


def check_apart(parts: dict[str, LabelSpace | None]) -> None:
    """Refuse parts that share a class, or rotations of one."""
    sets = {part: {unturned(name) for name in space} for part, space in parts.items() if space is not None}
    names = list(sets)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = sorted(sets[one] & sets[other])
            if shared:
                raise UserError(
                    f"The {one} and the {other} classes share {len(shared)} ({_some(shared)}); a class may be in one "
                    f"part of the split only: take them out of task.{one} or task.{other}.",
                    code="shared-classes",
                )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
