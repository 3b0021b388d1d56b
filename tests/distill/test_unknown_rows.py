"""Rows of classes that the teacher lacks, where the cross-entropy has given a part of its weight away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.batch import NO_LABEL, Batch
from gkd.distill.distiller import Distiller
from gkd.distill.mixing import draw_mixture, mix_batch
from gkd.distill.side import TeacherSide
from gkd.methods.mixup import Mixup
from gkd.methods.routing import Routing
from gkd.methods.terms import Term
from tests.distill.exact_networks import exact_pair

MakeBatch = Callable[..., Batch]
TERMS = {"cross_entropy": Term(loss="cross_entropy", weight=0.1), "kd": Term(loss="kd", weight=0.9)}


def by_loops(
    student: Tensor, teacher: Tensor, labels: Tensor, pairs: list[tuple[int, int]], w: float, v: float
) -> float:
    """mean_i k_i (w CE_i + v KD_i) + (1 − k_i) CE_i, row by row in float64; labels are distributions."""
    student, teacher, labels = student.double(), teacher.double(), labels.double()
    shared, of_teacher = [s for s, _ in pairs], [t for _, t in pairs]
    total = 0.0
    for i in range(len(student)):
        share = float(sum(labels[i, s] for s in shared))
        cross_entropy = float(-(labels[i] * student[i].log_softmax(0)).sum())
        ours, theirs = student[i, shared] / 4, teacher[i, of_teacher] / 4
        kd = 16 * float(F.kl_div(ours.log_softmax(0), theirs.softmax(0), reduction="sum"))
        total += share * (w * cross_entropy + v * kd) + (1 - share) * cross_entropy
    return total / len(student)


def loss_of(student: str, teacher: str, batch: Batch, terms: dict[str, Term] = TERMS, **more: Any) -> Tensor:
    pupil, master, relation = exact_pair(student, teacher)
    rows = more.pop("rows", "known")
    return Distiller(pupil, TeacherSide(master, relation, rows=rows), terms, **more)(batch)["loss"]


def test_a_row_has_the_mixture_that_its_label_allows(make_batch: MakeBatch) -> None:
    """Published weights where the teacher has its class, the cross-entropy at weight 1 elsewhere."""
    pupil, master, relation = exact_pair("abcd", "dxb")
    batch = make_batch(4)
    assert 0 < relation.known[batch.labels].sum() < len(batch.labels)
    loss = Distiller(pupil, TeacherSide(master, relation), TERMS)(batch)["loss"]
    onehot = F.one_hot(batch.labels, 4)
    expected = by_loops(pupil.given.logits, master.network.given.logits, onehot, [(1, 2), (3, 0)], 0.1, 0.9)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    unknown = ~relation.known[batch.labels]
    gradient = pupil.given.logits.grad
    assert gradient is not None
    plain = pupil.given.logits.detach().clone().requires_grad_()
    F.cross_entropy(plain, batch.labels).backward()
    torch.testing.assert_close(gradient[unknown], plain.grad[unknown])


def test_what_was_published_is_there_by_name_and_wherever_every_class_is_known(make_batch: MakeBatch) -> None:
    batch = make_batch(4)
    pupil, master, relation = exact_pair("abcd", "dxb")
    losses = Distiller(pupil, TeacherSide(master, relation), TERMS, unknown_rows="published")(batch)
    plain = 0.1 * losses["loss/cross_entropy"] + 0.9 * losses["loss/kd"]
    torch.testing.assert_close(losses["loss"], plain)
    assert loss_of("abcd", "dxb", batch) != losses["loss"]
    same = [loss_of("abcd", "dbca", batch, unknown_rows=how) for how in ("full", "published")]
    assert torch.equal(*same)
    # Rows of all classes, as in increments, and a cross-entropy that has given nothing away.
    for case in ({"rows": "all"}, {"terms": {**TERMS, "cross_entropy": Term(loss="cross_entropy")}}):
        assert torch.equal(
            *[loss_of("abcd", "dxb", batch, unknown_rows=how, **case) for how in ("full", "published")]
        )
    every = {**TERMS, "kd": Term(loss="kd", weight=0.9, rows="all")}
    assert torch.equal(
        *[loss_of("abcd", "dxb", batch, every, unknown_rows=how) for how in ("full", "published")]
    )


@pytest.mark.parametrize("loss", ["kd", "stkd"])
def test_a_mixture_counts_by_its_share_of_known_labels(loss: str, make_batch: MakeBatch) -> None:
    mixup, batch = Mixup(images=2, weight=0.7), make_batch(4)
    terms = {
        "cross_entropy": Term(loss="cross_entropy", weight=0.1, samples="virtual"),
        loss: Term(loss=loss, weight=0.9, temperature=4.0, samples="virtual"),
    }
    pupil, master, relation = exact_pair("abcd", "dxb")
    torch.manual_seed(3)
    loss_value = Distiller(pupil, TeacherSide(master, relation), terms, mixup=mixup)(batch)["loss"]
    torch.manual_seed(3)
    labels = mix_batch(batch, draw_mixture(mixup, len(batch.labels), torch.device("cpu")), 4).labels
    shares = labels[:, [1, 3]].sum(1)
    assert ((shares > 0.01) & (shares < 0.99)).any()
    expected = by_loops(pupil.given.logits, master.network.given.logits, labels, [(1, 2), (3, 0)], 0.1, 0.9)
    assert loss_value.item() == pytest.approx(expected, rel=1e-5)


def test_samples_without_a_label_are_no_rows_of_the_mean(make_batch: MakeBatch) -> None:
    batch = make_batch(4)
    labelled = torch.arange(len(batch.labels)) % 3 != 0
    mixed = replace(batch, labels=torch.where(labelled, batch.labels, NO_LABEL), labelled=labelled)
    pupil, master, relation = exact_pair("abcd", "dxb")
    terms = {**TERMS, "sp": Term(loss="sp", weight=0.0)}
    loss = Distiller(pupil, TeacherSide(master, relation), terms)(mixed)["loss"]
    logits, onehot = pupil.given.logits[labelled], F.one_hot(batch.labels[labelled], 4)
    expected = by_loops(logits, master.network.given.logits[labelled], onehot, [(1, 2), (3, 0)], 0.1, 0.9)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_of_several_teachers_a_row_is_known_that_any_knows(make_batch: MakeBatch) -> None:
    batch = make_batch(4)
    pupil, first, one = exact_pair("abcd", "dxb")
    _, second, other = exact_pair("abcd", "bxa")
    sides = {"one": TeacherSide(first, one), "other": TeacherSide(second, other)}
    terms = {"cross_entropy": Term(loss="cross_entropy", weight=0.25), "kd": Term(loss="kd", teacher="all")}
    losses = Distiller(pupil, sides, terms)(batch)
    per_row = F.cross_entropy(pupil.given.logits, batch.labels, reduction="none")
    known = one.known[batch.labels] | other.known[batch.labels]
    expected = (torch.where(known, 0.25, 1.0) * per_row).mean() + losses["loss/kd"]
    torch.testing.assert_close(losses["loss"], expected)


def test_a_routed_term_counts_by_both_shares(make_batch: MakeBatch) -> None:
    """Of the rows that the teacher knows, those that are distilled at the logits."""
    batch = make_batch(4, size=64)
    pupil, master, relation = exact_pair("abcd", "dxb")
    pupil.given = replace(pupil.given, logits=torch.randn(64, 4), embedding=torch.randn(64, 6))
    master.network.given = replace(
        master.network.given, logits=torch.randn(64, 3), embedding=torch.randn(64, 6)
    )
    distiller = Distiller(
        pupil, TeacherSide(master, relation), TERMS, image_shape=(1, 8, 8), routing=Routing(policy="random")
    )
    losses = distiller(batch)
    rows = losses["share/logits"]
    assert 0 < rows < 1
    whole = Distiller(pupil, TeacherSide(master, relation), TERMS)(batch)
    # Half of the known rows at random: about half of the sum over them.
    assert losses["loss/kd"] < 0.8 * whole["loss/kd"]
    torch.testing.assert_close(losses["loss/cross_entropy"], whole["loss/cross_entropy"])
