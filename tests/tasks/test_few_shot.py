"""Few-shot: which classes are in which part, what is drawn over them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from gkd.config.load import load
from gkd.config.schema import Data, Validation
from gkd.core.labels import LabelRelation, LabelSpace, unnamed_classes
from gkd.data import ImageSet, channel_statistics
from gkd.data.rotations import with_rotations
from gkd.experiment.sources import load_source
from gkd.few_shot.task_judging import EpisodeJudging
from gkd.problems.problem import Problem, Source
from gkd.problems.task import TASKS
from gkd.tasks.few_shot import FewShotOptions, FewShotTask
from gkd.tasks.splits import UNTOLD, leak
from gkd.training import stage_run
from tests.cli_helpers import gkd
from tests.refusals import refused

FEW = {"count": 6, "validation": 4, "ways": 2, "shots": [1, 2], "queries": 3}


@pytest.fixture
def source(make_set: Callable[..., ImageSet]) -> Source:
    """Ten classes in all three parts."""
    return Source(*(make_set("abcdefghij", num, seed=seed) for seed, num in enumerate((100, 60, 50))))


@pytest.fixture
def apart(make_set: Callable[..., ImageSet]) -> Source:
    """Data that is split by class."""
    return Source(make_set("abcdef", 60), make_set("abcdef", 48, seed=1), make_set("ghi", 30, seed=2))


def problem(source: Source, teacher: Source | None = None, **options: Any) -> Problem:
    task = FewShotTask(FewShotOptions(**{"episodes": FEW, **options}))
    (found,) = task.problems(teacher or source, source)
    return found


def names(found: Problem) -> tuple[list[str], list[str], list[str]]:
    assert isinstance(found.judging, EpisodeJudging)
    parts = (found.student.train, found.judging.validation.images, found.judging.novel.images)
    return tuple(list(images.space) for images in parts)  # type: ignore[return-value]


def test_it_is_found_by_entry_point() -> None:
    assert TASKS["few_shot"].load() is FewShotTask


@pytest.mark.parametrize(
    ("options", "base", "validation", "novel"),
    [
        ({"base": 5, "validation": 2, "novel": 3}, "abcde", "fg", "hij"),
        ({"base": 4, "novel": 3}, "abcd", "abcd", "efg"),
        ({"base": ["j", "a"], "novel": {"indices": [1, 2]}}, "ja", "ja", "bc"),
        ({"base": {"size": 3, "shift": 2}, "validation": ["a", "b"], "novel": ["j", "i"]}, "cde", "ab", "ji"),
    ],
)
def test_classes_by_number_and_by_name(
    source: Source, options: dict[str, Any], base: str, validation: str, novel: str
) -> None:
    found = problem(source, **options)
    assert names(found) == (list(base), list(validation), list(novel))
    assert found.relation.kind == "same"
    assert list(found.teacher.train.space) == list(base)


def test_numbers_follow_an_order(source: Source) -> None:
    base, validation, novel = names(problem(source, base=4, validation=3, novel=3, order="1993"))
    assert sorted(base + validation + novel) == list("abcdefghij")
    assert base != list("abcd")


def test_novel_classes_have_all_their_images_and_base_classes_their_training_images(source: Source) -> None:
    found = problem(source, base=5, validation=2, novel=3)
    assert isinstance(found.judging, EpisodeJudging)
    assert found.judging.novel.images.class_counts().tolist() == [10 + 6 + 5] * 3
    assert found.student.train.class_counts().tolist() == [10] * 5
    assert len(found.student.test) == 25


def test_data_that_is_split_by_class_needs_no_options(apart: Source) -> None:
    assert names(problem(apart)) == (list("abcdef"), list("abcdef"), list("ghi"))
    assert names(problem(apart, validation=2)) == (list("abcd"), list("ef"), list("ghi"))
    assert names(problem(apart, validation=["b", "c"])) == (list("adef"), list("bc"), list("ghi"))
    # No test image is of a base class, so those held out stand in.
    assert problem(apart).student.test.class_counts().tolist() == [8] * 6


def test_the_datas_own_validation_classes_are_taken(apart: Source, make_set: Callable[..., ImageSet]) -> None:
    own = replace(apart, other=make_set("xyz", 30, seed=5))
    assert names(problem(own)) == (list("abcdef"), list("xyz"), list("ghi"))


def test_a_papers_split_by_name(make_set: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch) -> None:
    split = {"train": ["c", "a"], "validation": ["b", "d"], "test": ["e", "f"]}
    monkeypatch.setattr("gkd.tasks.splits.class_split", lambda name: split)
    source = Source(*(make_set("abcdef", 48, seed=seed) for seed in range(3)))
    assert names(problem(source, split="cifar_fs")) == (["c", "a"], ["b", "d"], ["e", "f"])
    by_class = Source(make_set("ac", 40), make_set("ac", 20), make_set("fe", 40), make_set("db", 40))
    assert names(problem(by_class, split="mini_imagenet")) == (["c", "a"], ["b", "d"], ["e", "f"])


def test_rotations_stay_in_the_part_of_their_class(source: Source) -> None:
    turned = Source(*(with_rotations(images) for images in (source.train, source.validation, source.test)))
    base, validation, novel = names(problem(turned, base=4, validation=2, novel=3, order="7"))
    stems = [{name[0] for name in part} for part in (base, validation, novel)]
    assert [len(part) for part in (base, validation, novel)] == [16, 8, 12]
    assert [len(stem) for stem in stems] == [4, 2, 3]
    assert not stems[0] & stems[1] | stems[0] & stems[2] | stems[1] & stems[2]


def test_episodes_of_fewer_shots_have_the_classes_and_queries_of_those_of_more(source: Source) -> None:
    found = problem(source, base=5, novel=5, episodes={**FEW, "ways": [2, 4]}).judging
    assert isinstance(found, EpisodeJudging)
    settings = dict(found.novel.settings())
    assert list(settings) == ["2-way 1-shot", "2-way 2-shot", "4-way 1-shot", "4-way 2-shot"]
    one, two = settings["4-way 1-shot"], settings["4-way 2-shot"]
    assert torch.equal(one.query, two.query)
    assert torch.equal(one.support, two.support[:, :, :1])
    assert len(list(found.validation.settings())) == 2


def test_no_support_image_is_a_query_and_every_sample_is_of_its_class(source: Source) -> None:
    found = problem(source, base=5, novel=5, episodes={**FEW, "count": 300}).judging
    assert isinstance(found, EpisodeJudging)
    (drawn,) = found.novel.episodes
    support, query = drawn.support.flatten(1), drawn.query.flatten(1)
    assert not (support.unsqueeze(2) == query.unsqueeze(1)).any()
    rows = found.novel.images.labels[drawn.index]
    assert torch.equal(rows, drawn.classes.unsqueeze(2).expand_as(rows))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"base": ["a", "b"], "novel": ["b", "c"]}, "shared-classes"),
        (
            {"base": ["a", "b"], "validation": ["c", "d"], "novel": ["d", "e"]},
            "shared-classes",
        ),
        ({"base": 8, "novel": 4}, "too-few-classes"),
        ({}, "novel-classes-missing"),
        (
            {"base": 5, "novel": 2, "episodes": {**FEW, "ways": 3}},
            "too-few-classes",
        ),
        (
            {"base": 5, "novel": 5, "episodes": {**FEW, "queries": 50}},
            "too-few-images",
        ),
    ],
)
def test_splits_and_episodes_that_cannot_be(source: Source, options: dict[str, Any], code: str) -> None:
    with refused(code):
        problem(source, **options)


def test_episodes_are_told_by_the_classes_that_they_are_of(source: Source) -> None:
    many = {**FEW, "queries": 9}  # a class has 10 images to train on and 6 held out, 5 of a test
    with refused("too-few-images") as caught:
        problem(source, base=4, novel=3, episodes=many)
    assert "held-out images" in str(caught.value)
    assert "validation classes" not in str(caught.value)
    few = {**FEW, "ways": 3}
    with refused("too-few-classes") as caught:
        problem(source, base=4, validation=2, novel=3, episodes=few)
    assert str(caught.value).startswith("Episodes of the validation classes: ")
    with refused("too-few-classes") as caught:
        problem(source, base=2, novel=3, episodes=few)
    assert str(caught.value).startswith("Episodes of the base classes' held-out images ")


def test_classes_of_data_that_is_split_already(apart: Source) -> None:
    with refused("novel-classes-twice"):
        problem(apart, base=2, novel=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "cifar_sf"}, "cifar_fs"),
        ({"split": "cifar_fs", "base": 5}, "leave out base"),
        ({"base": 5}, "base and novel"),
        ({"base": 5, "novel": ["a"]}, "numbers for base, validation and novel, or selections"),
        ({"base": 1, "novel": 5}, "too few"),
        ({"order": "1993"}, "order is for numbers"),
        ({"episodes": {"classifiers": "nearest"}}, "nearest-mean"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        FewShotOptions(**options)


def test_a_teacher_of_novel_classes_is_a_leak(source: Source) -> None:
    options = {"base": 5, "novel": 3, "teacher_classes": ["a", "b", "g"]}
    with refused("leaked-classes"):
        problem(source, **options)
    assert problem(source, **options, allow_leak=True).leak == ("g",)
    aliases = {"base": 5, "novel": 3, "teacher_classes": ["a", "b", "j"], "aliases": {"c": "j"}}
    assert problem(source, **aliases).leak == ()


def test_a_teacher_with_classes_of_its_own_may_know_no_novel_one(source: Source) -> None:
    options = {"base": 5, "novel": 3}
    without = problem(source, **options)
    for allowed in (False, True):
        task = FewShotTask(FewShotOptions(**options, allow_leak=allowed))
        apart = task.with_own_teacher(without, LabelSpace(["a", "b", "other"]))
        assert (apart.leak, apart.relation.num_shared) == ((), 2)
        untold = task.with_own_teacher(without, unnamed_classes(1))
        assert untold.relation.kind == "none"
        assert untold.leak == (UNTOLD,)
    assert task.with_own_teacher(without, LabelSpace(["a", "g"])).leak == ("g",)
    with refused("leaked-classes"):
        FewShotTask(FewShotOptions(**options)).with_own_teacher(without, LabelSpace(["a", "g"]))


def test_a_wordnet_id_is_the_class_whose_name_begins_with_it() -> None:
    novel = LabelSpace(["n01494475_hammerhead", "n0149447_short", "other"])
    relation = LabelRelation(LabelSpace(["n01494475", "n01440764", "n0149447"]), LabelSpace(["base", "more"]))
    options = FewShotOptions(base=2, novel=3, allow_leak=True)
    assert leak(options, relation, novel) == ("n01494475",)
    with refused("leaked-classes"):
        leak(options.model_copy(update={"allow_leak": False}), relation, novel)


def test_classes_of_a_teacher_of_its_own_are_found_by_alias_and_match(source: Source) -> None:
    options = {"base": list("abcde"), "novel": list("fgh"), "match": "^."}
    without = problem(source, **options)
    task = FewShotTask(FewShotOptions(**options, aliases={"b": "z"}, teacher_classes=["a1", "z", "d1"]))
    own = LabelSpace(["a1", "z", "c1", "d1"])
    for relation in (
        task.relate(own, without.relation.student),
        task.with_own_teacher(without, own).relation,
    ):
        assert [relation.teacher.names[column] for column in relation.teacher_index] == ["a1", "z", "d1"]
    with refused("leaked-classes"):
        task.with_own_teacher(without, LabelSpace(["a1", "z", "d1", "f1"]))


def test_a_rotation_of_what_the_teacher_knows_is_a_leak(source: Source) -> None:
    turned = Source(*map(with_rotations, (source.train, source.validation, source.test)))
    novel = [f"{name} turned by 90" for name in "fgh"]
    with refused("leaked-classes"):
        problem(turned, base=list("abcde"), novel=novel, teacher_classes=["a", "b", "g"])


def test_a_papers_split_of_other_data_is_refused(source: Source) -> None:
    with refused("class-missing"):
        problem(source, split="cifar_fs")


def test_a_seed_beyond_what_generators_take_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than"):
        FewShotOptions(base=5, novel=5, episodes={"seed": 2**63})


def test_a_teacher_of_other_data_keeps_its_classes(source: Source, make_set: Callable[..., ImageSet]) -> None:
    theirs = Source(*(make_set("mno", 30, seed=seed) for seed in range(3)))
    found = problem(source, theirs, base=5, novel=3)
    assert list(found.relation.teacher) == list("mno")
    assert found.relation.kind == "disjoint"


def test_other_episodes_are_no_other_teacher() -> None:
    tasks = [
        FewShotTask(FewShotOptions(base=5, novel=5, episodes={**FEW, "count": count})) for count in (10, 99)
    ]
    assert tasks[0].teacher_task() == tasks[1].teacher_task()
    assert FewShotOptions(**tasks[0].teacher_task() or {}).base == 5


def test_no_image_of_a_novel_class_reaches_training(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run, its teacher included: batches, statistics and selection see base and held-out images alone."""
    monkeypatch.chdir(tmp_path)
    trained: list[ImageSet] = []
    validated: list[ImageSet] = []
    measured: list[ImageSet] = []

    def recording(kept: list[ImageSet], function: Callable[..., Any]) -> Callable[..., Any]:
        def record(images: ImageSet, *args: Any, **options: Any) -> Any:
            kept.append(images)
            return function(images, *args, **options)

        return record

    monkeypatch.setattr(stage_run, "Batches", recording(trained, stage_run.Batches))
    monkeypatch.setattr("gkd.experiment.sources.channel_statistics", recording(measured, channel_statistics))
    validate = EpisodeJudging.validate
    monkeypatch.setattr(
        EpisodeJudging,
        "validate",
        lambda judging, *rest: (
            validated.append(judging.validation.images),
            validate(judging, *rest),
        )[1],
    )
    words = ("run.epochs=1", "teacher.train.epochs=1", "run.threads=1", "task.episodes.count=20")
    assert gkd("run", "few_shot/digits", "method=sp", "task.order=1993", *words) == 0
    options = load("few_shot/digits", ["task.order=1993"]).experiment
    task = FewShotTask(options.task)
    source = load_source(Data(name="digits", validation=Validation(per_class=20)))
    (found,) = task.problems(source, source)
    assert isinstance(found.judging, EpisodeJudging)
    novel = {image.numpy().tobytes() for image in found.judging.novel.images.images}
    assert len(trained) >= 2  # the teacher's and the student's
    assert len(measured) >= 2
    for kept in (trained, validated, measured):
        assert kept
        for images in kept:
            assert not novel & {image.numpy().tobytes() for image in images.images}
            assert not set(images.space) & set(found.judging.novel.images.space)


def write_cifarfs(root: Path, names: dict[str, str]) -> None:
    """Class folders where learn2learn's ``cifarfs`` looks for them: twelve grey 8-pixel images of each class."""
    generator = np.random.default_rng(0)
    for split, classes in names.items():
        for name in classes:
            folder = root / "cifarfs" / "processed" / split / name
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = generator.integers(0, 255, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).convert("RGB").save(folder / f"{number}.png")


def test_learn2learn_can_be_the_source_of_episodes(source: Source, tmp_path: Path) -> None:
    write_cifarfs(tmp_path, {"train": "opq", "val": "rst", "test": "uvwc"})
    coloured = Source(
        *(
            replace(images, images=images.images.expand(-1, 3, -1, -1))
            for images in (source.train, source.validation, source.test)
        )
    )
    drawn = {**FEW, "source": "learn2learn", "taskset": "cifarfs", "root": str(tmp_path)}
    found = problem(coloured, base=["a", "b"], novel=["c", "d"], episodes=drawn)
    assert isinstance(found.judging, EpisodeJudging)
    assert set(found.judging.novel.images.space) == set("uvwc")
    assert [setting for setting, _ in found.judging.novel.settings()] == ["2-way 1-shot", "2-way 2-shot"]
    assert set(found.student.train.space) == {"a", "b"}
    with refused("other-image-shape"):
        problem(source, base=["a", "b"], novel=["c", "d"], episodes=drawn)
    with refused("shared-classes"):
        problem(coloured, base=["b", "c"], novel=["d", "e"], episodes=drawn)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": "learn2learn"}, "need taskset and root"),
        ({"taskset": "cifarfs"}, "taskset are for source: learn2learn"),
        ({"source": "learn2learn", "taskset": "cifar-fs", "root": "x"}, "cifarfs"),
    ],
)
def test_sources_that_are_not_whole(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        FewShotOptions(base=2, novel=2, episodes=options)


def test_classes_that_cannot_be_told_from_the_base_classes_are_a_leak(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = problem(source, base=5, novel=5).judging
    assert isinstance(images, EpisodeJudging)
    theirs = (images.novel.images, images.novel.episodes[0])
    monkeypatch.setattr("gkd.tasks.few_shot.learn2learn_episodes", lambda *_, **__: theirs)
    drawn = {**FEW, "source": "learn2learn", "taskset": "fc100", "root": "x"}
    with refused("nameless-classes"):
        problem(source, base=5, novel=5, episodes=drawn)
    found = problem(source, base=5, novel=5, episodes=drawn, allow_leak=True)
    assert found.leak == ("perhaps all of learn2learn's fc100",)
