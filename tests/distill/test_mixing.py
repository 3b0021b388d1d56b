"""Terms on virtual samples, made in the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.mixing import draw_mixture, interpolated_logits, mix_batch
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import (
    kd_loss,
)
from gkd.methods.mixup import Mixup
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.distill.exact_networks import exact_pair
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]


MakeBatch = Callable[..., Batch]


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(0)
    return build_network("resnet8", num_classes=3, in_channels=1)


def virtual(student: nn.Module, frozen: Teacher, relation: LabelRelation, **mixup: Any) -> Distiller:
    terms = {
        "hard": Term(loss="cross_entropy", samples="virtual"),
        "soft": Term(loss="stkd", samples="virtual", temperature=2.0),
        "clean": Term(loss="kd", temperature=2.0),
    }
    return Distiller(student, TeacherSide(frozen, relation), terms, mixup=Mixup(**mixup)).eval()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("how", ["mixed", "interpolated"])
def test_terms_on_virtual_samples_see_the_mixture(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch, how: str, kind: str
) -> None:
    teacher, batch = make_teacher("cab"), make_batch(3)
    relation = LabelRelation(LabelSpace([*"cab"]), LabelSpace([*"abc"]))
    distiller = virtual(student, teacher, relation, teacher=how, kind=kind)
    torch.manual_seed(7)
    losses = distiller(batch)
    torch.manual_seed(7)
    mixture = draw_mixture(Mixup(kind=kind), 8, torch.device("cpu"), tuple(batch.images.shape[2:]))
    assert (mixture.box is not None) == (kind == "cutmix")
    mixed = mix_batch(replace(batch, outputs={"far": teacher.features(batch.images)}), mixture, 3)
    assert not mixed.images.equal(batch.images)
    assert not mixed.outputs  # which are of the clean images
    logits, targets = student(mixed.images), teacher.network(mixed.images)[:, [1, 2, 0]]
    if how == "interpolated":
        targets = interpolated_logits(teacher.network(batch.images)[:, [1, 2, 0]], mixture, 2.0)
    hard = torch.nn.functional.cross_entropy(logits, mixed.labels)
    assert losses["loss/hard"].item() == pytest.approx(hard.item(), rel=1e-5)
    assert losses["loss/soft"].item() == pytest.approx(
        kd_loss(logits, targets, temperature=2.0).item(), rel=1e-4
    )
    clean = kd_loss(student(batch.images), teacher.network(batch.images)[:, [1, 2, 0]], temperature=2.0)
    assert losses["loss/clean"].item() == pytest.approx(clean.item(), rel=1e-4)


def test_virtual_rows_count_where_all_their_classes_are_shared(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    teacher, batch = make_teacher("bcd"), make_batch(3)  # the student's a is not shared
    relation = LabelRelation(LabelSpace([*"bcd"]), LabelSpace([*"abc"]))
    distiller = virtual(student, teacher, relation)
    torch.manual_seed(5)
    soft = distiller(batch)["loss/soft"]
    torch.manual_seed(5)
    mixed = mix_batch(batch, draw_mixture(Mixup(), 8, torch.device("cpu")), 3)
    chosen = mixed.labels[:, 0] == 0
    assert 0 < int(chosen.sum()) < 8
    expected = kd_loss(
        student(mixed.images)[chosen][:, 1:], teacher.network(mixed.images)[chosen][:, :2], temperature=2.0
    )
    assert soft.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("options", "temperature"), [({}, 4.0), ({"temperature": 1.5}, 1.5)])
def test_interpolation_is_at_the_losses_own_temperature(
    make_batch: MakeBatch, options: dict[str, Any], temperature: float
) -> None:
    pupil, teacher, relation = exact_pair("abc", "abc")
    terms = {"kd": Term(loss="kd", samples="virtual", **options)}
    mixup = Mixup(teacher="interpolated", weight=0.4)
    torch.manual_seed(5)
    loss = Distiller(pupil, TeacherSide(teacher, relation), terms, mixup=mixup)(make_batch(3))["loss"]
    torch.manual_seed(5)
    mixture = draw_mixture(mixup, 8, torch.device("cpu"))
    logits = teacher.network.given.logits.detach()
    target = interpolated_logits(logits, mixture, temperature)
    expected = kd_loss(pupil.given.logits, target, temperature=temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    other = kd_loss(pupil.given.logits, interpolated_logits(logits, mixture, 1.0), temperature=temperature)
    assert abs(other.item() / expected.item() - 1) > 1e-3  # so the test tells them apart


def test_virtual_samples_need_mixup(student: nn.Module) -> None:
    terms = {"hard": Term(loss="cross_entropy", samples="virtual")}
    with refused("needs-mixup"):
        Distiller(student, None, terms)


def test_samples_without_labels_are_not_mixed(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(3)
    batch.labelled = torch.arange(8) < 5
    with refused("needs-labels"):
        mix_batch(batch, draw_mixture(Mixup(), 8, batch.images.device), 3)


def test_the_clean_teacher_is_not_run_for_virtual_samples_alone(
    student: nn.Module, make_teacher: MakeTeacher
) -> None:
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    terms = {"soft": Term(loss="stkd", samples="virtual")}
    for how, reads in (("mixed", False), ("interpolated", True)):
        distiller = Distiller(
            student, TeacherSide(make_teacher("abc"), relation), terms, mixup=Mixup(teacher=how)
        )
        assert bool(distiller.read_clean) == reads
