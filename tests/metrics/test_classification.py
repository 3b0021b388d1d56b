"""Accuracy, calibration, agreement and separation against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.metrics import (
    accuracy,
    agreement,
    class_accuracies,
    confusion_matrix,
    correctness,
    expected_calibration_error,
    negative_log_likelihood,
    separation,
)


def scores(num: int, columns: int, *, seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(num, columns, generator=torch.Generator().manual_seed(seed))


def test_accuracy_is_the_share_of_largest_logits_that_are_the_labels() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    labels = torch.tensor([0, 1, 1, 1])
    assert correctness(logits, labels).tolist() == [True, True, False, True]
    assert accuracy(logits, labels) == 75.0


def test_nll_is_the_mean_of_minus_log_probability() -> None:
    logits, labels = scores(50, 4, seed=0), torch.arange(50) % 4
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    loop = [math.log(sum(math.exp(z) for z in row)) - row[label] for row, label in rows]
    assert negative_log_likelihood(logits, labels) == pytest.approx(sum(loop) / 50)
    assert negative_log_likelihood(torch.tensor([[2000.0, 0.0]]), torch.tensor([1])) == 2000.0


@pytest.mark.parametrize("num_bins", [1, 5, 15])
def test_ece_is_a_plain_loop_over_bins(num_bins: int) -> None:
    logits, labels = (
        scores(200, 4, seed=1),
        torch.randint(4, (200,), generator=torch.Generator().manual_seed(2)),
    )
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().softmax(1), labels, strict=True):
        confidence = row.max().item()
        number = next(b for b in range(num_bins) if b / num_bins < confidence <= (b + 1) / num_bins)
        bins.setdefault(number, []).append((confidence, bool(row.argmax() == label)))
    loop = sum(abs(sum(hit for _, hit in found) - sum(c for c, _ in found)) for found in bins.values()) / 200
    assert expected_calibration_error(logits, labels, num_bins=num_bins) == pytest.approx(100 * loop)


def test_ece_of_the_certain_and_right_is_zero() -> None:
    logits = 1000 * torch.eye(3)
    assert expected_calibration_error(logits, torch.arange(3)) == 0.0
    assert expected_calibration_error(logits, torch.tensor([1, 2, 0])) == 100.0


def test_agreement_follows_class_names_not_columns() -> None:
    teacher, student = LabelSpace([*"abcd"]), LabelSpace([*"cadb"])
    logits = scores(40, 4, seed=3)
    same = logits[:, [teacher.column(name) for name in student]]
    relation = LabelRelation(teacher, student)
    assert agreement(same, logits, relation) == 100.0
    assert agreement(logits, logits, relation) < 100.0  # type: ignore[operator]


def test_agreement_over_overlapping_spaces_compares_the_shared_classes_alone() -> None:
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"cbx"]))
    student = torch.tensor([[1.0, 0.0, 9.0], [0.0, 1.0, 9.0]])  # c, b; x does not count
    teacher = torch.tensor([[9.0, 0.0, 1.0], [9.0, 0.0, 1.0]])  # c, c; a does not count
    assert agreement(student, teacher, relation) == 50.0


@pytest.mark.parametrize("student", ["cxy", "xyz"])
def test_agreement_needs_two_shared_classes(student: str) -> None:
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*student]))
    assert agreement(scores(3, 3, seed=4), scores(3, 3, seed=5), relation) is None


def test_separation_is_the_chance_that_a_known_sample_weighs_more() -> None:
    weights = torch.tensor([0.9, 0.8, 0.7, 0.7, 0.5])
    known = torch.tensor([True, False, True, False, False])
    pairs = [(a, b) for a in weights[known].tolist() for b in weights[~known].tolist()]
    loop = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert separation(weights, known) == pytest.approx(loop)


@pytest.mark.parametrize("value", [True, False])
def test_separation_of_one_kind_is_none(value: bool) -> None:
    assert separation(torch.rand(4), torch.full((4,), value)) is None


def test_confusion_counts_every_pair_of_label_and_answer() -> None:
    logits, labels = scores(200, 7, seed=3), torch.arange(200) % 6  # no image of the last class
    loop = [[0] * 7 for _ in range(7)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        loop[label][row.index(max(row))] += 1
    assert confusion_matrix(logits, labels).tolist() == loop
    shares = class_accuracies(logits, labels)
    assert shares[6] is None
    assert shares[:6] == pytest.approx([100 * loop[c][c] / sum(loop[c]) for c in range(6)])
