"""Rows of classes that the teacher lacks, where the cross-entropy has given a part of its weight away."""

from __future__ import annotations

import math
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
from gkd.distill.unknown_rows import coarse_cross_entropy
from gkd.methods.mixup import Mixup
from gkd.methods.routing import Routing
from gkd.methods.terms import Term
from tests.distill.exact_networks import exact_pair

MakeBatch = Callable[..., Batch]
TERMS = {"cross_entropy": Term(loss="cross_entropy", weight=0.1), "kd": Term(loss="kd", weight=0.9)}


def by_loops(
    student: Tensor, teacher: Tensor, labels: Tensor, pairs: list[tuple[int, int]], w: float, v: float
) -> float:
    """mean_i w CE_i + (1 − w) coarse CE_i + v k_i KD_i, row by row in float64; labels are distributions."""
    student, teacher, labels = student.detach().double(), teacher.double(), labels.double()
    shared, of_teacher = [s for s, _ in pairs], [t for _, t in pairs]
    total = 0.0
    for i in range(len(student)):
        share = sum(float(labels[i, s]) for s in shared)
        p = student[i].softmax(0)
        cross_entropy = -sum(float(labels[i, c]) * math.log(float(p[c])) for c in range(len(p)))
        coarse = -sum(float(labels[i, c]) * math.log(float(p[c])) for c in range(len(p)) if c not in shared)
        coarse -= share * math.log(sum(float(p[s]) for s in shared))
        ours, theirs = student[i, shared] / 4, teacher[i, of_teacher] / 4
        kd = 16 * float(F.kl_div(ours.log_softmax(0), theirs.softmax(0), reduction="sum"))
        total += w * cross_entropy + (1 - w) * coarse + v * share * kd
    return total / len(student)


def loss_of(student: str, teacher: str, batch: Batch, terms: dict[str, Term] = TERMS, **more: Any) -> Tensor:
    pupil, master, relation = exact_pair(student, teacher)
    rows = more.pop("rows", "known")
    return Distiller(pupil, TeacherSide(master, relation, rows=rows), terms, **more)(batch)["loss"]


def test_what_the_teacher_cannot_say_keeps_the_whole_cross_entropy(make_batch: MakeBatch) -> None:
    """Which row of another class, and on every row whether the teacher has its class at all."""
    pupil, master, relation = exact_pair("abcd", "dxb")
    batch = make_batch(4)
    assert 0 < relation.known[batch.labels].sum() < len(batch.labels)
    loss = Distiller(pupil, TeacherSide(master, relation), TERMS)(batch)["loss"]
    onehot = F.one_hot(batch.labels, 4)
    expected = by_loops(pupil.given.logits, master.network.given.logits, onehot, [(1, 2), (3, 0)], 0.1, 0.9)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    unknown = ~relation.known[batch.labels]
    plain = pupil.given.logits.detach().clone().requires_grad_()
    F.cross_entropy(plain, batch.labels).backward()
    gradient = pupil.given.logits.grad
    assert gradient is not None
    assert plain.grad is not None
    torch.testing.assert_close(gradient[unknown], plain.grad[unknown])
    # Columns of other classes are pushed as hard as by the labels alone, on every row.
    torch.testing.assert_close(gradient[:, ~relation.known], plain.grad[:, ~relation.known])


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


def test_of_several_teachers_a_class_is_known_that_all_know(make_batch: MakeBatch) -> None:
    """Here b alone: with nothing to exchange, its row has the cross-entropy and both terms."""
    batch = make_batch(4)
    pupil, first, one = exact_pair("abcd", "dxb")
    _, second, other = exact_pair("abcd", "bxa")
    sides = {"one": TeacherSide(first, one), "other": TeacherSide(second, other)}
    terms = {"cross_entropy": Term(loss="cross_entropy", weight=0.25), "kd": Term(loss="kd", teacher="all")}
    losses = Distiller(pupil, sides, terms)(batch)
    expected = F.cross_entropy(pupil.given.logits, batch.labels) + losses["loss/kd"]
    torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.parametrize("known", ["", "a", "bd", "abcd"])
def test_the_coarse_cross_entropy_takes_known_classes_as_one(known: str) -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels, mask = torch.tensor([0, 1, 2, 3, 1, -1]), torch.tensor([True] * 5 + [False])
    columns = torch.tensor([letter in known for letter in "abcd"])
    value = coarse_cross_entropy(logits, labels, columns, label_smoothing=0.1, mask=mask)
    total = 0.0
    for row, label in zip(logits[:5].detach(), labels[:5], strict=True):
        p, q = row.softmax(0), torch.full((4,), 0.025, dtype=torch.float64)
        q[label] += 0.9
        total -= sum(float(q[c] * p[c].log()) for c in range(4) if not columns[c])
        if known:
            total -= float(q[columns].sum() * p[columns].sum().log())
    assert value.item() == pytest.approx(total / 5)
    assert torch.autograd.gradcheck(
        lambda z: coarse_cross_entropy(z, labels, columns, label_smoothing=0.1, mask=mask), logits
    )


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


def test_of_two_cross_entropies_the_sum_of_weights_counts(make_batch: MakeBatch) -> None:
    """Together at 1 they have given nothing away; nor is anything exchanged for a term of weight 0."""
    batch = make_batch(4)
    halves = {name: Term(loss="cross_entropy", weight=0.5) for name in ("one", "other")}
    quarters = {name: Term(loss="cross_entropy", weight=0.05) for name in ("one", "other")}
    kd = {"kd": TERMS["kd"]}
    both = [
        loss_of("abcd", "dxb", batch, {**halves, **kd}, unknown_rows=how) for how in ("full", "published")
    ]
    assert torch.equal(*both)
    torch.testing.assert_close(
        loss_of("abcd", "dxb", batch, {**quarters, **kd}), loss_of("abcd", "dxb", batch)
    )
    silent = {**TERMS, "kd": Term(loss="kd", weight=0.0)}
    assert torch.equal(
        *[loss_of("abcd", "dxb", batch, silent, unknown_rows=how) for how in ("full", "published")]
    )
