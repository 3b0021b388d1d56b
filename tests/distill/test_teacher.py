"""The teacher cannot change."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.methods.optimiser import Optimiser
from gkd.methods.terms import Term
from gkd.models import build_network
from gkd.storage.weights import state_hash
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]


def test_it_stays_in_eval_mode_and_without_gradient(make_teacher: MakeTeacher) -> None:
    teacher = make_teacher("abc")
    parent = nn.ModuleList([teacher, nn.Dropout()])
    parent.train()
    assert parent[1].training
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    features = teacher.features(images)
    outputs = (teacher(images), features.logits, features.embedding, *features.maps)
    assert not any(output.requires_grad for output in outputs)


def test_training_a_student_does_not_change_it(
    make_teacher: MakeTeacher, make_batch: Callable[..., Batch]
) -> None:
    teacher = make_teacher("abc")
    before = teacher.state_hash()
    student = build_network("resnet8", num_classes=3, in_channels=1)
    relation = LabelRelation(teacher.space, LabelSpace([*"abc"]))
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
    network, space = build_network("resnet8", num_classes=3, in_channels=1), LabelSpace([*"abc"])
    ways: list[dict[str, Any]] = [{}, {"mean": (0.4,)}, {"std": (0.2,)}, {"built_as": "tapped elsewhere"}]
    keys = [Teacher(network, space, **{"mean": (0.5,), "std": (0.25,), **way}).outputs_key() for way in ways]
    assert len(set(keys)) == len(ways)


def test_another_class_count_than_the_space_is_refused() -> None:
    network = build_network("resnet8", num_classes=4, in_channels=1)
    with refused("other-classes"):
        Teacher(network, LabelSpace([*"abc"]), mean=(0.5,), std=(0.25,))


def test_it_normalises_pixels_itself_and_refuses_what_is_normalised(make_teacher: MakeTeacher) -> None:
    teacher = make_teacher("abc", mean=(0.5,), std=(0.25,))
    pixels = torch.randint(
        0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    floats = pixels.float() / 255
    expected = teacher.features((floats - 0.5) / 0.25).logits
    torch.testing.assert_close(teacher(floats), expected)
    torch.testing.assert_close(teacher(pixels), expected)
    assert not torch.allclose(teacher.features(floats).logits, expected)  # the statistics matter
    with refused("normalised-already"):
        teacher((floats - 0.5) / 0.25)
    for one_end in (2 * floats, floats - 1):
        with pytest.raises(UserError, match="takes pixels in"):
            teacher(one_end)
    assert teacher(floats.mul(1.2).sub(0.1)).shape == (4, 3)  # a cubic resize overshoots
    network = teacher.network
    plain = Teacher(network, LabelSpace([*"abc"]))
    assert torch.equal(plain((floats - 0.5) / 0.25), expected)  # no statistics of its own: as they are


@pytest.mark.parametrize("said", ["view", "shared", "no statistics"])
def test_a_step_outside_the_loop_says_what_the_teacher_sees(make_teacher: MakeTeacher, said: str) -> None:
    teacher = make_teacher("abc", mean=(0.5,), std=(0.25,))
    student = build_network("resnet8", num_classes=3, in_channels=1)
    pixels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    distiller = Distiller(student, teacher, {"kd": Term(loss="kd")}, classes=teacher.space)
    batch = Batch((pixels - 0.1) / 0.3, torch.arange(4) % 3)
    with pytest.warns(UserWarning, match="mean and std of its own"):
        distiller(batch)
    if said == "view":
        batch = replace(batch, view=teacher.normalised(pixels))
    elif said == "shared":
        batch = replace(batch, shared=True)
    else:
        distiller = Distiller(
            student, Teacher(teacher.network, teacher.space), {"kd": Term(loss="kd")}, classes=teacher.space
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller(batch)
