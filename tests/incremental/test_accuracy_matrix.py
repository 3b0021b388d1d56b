"""Accuracy matrices: every number by hand, whatever the sizes of the steps, and nothing that unseen classes can win."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gkd.incremental.accuracy_matrix import (
    accuracies_on_seen,
    accuracy_matrix,
    average_incremental_accuracy,
    backward_transfer,
    exemplar_means,
    forgetting,
    forward_transfer,
    images_by_step,
    incremental_summary,
    last_accuracy,
    matrix_row,
    matrix_rows,
    mean_over_steps,
    old_new_harmonic,
    predictions,
    task_agnostic,
    task_aware,
)
from tests.refusals import refused

# The accuracies of a run of three steps, by hand.
MATRIX = accuracy_matrix([[80], [90, 70], [60, 75, 85]])
EQUAL = torch.tensor([100, 100, 100])
UNEQUAL = torch.tensor([500, 100, 50])


def test_a_run_by_hand() -> None:
    assert accuracies_on_seen(MATRIX, EQUAL).tolist() == pytest.approx([80, 80, 220 / 3], abs=1e-12)
    summary = incremental_summary(MATRIX, EQUAL)
    assert summary == {
        "average": pytest.approx(700 / 9, abs=1e-12),  # 77.78
        "average_without_first": pytest.approx(230 / 3, abs=1e-12),
        "last": pytest.approx(220 / 3, abs=1e-12),  # 73.33
        "last_mean_over_steps": pytest.approx(220 / 3, abs=1e-12),
        "forgetting_best_previous": 12.5,
        "forgetting_best_ever": 15.0,
        "forgetting_initial": 7.5,
        "backward_transfer": -7.5,
        "forward_transfer": None,
        "old": 67.5,
        "new": 85.0,
        "harmonic": pytest.approx(2 * 67.5 * 85 / 152.5, abs=1e-12),
    }
    assert round(summary["harmonic"] or 0, 2) == 75.25


def test_averages_over_images_and_over_steps_differ_where_steps_do() -> None:
    by_images = [80, (500 * 90 + 100 * 70) / 600, (500 * 60 + 100 * 75 + 50 * 85) / 650]
    assert accuracies_on_seen(MATRIX, UNEQUAL).tolist() == pytest.approx(by_images)
    assert mean_over_steps(MATRIX).tolist() == pytest.approx([80, 80, 220 / 3])
    average = average_incremental_accuracy(MATRIX, UNEQUAL)
    assert average == pytest.approx(sum(by_images) / 3)
    assert average_incremental_accuracy(MATRIX, UNEQUAL, include_first=False) == pytest.approx(
        sum(by_images[1:]) / 2
    )
    assert last_accuracy(MATRIX, UNEQUAL) == pytest.approx(by_images[-1])
    assert old_new_harmonic(MATRIX, UNEQUAL)[0] == pytest.approx((500 * 60 + 100 * 75) / 600)
    assert (
        incremental_summary(MATRIX, UNEQUAL)["forgetting_best_previous"] == 12.5
    )  # every step weighs the same


def loop_forgetting(rows: list[list[float]], variant: str) -> float:
    last, lost = len(rows) - 1, []
    for k in range(last):
        before = [rows[t][k] for t in range(k, last)]
        best = {
            "best-previous": max(before),
            "best-ever": max([*before, rows[last][k]]),
            "initial": before[0],
        }
        lost.append(best[variant] - rows[last][k])
    return sum(lost) / last


@pytest.mark.parametrize("variant", ["best-previous", "best-ever", "initial"])
def test_forgetting_is_a_plain_loop_and_ignores_what_had_not_come(variant: str) -> None:
    full = 100 * torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full[0, 3] = 100.0  # before step 3 came
    expected = loop_forgetting(full.tolist(), variant)
    assert forgetting(full, variant=variant) == pytest.approx(expected, abs=1e-12)
    assert expected != pytest.approx(0)


def test_a_step_that_gained_is_negative_unless_the_best_is_ever() -> None:
    gained = accuracy_matrix([[50], [60, 70]])
    assert forgetting(gained) == -10
    assert forgetting(gained, variant="best-ever") == 0
    assert backward_transfer(gained) == 10
    with refused("unknown-variant-of-forgetting"):
        forgetting(gained, variant="best")


def test_forward_transfer_reads_right_above_the_diagonal() -> None:
    matrix = accuracy_matrix([[80, 30, 20], [90, 70, 26], [60, 75, 85]])
    untrained = torch.tensor([9.0, 10.0, 12.0])
    assert forward_transfer(matrix, untrained) == pytest.approx(((30 - 10) + (26 - 12)) / 2)
    assert forward_transfer(matrix[:2], untrained) == pytest.approx(30 - 10)  # a run of two steps so far
    assert forward_transfer(MATRIX, untrained) is None  # not measured
    assert incremental_summary(matrix, EQUAL, untrained=untrained)["forward_transfer"] == pytest.approx(17)


def test_one_step_has_nothing_to_forget() -> None:
    first = accuracy_matrix([[80.0]])
    summary = incremental_summary(first, torch.tensor([10]), untrained=torch.tensor([1.0]))
    assert {key for key, value in summary.items() if value is not None} == {
        "average",
        "last",
        "last_mean_over_steps",
        "new",
    }


def test_a_run_on_its_way_is_judged_by_its_rows() -> None:
    assert incremental_summary(MATRIX[:2], EQUAL) == incremental_summary(MATRIX[:2, :2], EQUAL[:2])
    assert forgetting(MATRIX[:2]) == -10


def test_what_was_not_measured_is_none_not_a_mean_of_the_rest() -> None:
    late = accuracy_matrix([[None], [None, None], [60, 75, 85]])  # a run that began at the third step
    summary = incremental_summary(late, EQUAL)
    assert summary["last"] == pytest.approx(220 / 3)
    assert (summary["old"], summary["new"]) == (67.5, 85)
    assert all(
        summary[key] is None
        for key in ("average", "average_without_first", "forgetting_best_previous", "forgetting_best_ever")
    )
    assert summary["forgetting_initial"] is None
    assert summary["backward_transfer"] is None


def test_harmonic_mean_of_zeros_is_zero() -> None:
    assert old_new_harmonic(accuracy_matrix([[9], [0, 0]]), EQUAL[:2]) == (0, 0, 0)
    assert old_new_harmonic(accuracy_matrix([[9], [0, 80]]), EQUAL[:2]) == (0, 80, 0)  # finetuning


def test_a_matrix_goes_through_json_rows() -> None:
    rows = matrix_rows(MATRIX)
    assert rows == [[80, None, None], [90, 70, None], [60, 75, 85]]
    torch.testing.assert_close(accuracy_matrix(rows), MATRIX, equal_nan=True)
    with pytest.raises(ValueError, match=r"short: \[1\]"):
        accuracy_matrix([[80], [90]])
    with pytest.raises(ValueError, match="of 0 rows"):
        accuracy_matrix([])


# Five classes in three steps; a network that has columns for all of them from the start.
STEPS = torch.tensor([0, 0, 1, 1, 2])


def outputs(seed: int = 0, count: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (count,), generator=generator)
    embedding = torch.eye(5, 6)[labels] + 0.8 * torch.randn(count, 6, generator=generator)
    return embedding[:, :5] + torch.randn(count, 5, generator=generator), embedding, labels


def loop_row(scores: Tensor, labels: Tensor, classes: list[int], aware: bool, num_steps: int) -> list[float]:
    """Accuracy of each step with a choice among ``classes``, or those of them in the image's step."""
    row = []
    for k in range(num_steps):
        right = [
            max(
                (c for c in classes if not aware or STEPS[c] == STEPS[label]),
                key=lambda c, line=line: float(line[c]),
            )
            == label
            for line, label in zip(scores, labels.tolist(), strict=True)
            if STEPS[label] == k
        ]
        row.append(100 * sum(right) / len(right))
    return row


def test_one_pass_gives_a_row_of_every_matrix() -> None:
    logits, embedding, labels = outputs()
    train, train_labels = outputs(1)[1:]
    means, counts = exemplar_means(train, train_labels.where(train_labels < 4, 0), 5)  # none of class 4
    rows = matrix_row(logits, embedding, labels, STEPS, step=1, means=means, counts=counts)
    seen = [0, 1, 2, 3]
    cosines = torch.cosine_similarity(embedding[:, None], means[None], dim=2)
    classifier = loop_row(logits, labels, seen, False, 2)
    assert rows["classifier"][:2].tolist() == pytest.approx(classifier)
    assert rows["ncm"][:2].tolist() == pytest.approx(loop_row(cosines, labels, seen, False, 2))
    # With a column for the class to come, a task-aware row has it: the entry that forward transfer needs.
    aware = rows["classifier_task_aware"]
    assert aware.tolist() == pytest.approx(loop_row(logits, labels, [0, 1, 2, 3, 4], True, 3))
    assert rows["ncm_task_aware"][:2].tolist() == pytest.approx(loop_row(cosines, labels, seen, True, 2))
    for name in ("classifier", "ncm", "ncm_task_aware"):
        assert math.isnan(rows[name][2])
    assert len({tuple(row.nan_to_num().tolist()) for row in rows.values()}) == 4  # the data tells them apart
    assert (aware[:2] >= rows["classifier"][:2]).all()


def test_a_head_that_grows_gives_the_same_row_as_one_with_all_columns() -> None:
    logits, embedding, labels = outputs()
    grown = matrix_row(logits[:, :4], embedding, labels, STEPS, step=1)
    wide = matrix_row(logits, embedding, labels, STEPS, step=1)
    assert grown.keys() == {"classifier", "classifier_task_aware"}
    torch.testing.assert_close(grown["classifier"], wide["classifier"], equal_nan=True)
    torch.testing.assert_close(grown["classifier_task_aware"][:2], wide["classifier_task_aware"][:2])
    assert math.isnan(grown["classifier_task_aware"][2])  # no column, no answer


def test_images_of_seen_classes_alone_leave_the_other_steps_unmeasured() -> None:
    logits, embedding, labels = outputs()
    seen = labels < 4
    part = matrix_row(logits[seen], embedding[seen], labels[seen], STEPS, step=1)
    whole = matrix_row(logits, embedding, labels, STEPS, step=1)
    torch.testing.assert_close(part["classifier"], whole["classifier"], equal_nan=True)
    assert math.isnan(part["classifier_task_aware"][2])
    assert images_by_step(labels[seen], STEPS).tolist()[2] == 0


def test_no_unseen_class_wins() -> None:
    scores = torch.tensor([[-3.0, -2.0, 9.0, 0.0]])
    known = torch.tensor([True, True, False, False])
    assert task_agnostic(scores, known).tolist() == [1]
    steps = torch.tensor([0, 1, 1, 1])
    assert task_aware(scores, known, torch.tensor([2]), steps).tolist() == [1]
    # The first column must not stand for "no answer": a class 0 without a mean would be right.
    assert predictions(scores, torch.zeros(4, dtype=torch.bool)).tolist() == [-1]
    means, counts = exemplar_means(torch.tensor([[-1.0, 0.0]]), torch.tensor([1]), 2)
    away = matrix_row(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[5.0, 0.0]]),
        torch.tensor([0]),
        torch.tensor([0, 0]),
        step=0,
        means=means,
        counts=counts,
    )
    assert away["ncm"].tolist() == [0]  # a zero mean has cosine 0, more than −1
    assert away["classifier"].tolist() == [100]


def test_means_weigh_directions_not_lengths() -> None:
    embedding = torch.tensor([[10.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    means, counts = exemplar_means(embedding, torch.tensor([0, 0, 2]), 3)
    assert counts.tolist() == [2, 0, 1]
    half = math.sqrt(0.5)
    torch.testing.assert_close(means, torch.tensor([[half, half], [0.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("sizes", [(5, 2, 2), (3, 2, 1), (2, 2, 2), (1, 4, 1)])
def test_every_step_has_its_column_whatever_its_size(sizes: tuple[int, ...]) -> None:
    """PyCIL counts forgetting in groups of ten classes: other increments crash or mix steps, a last class is lost."""
    steps = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    generator = torch.Generator().manual_seed(2)
    rows: list[list[float]] = []
    found = []
    for step in range(len(sizes)):
        seen = sum(sizes[: step + 1])
        labels = torch.randint(seen, (300,), generator=generator)
        logits = torch.randn(300, seen, generator=generator)
        logits += 2 * torch.nn.functional.one_hot(labels, seen)
        right = (logits.argmax(1) == labels).tolist()
        of_step = steps[labels].tolist()
        rows.append(
            [
                100 * sum(r for r, k in zip(right, of_step, strict=True) if k == own) / of_step.count(own)
                for own in range(step + 1)
            ]
        )
        found.append(matrix_row(logits, torch.ones(300, 2), labels, steps, step=step)["classifier"].tolist())
    matrix = accuracy_matrix(found)
    torch.testing.assert_close(matrix, accuracy_matrix(rows), equal_nan=True)
    lost = [max(rows[t][k] for t in range(k, len(rows) - 1)) - rows[-1][k] for k in range(len(rows) - 1)]
    assert forgetting(matrix) == pytest.approx(sum(lost) / len(lost))
