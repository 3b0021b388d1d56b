"""A distiller in an incremental step: the teacher is the old network, and some classes are new."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import (
    binary_cross_entropy_loss,
    binary_kd_loss,
    cross_entropy_new_loss,
    kd_loss,
    margin_ranking_loss,
    nca_loss,
)
from gkd.methods.method import Method
from gkd.methods.mixup import Mixup
from gkd.methods.terms import Term
from gkd.models import ExpandedNetwork, build_network, expand, frozen_parameters, grow_head
from gkd.problems.problem import Problem
from gkd.training.loop import check_method
from tests.refusals import refused

MakeBatch = Callable[..., Batch]
OLD, ALL = LabelSpace([*"abc"]), LabelSpace([*"abcde"])
# Not in the order of the teacher's columns, and one of them the student does not have.
KNOWN = torch.tensor([False, True, False, True])


def step(head: str = "linear") -> tuple[nn.Module, Teacher]:
    """The old network over a, b and c as the teacher, and the student that starts from it with d and e."""
    torch.manual_seed(0)
    old = build_network("resnet8", num_classes=3, in_channels=1, head=head, last_relu=head == "linear")
    student = copy.deepcopy(old)
    grow_head(student, 2)
    return student, Teacher(old, OLD, mean=(0.5,), std=(0.25,))


def shuffled() -> tuple[nn.Module, Teacher, LabelRelation]:
    torch.manual_seed(0)
    student, old = (build_network("resnet8", num_classes=size, in_channels=1) for size in (4, 3))
    relation = LabelRelation(LabelSpace([*"dxb"]), LabelSpace([*"abcd"]))
    return student, Teacher(old, LabelSpace([*"dxb"]), mean=(0.5,), std=(0.25,)), relation


def test_a_weight_follows_the_numbers_of_old_and_new_classes(make_batch: MakeBatch) -> None:
    student, teacher = step()
    relation, batch = LabelRelation(OLD, ALL), make_batch(5)
    for scale, factor in (
        ("old-share", 3 / 5),
        ("new-share", 2 / 5),
        ("ucir", 1.5**0.5),
        ("podnet", 2.5**0.5),
    ):
        terms = {"cosine": Term(loss="pkt", weight=4, scale=scale)}
        found = values(Distiller(student, TeacherSide(teacher, relation), terms), batch)
        assert found["loss"] == pytest.approx(4 * factor * found["loss/cosine"])
    first = values(Distiller(student, None, {"ce": Term(loss="cross_entropy", scale="new-share")}), batch)
    assert first["loss"] == first["loss/ce"]


def values(distiller: Distiller, batch: Batch) -> dict[str, float]:
    return {name: value.item() for name, value in distiller.eval()(batch).items()}


def test_the_new_classes_are_those_that_the_teacher_has_not(make_batch: MakeBatch) -> None:
    student, teacher, relation = shuffled()
    batch = make_batch(4)
    terms = {name: Term(loss=name) for name in ("cross_entropy_new", "binary_cross_entropy", "binary_kd")}
    found = values(Distiller(student, TeacherSide(teacher, relation, rows="all"), terms), batch)
    logits, old = student(batch.images), teacher.features(batch.images).logits
    given = (logits, batch.labels, KNOWN)
    assert found["loss/cross_entropy_new"] == pytest.approx(cross_entropy_new_loss(*given).item())
    assert found["loss/binary_cross_entropy"] == pytest.approx(binary_cross_entropy_loss(*given).item())
    shared = binary_kd_loss(logits[:, [1, 3]], old[:, [2, 0]])
    assert found["loss/binary_kd"] == pytest.approx(shared.item())


def test_a_first_step_needs_no_teacher_and_every_class_is_new(make_batch: MakeBatch) -> None:
    student, _ = step()
    terms = {name: Term(loss=name) for name in ("cross_entropy_new", "cross_entropy")}
    found = values(Distiller(student, None, terms), make_batch(5))
    assert found["loss/cross_entropy_new"] == pytest.approx(found["loss/cross_entropy"])


def test_lwf_trains_new_classes_by_labels_and_old_ones_by_the_teacher(make_batch: MakeBatch) -> None:
    student, teacher = step()
    images = make_batch(5)
    batch = Batch(images.images, 3 + images.labels % 2, images.index)  # new classes alone
    terms = {
        "cross_entropy_new": Term(loss="cross_entropy_new"),
        "kd": Term(loss="kd", temperature=2.0, rows="all", weight=0.75),
    }
    distiller = Distiller(student, TeacherSide(teacher, LabelRelation(OLD, ALL)), terms)
    found = values(distiller, batch)
    assert found["loss/kd"] == pytest.approx(0, abs=1e-6)  # the student begins with the old logits
    with torch.no_grad():
        student.fc.weight[:3] += 0.3 * torch.randn(3, 64)  # type: ignore[union-attr, index]
    found = values(distiller, batch)
    logits, old = student(batch.images), teacher.features(batch.images).logits
    assert found["loss/kd"] == pytest.approx(kd_loss(logits[:, :3], old, temperature=2.0).item(), rel=1e-5)
    assert found["loss/kd"] > 1e-3
    assert found["loss/cross_entropy_new"] == pytest.approx(
        F.cross_entropy(logits[:, 3:], batch.labels - 3).item()
    )


def test_losses_on_cosines_read_the_head(make_batch: MakeBatch) -> None:
    student, teacher = step("cosine")
    batch = make_batch(5)
    terms = {"margin_ranking": Term(loss="margin_ranking"), "nca": Term(loss="nca", margin=0.1)}
    distiller = Distiller(student, TeacherSide(teacher, LabelRelation(OLD, ALL)), terms).eval()
    losses = distiller(batch)
    cosines = student.head.cosines(student.features(batch.images).embedding)  # type: ignore[union-attr, operator]
    known = torch.tensor([True, True, True, False, False])
    expected = margin_ranking_loss(cosines, batch.labels, known)
    assert losses["loss/margin_ranking"].item() == pytest.approx(expected.item(), rel=1e-5)
    expected = nca_loss(cosines, student.head.scale, batch.labels, margin=0.1)  # type: ignore[union-attr, arg-type]
    assert losses["loss/nca"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["loss"].backward()
    assert student.head.scale.grad != 0  # type: ignore[union-attr]
    assert student.conv1.weight.grad.any()  # type: ignore[union-attr, operator]


AUXILIARY = {
    "cross_entropy": Term(loss="cross_entropy"),
    "auxiliary": Term(loss="cross_entropy", weight=0.5, head="auxiliary"),
}


def expanded_step() -> ExpandedNetwork:
    """A network of two extractors that knows a, b and c, with a third for d and e."""
    torch.manual_seed(0)
    old = expand(build_network("resnet8", num_classes=2, in_channels=1), 1)
    with torch.no_grad():
        old.extractors[-1].conv1.weight.normal_()  # type: ignore[union-attr, operator]
    return expand(old, 2)


def test_an_auxiliary_head_sees_the_newest_extractor_and_all_old_classes_as_one(
    make_batch: MakeBatch,
) -> None:
    student, batch = expanded_step(), make_batch(5)
    distiller = Distiller(student, None, AUXILIARY, old_classes=LabelRelation(OLD, ALL).known)
    weight, bias = (distiller.adapters.get_parameter(f"auxiliary.0.{name}") for name in ("weight", "bias"))
    assert weight.shape == (3, 64)
    found = values(distiller, batch)
    newest = student.eval().extractors[-1](batch.images)
    expected = []
    for row, label in zip(newest @ weight.T + bias, batch.labels.tolist(), strict=True):
        target = {0: 0, 1: 0, 2: 0, 3: 1, 4: 2}[label]
        expected.append(row.exp().sum().log() - row[target])
    assert found["loss/auxiliary"] == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    assert found["loss/cross_entropy"] == pytest.approx(
        F.cross_entropy(student(batch.images), batch.labels).item(), rel=1e-5
    )
    assert found["loss"] == pytest.approx(found["loss/cross_entropy"] + 0.5 * found["loss/auxiliary"])


def test_the_auxiliary_loss_alone_trains_its_head_and_the_newest_extractor(make_batch: MakeBatch) -> None:
    student = expanded_step()
    terms = {"auxiliary": Term(loss="cross_entropy", head="auxiliary")}
    distiller = Distiller(student, None, terms, old_classes=LabelRelation(OLD, ALL).known)
    trained, adapters = (group["params"] for group in distiller.param_groups())
    assert [p.shape for p in adapters] == [(3, 64), (3,)]
    assert len(trained) == len(list(student.extractors[-1].parameters())) + 2
    distiller.train()(make_batch(5))["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in adapters)
    assert student.extractors[-1].conv1.weight.grad.any()  # type: ignore[union-attr, operator]
    assert student.head.weight.grad is None


@pytest.mark.parametrize("train", ["student", "backbone", "extractors", "head"])
def test_no_stage_trains_a_frozen_extractor(train: str, make_batch: MakeBatch) -> None:
    """Neither by gradient, weight decay nor statistics, whatever the stage says that it trains."""
    student = expanded_step()
    distiller = Distiller(student, None, AUXILIARY, old_classes=LabelRelation(OLD, ALL).known)
    groups = distiller.param_groups((train,))
    frozen = {id(parameter) for parameter in frozen_parameters(student)}
    assert not frozen & {id(parameter) for group in groups for parameter in group["params"]}
    before = copy.deepcopy(student.state_dict())
    optimiser = torch.optim.SGD(groups[0]["params"], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        distiller.train()(make_batch(5))["loss"].backward()
        optimiser.step()
    moved = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert not any(key.startswith(("extractors.0.", "extractors.1.")) for key in moved)
    assert any(key.startswith("extractors.2.") for key in moved) == (train != "head")
    assert ("head.weight" in moved) == (train in ("student", "head"))


def test_an_auxiliary_head_reads_mixtures_and_a_plain_students_whole_embedding(make_batch: MakeBatch) -> None:
    student, teacher = step()
    terms = {"auxiliary": Term(loss="cross_entropy", head="auxiliary", samples="virtual")}
    distiller = Distiller(student, TeacherSide(teacher, LabelRelation(OLD, ALL)), terms, mixup=Mixup())
    assert distiller.adapters.get_parameter("auxiliary.0.weight").shape == (3, 64)
    found = distiller(make_batch(5))["loss"]
    found.backward()
    assert torch.isfinite(found)


def test_cosines_of_a_linear_head_are_refused(make_problem: Callable[..., Problem]) -> None:
    student, teacher = step()
    term: dict[str, Any] = {"loss": "margin_ranking"}
    with refused("needs-cosine-head"):
        Distiller(student, TeacherSide(teacher, LabelRelation(OLD, ALL)), {"far": Term(**term)})
    stages = {"train": {"epochs": 1, "terms": {"far": term}}}
    method = Method.model_validate({"name": "m", "paper": "none", "summary": "s", "stages": stages})
    with refused("needs-cosine-head"):
        check_method(method, student, teacher, make_problem("abc", "abcde"))


def test_an_increment_of_ucir_learns_and_keeps_the_directions_of_old_classes(make_batch: MakeBatch) -> None:
    student, teacher = step("cosine")
    student.head.num_frozen = 3  # type: ignore[union-attr, assignment]
    terms = {
        "cross_entropy": Term(loss="cross_entropy"),
        "cosine": Term(loss="cosine", weight=5.0),
        "margin_ranking": Term(loss="margin_ranking"),
        "pod": Term(loss="pod", at={"student": [1, 2, 3], "teacher": [1, 2, 3]}),
        "ird": Term(loss="ird"),
    }
    distiller = Distiller(
        student, TeacherSide(teacher, LabelRelation(OLD, ALL)), terms, image_shape=(1, 8, 8)
    )
    optimiser = torch.optim.SGD(
        distiller.param_groups()[0]["params"], lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    before = F.normalize(student.head.weight.detach().clone())  # type: ignore[union-attr, operator]
    batch, taken = make_batch(5, size=20), []
    for _ in range(12):
        losses = distiller(batch)
        taken.append(losses["loss/cross_entropy"].item() + losses["loss/margin_ranking"].item())
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    assert taken[-1] < taken[0] - 0.1
    after = F.normalize(student.head.weight.detach())  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(after[:3], before[:3])
    assert (after[3:] - before[3:]).abs().max() > 1e-3
