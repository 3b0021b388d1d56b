"""A teacher's kept outputs are those that it would give now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gkd.data import Batches, ImageSet, Look
from gkd.distill.teacher import Teacher
from gkd.distill.teacher_views import TeacherViews
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]


LOOK = Look((0.5,), (0.25,), "crop-flip")


@pytest.fixture
def make_batches(make_set: Callable[..., ImageSet]) -> Callable[..., Batches]:
    images = make_set("abcd", 20)

    def make(**settings: object) -> Batches:
        defaults = {"batch_size": 6, "seed": 1, "views": 2, "teacher": LOOK}
        return Batches(images, LOOK, **{**defaults, **settings})  # type: ignore[arg-type]

    return make


def views_of(teacher: Teacher, limit: float = 1e9) -> TeacherViews:
    return TeacherViews(teacher, autocast=torch.autocast("cpu", enabled=False), chunk=7, limit=limit)


@pytest.mark.parametrize(
    "look", [LOOK, replace(LOOK, mean=(0.0,), std=(1.0,)), replace(LOOK, augment="none")]
)
def test_kept_outputs_are_those_of_the_same_batches(
    make_teacher: MakeTeacher, make_batches: Callable[..., Batches], look: Look
) -> None:
    teacher, batches = make_teacher("abc"), make_batches(teacher=look)
    views = views_of(teacher)
    for epoch in range(3):  # views 0, 1 and 0 again
        plain = list(batches.epoch(epoch, 1))
        for batch, expected in zip(views.epoch(epoch, 1, {-1, 1}, batches), plain, strict=True):
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.index, expected.index)
            fresh = teacher.features(expected.teacher_images)
            kept = batch.teacher
            assert kept is not None
            assert torch.allclose(kept.logits, fresh.logits, atol=1e-6)
            assert torch.allclose(kept.embedding, fresh.embedding, atol=1e-6)
            for spot in (-1, 1):
                assert torch.allclose(kept.maps[spot], fresh.maps[spot], atol=1e-6)
            assert [values.numel() > 0 for values in kept.maps] == [False, True, False, True]


def test_a_view_is_computed_once_and_again_only_for_another_spot(
    make_teacher: MakeTeacher, make_batches: Callable[..., Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, views = make_teacher("abc"), None
    views = views_of(teacher)
    passes = 0
    compute = TeacherViews._compute

    def counted(self: TeacherViews, *arguments: object) -> object:
        nonlocal passes
        passes += 1
        return compute(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TeacherViews, "_compute", counted)
    for spots, expected in (
        ((), 2),
        ((), 2),
        ({-1}, 4),
        ((), 4),
        ({-1}, 4),
        ({3}, 4),
        ({1, 3}, 6),
        ({-3}, 6),
    ):
        for epoch in (0, 1):
            list(views.epoch(epoch, 0, spots, make_batches(stage=epoch)))
        assert passes == expected


def test_outputs_beyond_the_limit_are_refused(
    make_teacher: MakeTeacher, make_batches: Callable[..., Batches]
) -> None:
    batches = make_batches()
    size = 20 * (3 + 64) * 4  # images x (logits and embedding) x bytes
    list(views_of(make_teacher("abc"), limit=2 * size).epoch(0, 0, (), batches))
    with refused("cache-too-small"):
        list(views_of(make_teacher("abc"), limit=2 * size - 1).epoch(0, 0, (), batches))
