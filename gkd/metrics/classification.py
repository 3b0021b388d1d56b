"""Metrics of class scores: accuracy, calibration, agreement, separation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gkd.core.labels import LabelRelation


def correctness(logits: Tensor, labels: Tensor) -> Tensor:
    """Bool ``[N]``: whether the largest logit ``[N, C]`` is the label's."""
    return logits.argmax(dim=1) == labels


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * correctness(logits, labels).double().mean().item()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean -log p(label) in nats."""
    return F.cross_entropy(logits.double(), labels).item()


def expected_calibration_error(logits: Tensor, labels: Tensor, *, num_bins: int = 15) -> float:
    """Σ_b |b|/N · |accuracy(b) - confidence(b)| over equal-width confidence bins, in percent.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    correct = (predicted == labels).double()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    gap = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, bins, correct - confidence)
    return 100.0 * gap.abs().sum().item() / len(labels)


def top5_accuracy(logits: Tensor, labels: Tensor) -> float:
    """How often the label is among the five largest logits, in percent; of five classes or fewer it always is."""
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    return 100.0 * (top == labels[:, None]).any(dim=1).double().mean().item()


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """int64 ``[C, C]``: of the images of each class (rows), how many are taken for each class (columns)."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes**2).view(
        classes, classes
    )


def class_accuracies(logits: Tensor, labels: Tensor) -> list[float | None]:
    """The accuracy on each class's images in percent; None for a class without one."""
    counts = torch.bincount(labels, minlength=logits.shape[1])
    right = torch.bincount(labels[correctness(logits, labels)], minlength=logits.shape[1])
    shares = (100.0 * right.double() / counts).tolist()  # not a number where there is no image
    return [share if count else None for share, count in zip(shares, counts.tolist(), strict=True)]


def mean_class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that have an image of the accuracy on their images, in percent."""
    counts = torch.bincount(labels, minlength=logits.shape[1])
    right = torch.bincount(labels[correctness(logits, labels)], minlength=logits.shape[1])
    return 100.0 * (right[counts > 0].double() / counts[counts > 0]).mean().item()


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that are labels or answers of 2·tp / (2·tp + fp + fn), in percent, as scikit-learn's."""
    answers = logits.argmax(dim=1)
    classes = logits.shape[1]
    hits = torch.bincount(labels[answers == labels], minlength=classes).double()
    # 2·tp + fp + fn is how often the class is the label plus how often it is the answer.
    both = torch.bincount(labels, minlength=classes) + torch.bincount(answers, minlength=classes)
    return 100.0 * (2 * hits[both > 0] / both[both > 0]).mean().item()


def agreement(student_logits: Tensor, teacher_logits: Tensor, relation: LabelRelation) -> float | None:
    """How often student and teacher choose the same class among the shared ones, in percent.

    Args:
        student_logits: ``[N, C_S]``.
        teacher_logits: ``[N, C_T]`` on the same images.
        relation: the columns of the shared classes; fewer than two give None.
    """
    if relation.num_shared < 2:
        return None
    student = student_logits[:, relation.student_index].argmax(dim=1)
    teacher = teacher_logits[:, relation.teacher_index].argmax(dim=1)
    return 100.0 * (student == teacher).double().mean().item()


def separation(weights: Tensor, known: Tensor) -> float | None:
    """ROC-AUC of sample weights ``[N]`` against "the teacher has this class" ``Bool[N]``, in [0, 1].

    None where all samples are of one kind. It measures how well the weight of REFILLED's adaptive
    form tells known classes from new ones (njulus/GKD, utils/metric.py).
    """
    if bool(known.all()) or not bool(known.any()):
        return None
    from sklearn.metrics import roc_auc_score  # a second of import that only this needs

    return float(roc_auc_score(known.numpy(), weights.double().numpy()))
