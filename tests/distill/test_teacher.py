"""The teacher cannot change, and its kept outputs are those that it would give now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import Batches, ImageSet, Look
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.distill.teacher_views import TeacherViews
from gkd.methods.optimiser import Optimiser
from gkd.methods.terms import Term
from gkd.models import build_network
from gkd.storage.weights import state_hash

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


def test_it_stays_in_eval_mode_and_without_gradient(make_teacher: MakeTeacher) -> None:
    teacher = make_teacher("abc")
    parent = nn.ModuleList([teacher, nn.Dropout()])
    parent.train()
    assert parent[1].training
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.randn(4, 1, 8, 8, requires_grad=True)
    features = teacher.features(images)
    outputs = (teacher(images), features.logits, features.embedding, *features.maps)
    assert not any(output.requires_grad for output in outputs)


def test_training_a_student_does_not_change_it(
    make_teacher: MakeTeacher, make_batch: Callable[..., Batch]
) -> None:
    teacher = make_teacher("abc")
    before = teacher.state_hash()
    student = build_network("resnet8", num_classes=3, in_channels=1)
    relation = LabelRelation(teacher.space, LabelSpace("abc"))
    terms = {"kd": Term(loss="kd"), "sp": Term(loss="sp"), "tuples": Term(loss="tuples", temperature=1.0)}
    distiller = Distiller(student, TeacherSide(teacher, relation), terms)
    optimiser = Optimiser(lr=0.1).build(distiller.param_groups())
    distiller.train()
    student_before = state_hash(student)
    for seed in range(4):
        optimiser.zero_grad()
        distiller(make_batch(3, seed=seed))["loss"].backward()
        optimiser.step()
    assert state_hash(student) != student_before
    assert teacher.state_hash() == before
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_hash_covers_buffers(make_teacher: MakeTeacher) -> None:
    teacher = make_teacher("abc")
    before = teacher.state_hash()
    assert before == make_teacher("abc").state_hash()
    next(teacher.network.buffers()).add_(1e-3)
    assert teacher.state_hash() != before


def test_outputs_are_named_by_weights_normalisation_and_taps() -> None:
    network, space = build_network("resnet8", num_classes=3, in_channels=1), LabelSpace("abc")
    ways: list[dict[str, Any]] = [{}, {"mean": (0.4,)}, {"std": (0.2,)}, {"built_as": "tapped elsewhere"}]
    keys = [Teacher(network, space, **{"mean": (0.5,), "std": (0.25,), **way}).outputs_key() for way in ways]
    assert len(set(keys)) == len(ways)


def test_another_class_count_than_the_space_is_refused() -> None:
    network = build_network("resnet8", num_classes=4, in_channels=1)
    with pytest.raises(UserError, match="has 4 classes, but its label space has 3; give the classes"):
        Teacher(network, LabelSpace("abc"), mean=(0.5,), std=(0.25,))


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
    with pytest.raises(UserError, match=r"data.views=2 would keep .* use fewer views or raise run.cache_gb"):
        list(views_of(make_teacher("abc"), limit=2 * size - 1).epoch(0, 0, (), batches))
