"""Accuracy matrices of incremental learning, and the numbers computed from one.

``R[t][k]`` is the accuracy in percent, after step t, on the test images of the classes that step k brought, both
counted from 0; NaN where it was not measured. A matrix of T rows describes a run after T steps, finished or not, and
may have more columns, K. Entries of steps that have not come yet (k > t) count in forward transfer alone.

Where steps differ in size, two kinds of average differ:

- **by images**: `accuracies_on_seen`, and with it the average incremental and the last accuracy, and the old accuracy,
  give every test image the same weight, so a base of 50 classes weighs five times a step of 10;
- **by steps**: `mean_over_steps`, forgetting and the two transfers give every step the same weight, as published.

The average incremental accuracy then weighs its T values equally.

A summary that needs an entry which was not measured is None, never a number over the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError, unknown
from gkd.losses import class_centres, induced_logits

# The classifiers that a table has rows of: the head, and the nearest exemplar mean.
ANSWERS = ("classifier", "ncm")
# The numbers that a table shows -> their names in `incremental_summary`.
NUMBERS = {
    "average": "average",
    "last": "last",
    "forgetting": "forgetting_best_previous",
    "old": "old",
    "new": "new",
    "harmonic": "harmonic",
}

Forgetting = Literal["best-previous", "best-ever", "initial"]


def accuracy_matrix(rows: Sequence[Sequence[float | None]]) -> Tensor:
    """Float64 ``[T, K]`` from rows of any lengths; None and missing entries of shorter rows become NaN.

    Raises:
        ValueError: no row, or one without an entry for each step up to its own.
    """
    short = [number for number, row in enumerate(rows) if len(row) <= number]
    if not rows or short:
        raise ValueError(f"row t needs entries for steps 0 to t; short: {short}, of {len(rows)} rows")
    matrix = torch.full((len(rows), max(map(len, rows))), math.nan, dtype=torch.float64)
    for number, row in enumerate(rows):
        entries = [math.nan if value is None else float(value) for value in row]
        matrix[number, : len(row)] = torch.tensor(entries, dtype=torch.float64)
    return matrix


def matrix_rows(matrix: Tensor) -> list[list[float | None]]:
    """The matrix as lists for JSON, with None for NaN."""
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]


def accuracies_on_seen(matrix: Tensor, sizes: Tensor) -> Tensor:
    """``A_t = Σ_{k≤t} n_k R[t][k] / Σ_{k≤t} n_k``: the accuracy on all images of the classes seen so far.

    Args:
        matrix: ``[T, K]``.
        sizes: int64 ``[K]``, n_k test images of each step.

    Returns:
        Float64 ``[T]``, NaN where an entry is missing.
    """
    weights = sizes.to(matrix).expand_as(matrix).tril()
    return (weights * matrix.tril()).sum(1) / weights.sum(1)


def mean_over_steps(matrix: Tensor) -> Tensor:
    """``1/(t+1) Σ_{k≤t} R[t][k]``, float64 ``[T]``: GEM's ACC, equal to `accuracies_on_seen` for equal steps only.

    Source:
        Lopez-Paz, Ranzato: Gradient Episodic Memory, NeurIPS 2017, equation 2.
    """
    return accuracies_on_seen(matrix, torch.ones(matrix.shape[1]))


def average_incremental_accuracy(
    matrix: Tensor, sizes: Tensor, *, include_first: bool = True
) -> float | None:
    """The mean of A_t over the steps.

    Args:
        matrix, sizes: as in `accuracies_on_seen`.
        include_first: count the first step, as iCaRL's successors do; False leaves it out, as EEIL and BiC do (None
            after one step).

    Source:
        Rebuffi et al.: iCaRL, CVPR 2017, section 4.1.
    """
    return _mean(accuracies_on_seen(matrix, sizes)[0 if include_first else 1 :])


def last_accuracy(matrix: Tensor, sizes: Tensor) -> float | None:
    """A_T, the accuracy on all classes after the last row's step."""
    return _mean(accuracies_on_seen(matrix, sizes)[-1:])


def forgetting(matrix: Tensor, *, variant: Forgetting = "best-previous") -> float | None:
    """How far the accuracy on earlier steps has fallen by the last row, averaged over those steps; in points.

    ``1/(T−1) Σ_{k<T} (b_k − R[T][k])``, steps counted from 1, where b_k is

    - ``"best-previous"``: ``max_{k≤t≤T−1} R[t][k]``, the literature's default; negative where a step gained;
    - ``"best-ever"``: ``max_{k≤t≤T} R[t][k]``, PyCIL's; never negative;
    - ``"initial"``: ``R[k][k]``, avalanche's, and minus the backward transfer.

    None after one step.

    Source:
        Chaudhry et al.: Riemannian Walk for Incremental Learning, ECCV 2018, section 3.
    """
    if variant not in get_args(Forgetting):
        raise UserError(
            unknown("variant of forgetting", variant, get_args(Forgetting)),
            code="unknown-variant-of-forgetting",
        )
    earlier = len(matrix) - 1
    last = matrix[-1, :earlier]
    if variant == "initial":
        return _mean(matrix.diagonal()[:earlier] - last)
    # Accuracies from before a step came cannot be forgotten.
    not_yet = torch.ones_like(matrix, dtype=torch.bool).triu(1)
    measured = matrix.masked_fill(not_yet, -math.inf)[: earlier + (variant == "best-ever"), :earlier]
    return _mean(measured.amax(0) - last) if earlier else None


def backward_transfer(matrix: Tensor) -> float | None:
    """``1/(T−1) Σ_{k<T} (R[T][k] − R[k][k])``, steps counted from 1; negative is forgetting. None after one step.

    Source:
        Lopez-Paz, Ranzato: Gradient Episodic Memory, NeurIPS 2017, equation 3.
    """
    lost = forgetting(matrix, variant="initial")
    return None if lost is None else -lost


def forward_transfer(matrix: Tensor, untrained: Tensor) -> float | None:
    """``1/(T−1) Σ_{k≥2} (R[k−1][k] − b_k)``, steps counted from 1: how much earlier steps help a later one.

    It needs the entries right above the diagonal, so a network that has columns for classes before they come.

    Args:
        matrix: ``[T, K]``.
        untrained: ``[K]``, b_k: the accuracies of the network before any training.

    Source:
        Lopez-Paz, Ranzato: Gradient Episodic Memory, NeurIPS 2017, equation 4.
    """
    ahead = matrix.diagonal(1)[: len(matrix) - 1]
    return _mean(ahead - untrained.to(matrix)[1 : 1 + len(ahead)])


def old_new_harmonic(matrix: Tensor, sizes: Tensor) -> tuple[float | None, float | None, float | None]:
    """Accuracies on the old and on the new classes of the last row's step, and their harmonic mean.

    ``(o, n, 2on/(o+n))``; o is by images, and the harmonic mean of two zeros is 0. After one step there is no old
    accuracy and no harmonic mean.
    """
    now = len(matrix) - 1
    weights = sizes.to(matrix)[:now]
    old = _mean(((weights * matrix[now, :now]).sum() / weights.sum()).view(1))
    new = _mean(matrix[now, now : now + 1])
    if old is None or new is None:
        return old, new, None
    return old, new, 2 * old * new / (old + new) if old + new > 0 else 0.0


def incremental_summary(
    matrix: Tensor, sizes: Tensor, *, untrained: Tensor | None = None
) -> dict[str, float | None]:
    """Every number of this module for one matrix, by name; None where it is not defined or not measured.

    Args:
        matrix: ``[T, K]``.
        sizes: int64 ``[K]``, test images of each step.
        untrained: ``[K]``, see `forward_transfer`; None leaves that None.
    """
    old, new, harmonic = old_new_harmonic(matrix, sizes)
    return {
        "average": average_incremental_accuracy(matrix, sizes),
        "average_without_first": average_incremental_accuracy(matrix, sizes, include_first=False),
        "last": last_accuracy(matrix, sizes),
        "last_mean_over_steps": _mean(mean_over_steps(matrix)[-1:]),
        "forgetting_best_previous": forgetting(matrix),
        "forgetting_best_ever": forgetting(matrix, variant="best-ever"),
        "forgetting_initial": forgetting(matrix, variant="initial"),
        "backward_transfer": backward_transfer(matrix),
        "forward_transfer": None if untrained is None else forward_transfer(matrix, untrained),
        "old": old,
        "new": new,
        "harmonic": harmonic,
    }


def _mean(values: Tensor) -> float | None:
    """The mean, or None for no value or a NaN among them."""
    mean = values.mean().item()
    return None if math.isnan(mean) else mean


def exemplar_means(embedding: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The mean of each class's unit embeddings, at unit length, and the classes' sizes.

    Args:
        embedding: ``[M, D]`` of the exemplars; iCaRL's paper has each exemplar's mirror image among them, PyCIL not.
        labels: int64 ``[M]``.
        num_classes: C.

    Returns:
        Means ``[C, D]``, a zero row for a class without an exemplar; counts int64 ``[C]``.

    Source:
        Rebuffi et al.: iCaRL, CVPR 2017, algorithm 1.
    """
    return class_centres(F.normalize(embedding.float(), dim=1), labels, num_classes)


def predictions(scores: Tensor, allowed: Tensor) -> Tensor:
    """Int64 ``[N]``: the column of the largest score among the allowed ones, −1 where none is.

    Args:
        scores: ``[N, C]``.
        allowed: Bool ``[C]`` for all rows, or ``[N, C]``.
    """
    chosen = scores.masked_fill(~allowed, -math.inf).argmax(1)
    return torch.where(allowed.any(-1), chosen, -1)


def task_agnostic(scores: Tensor, known: Tensor) -> Tensor:
    """Predictions ``[N]`` among all known classes: class-incremental learning.

    Args:
        scores: ``[N, C]``.
        known: Bool ``[C]``: the classes seen so far, for a nearest-mean classifier those of them with a mean. A column
            that no image has trained must not win, and a class without a mean has a score of 0, which could.
    """
    return predictions(scores, known)


def task_aware(scores: Tensor, known: Tensor, labels: Tensor, steps: Tensor) -> Tensor:
    """Predictions ``[N]`` among the known classes of each image's own step: the step is given, as if by an oracle.

    Args:
        scores: ``[N, C]``.
        known: Bool ``[C]``.
        labels: int64 ``[N]``, below C'.
        steps: int64 ``[C']``, the step of each class, C' ≥ C.
    """
    of_step = steps[labels].unsqueeze(1) == steps[: scores.shape[1]]
    return predictions(scores, of_step & known)


def images_by_step(labels: Tensor, steps: Tensor) -> Tensor:
    """Int64 ``[K]``: how many images each step's classes have; ``steps [C]`` says the step of each class."""
    return torch.bincount(steps[labels], minlength=int(steps.max()) + 1)


def accuracy_by_step(predicted: Tensor, labels: Tensor, steps: Tensor) -> Tensor:
    """Accuracy in percent on the images of each step's classes, float64 ``[K]``; NaN for a step without an image.

    Args:
        predicted, labels: int64 ``[N]``.
        steps: int64 ``[C]``, the step of each class.
    """
    sizes = images_by_step(labels, steps)
    right = images_by_step(labels[predicted == labels], steps)
    return 100.0 * right.double() / sizes.double()


def matrix_row(
    logits: Tensor,
    embedding: Tensor,
    labels: Tensor,
    steps: Tensor,
    *,
    step: int,
    means: Tensor | None = None,
    counts: Tensor | None = None,
) -> dict[str, Tensor]:
    """The row of a step in every accuracy matrix, from one pass over the test images.

    Args:
        logits: ``[N, C]``; columns are classes in the order of arrival, at least those seen so far.
        embedding: ``[N, D]``.
        labels: int64 ``[N]``, below C'; images of classes to come may be among them.
        steps: int64 ``[C']``, the step of each class, C' ≥ C (see `gkd.incremental.scenario.step_of_class`).
        step: the step that was learnt last, from 0.
        means, counts: ``[C'', D]`` and ``[C'']`` from `exemplar_means`, C'' ≤ C'; None leaves out the last two rows.

    Returns:
        Float64 ``[K]`` for each of ``classifier``, ``classifier_task_aware``, ``ncm`` and ``ncm_task_aware``: the
        head's and the nearest class mean's answers (PyCIL's CNN and NME). Steps to come are NaN; but a task-aware row
        has them where the classes have columns or means already.
    """
    steps = steps.to(labels.device)
    seen = steps <= step
    columns = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    judged = {"classifier": (logits, columns)}
    if means is not None and counts is not None:
        cosines = induced_logits(F.normalize(embedding.float(), dim=1), means.to(embedding.device))
        judged["ncm"] = (cosines, counts.to(labels.device) > 0)
    rows = {}
    for name, (scores, answerable) in judged.items():
        came = torch.arange(int(steps.max()) + 1, device=labels.device) <= step
        agnostic = accuracy_by_step(
            task_agnostic(scores, answerable & seen[: len(answerable)]), labels, steps
        )
        rows[name] = agnostic.where(came, math.nan)
        aware = accuracy_by_step(task_aware(scores, answerable, labels, steps), labels, steps)
        answered = torch.isin(
            torch.arange(len(came), device=came.device), steps[: len(answerable)][answerable]
        )
        rows[f"{name}_task_aware"] = aware.where(came | answered, math.nan)
    return rows
