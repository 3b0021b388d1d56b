"""The affinity family: distances between two networks' matrices of pairwise affinities within a batch.

Li and Maki's unified view as code: an affinity of every pair of samples, a normalisation of that matrix, a
distance between the two networks' matrices. :mod:`gkd.losses.similarity` has the published combinations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError, shown, unknown
from gkd.core.numerics import no_autocast, safe_divide, unit_rows, upcast, zero_unselected
from gkd.losses._common import centred, check_rows, kl_entries
from gkd.losses.registry import loss
from gkd.losses.signature import Count, Mask, Positive

__all__ = ["affinity_loss", "affinity_refusal"]

Affinity = Literal[
    "dot",
    "cosine",
    "shifted-cosine",
    "euclid",
    "squared-euclid",
    "rbf",
    "taylor-rbf",
    "polynomial",
    "student-t",
]
Normalisation = Literal[
    "none", "row-l2", "row-sum", "row-softmax", "mean", "max", "frobenius", "standardise", "row-standardise"
]
Distance = Literal["l2", "l1", "smooth-l1", "kl", "js"]

# Natural logarithms of row sums are floored here: an affinity of exactly 0 is a probability of exactly 0.
_LOWEST = 1e-12


@dataclass(frozen=True)
class _Kernel:
    """The parameters of the affinities that have any.

    Attributes:
        bandwidth, degree, offset: as in `affinity_loss`.
        factor_over: the dimensions of the matrix over which the normalisation takes a common factor out again; none
            where it does not.
    """

    bandwidth: float
    degree: int
    offset: float
    factor_over: tuple[int, ...] = ()


def _factor_over(normalisation: Normalisation) -> tuple[int, ...]:
    """The dimensions of ``[B, B]`` in which a normalisation does not see a common positive factor."""
    if normalisation in ("none", "row-softmax"):
        return ()
    return (1,) if normalisation.startswith("row-") else (0, 1)


# --- affinities: rows [B, D] -> [B, B] ---------------------------------------------------------------


def _dot(x: Tensor, kernel: _Kernel) -> Tensor:
    return x @ x.T


def _cosine(x: Tensor, kernel: _Kernel) -> Tensor:
    unit = unit_rows(x)
    return unit @ unit.T


def _shifted_cosine(x: Tensor, kernel: _Kernel) -> Tensor:
    return ((1 + _cosine(x, kernel)) / 2).clamp_min(0)


def _euclid(x: Tensor, kernel: _Kernel) -> Tensor:
    # From differences, not from inner products, which cancel where samples nearly coincide.
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _squared_euclid(x: Tensor, kernel: _Kernel) -> Tensor:
    return _euclid(x, kernel).square()


def _rbf(x: Tensor, kernel: _Kernel) -> Tensor:
    return (-kernel.bandwidth * _squared_euclid(x, kernel)).exp()


def _taylor_rbf(x: Tensor, kernel: _Kernel) -> Tensor:
    cosine = 2 * kernel.bandwidth * _cosine(x, kernel)
    terms = [torch.ones_like(cosine)]
    for power in range(1, kernel.degree + 1):  # no power and no factorial grows beyond float32
        terms.append(terms[-1] * cosine / power)
    return math.exp(-2 * kernel.bandwidth) * torch.stack(terms).sum(0)


def _polynomial(x: Tensor, kernel: _Kernel) -> Tensor:
    base = _dot(x, kernel) + kernel.offset
    if kernel.factor_over:  # without that factor, powers of large numbers overflow
        base = safe_divide(base, base.detach().abs().amax(kernel.factor_over, keepdim=True))
    return base**kernel.degree


def _student_t(x: Tensor, kernel: _Kernel) -> Tensor:
    return 1 / (1 + _squared_euclid(x, kernel))


AFFINITIES: dict[Affinity, Callable[[Tensor, _Kernel], Tensor]] = {
    "dot": _dot,
    "cosine": _cosine,
    "shifted-cosine": _shifted_cosine,
    "euclid": _euclid,
    "squared-euclid": _squared_euclid,
    "rbf": _rbf,
    "taylor-rbf": _taylor_rbf,
    "polynomial": _polynomial,
    "student-t": _student_t,
}
# Multiplying the features multiplies these by a factor, which most normalisations take out again.
_HOMOGENEOUS = ("dot", "euclid", "squared-euclid")
_DISTANCES = ("euclid", "squared-euclid")  # far is large: a softmax takes their negative
_NON_NEGATIVE = ("shifted-cosine", "euclid", "squared-euclid", "rbf", "student-t")

# Non-negative where the degree is even; the highest degree: of larger ones float32 overflows, or nothing changes.
_HIGHEST_DEGREE = {"polynomial": 10, "taylor-rbf": 100}
_WIDEST = 40  # e^(2b) is within float32

# --- normalisations: [B, B], the pairs that count, temperature -> [B, B] ------------------------------


def _as_is(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return matrix


def _row_l2(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return unit_rows(matrix)


def _row_sum(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return safe_divide(matrix, matrix.sum(1, keepdim=True))


def _log_row_sum(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return _row_sum(matrix, pairs, temperature).clamp_min(_LOWEST).log()


def _row_softmax(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return torch.where(pairs, _log_row_softmax(matrix, pairs, temperature).exp(), 0)


def _log_row_softmax(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    outside = torch.finfo(matrix.dtype).min / 4
    return torch.where(pairs, matrix / temperature, outside).log_softmax(1)


def _over_mean(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    itself = torch.eye(matrix.shape[0], dtype=torch.bool, device=matrix.device)
    counted = pairs & ~itself & (matrix > 0)
    return safe_divide(matrix, torch.where(counted, matrix, 0).sum() / counted.sum().clamp_min(1))


def _over_max(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return safe_divide(matrix, matrix.abs().amax())


def _over_frobenius(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return unit_rows(matrix.reshape(1, -1)).reshape(matrix.shape)


def _standardise(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return _standardised(matrix.reshape(1, -1), pairs.reshape(1, -1)).reshape(matrix.shape)


def _row_standardise(matrix: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    return _standardised(matrix, pairs)


def _standardised(rows: Tensor, counted: Tensor) -> Tensor:
    """(x − mean) / std of each row over the counted entries; a row without spread becomes zero."""
    return unit_rows(centred(rows, counted)) * counted.sum(1, keepdim=True).to(rows.dtype).sqrt()


NORMALISATIONS: dict[Normalisation, Callable[[Tensor, Tensor, float], Tensor]] = {
    "none": _as_is,
    "row-l2": _row_l2,
    "row-sum": _row_sum,
    "row-softmax": _row_softmax,
    "mean": _over_mean,
    "max": _over_max,
    "frobenius": _over_frobenius,
    "standardise": _standardise,
    "row-standardise": _row_standardise,
}
# The two that make every row a distribution, in log space.
_LOG_NORMALISATIONS = {"row-sum": _log_row_sum, "row-softmax": _log_row_softmax}

# --- distances, entry by entry: student, teacher -> [B, B] -------------------------------------------


def _square(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square()


def _absolute(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs()


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(student, teacher, reduction="none")


def _kullback_leibler(student_log: Tensor, teacher_log: Tensor) -> Tensor:
    # p_S − p_T sums to 0 over a row. With it no entry is negative, and the rounding of the rows' normalisers, which
    # would be as large as a small divergence in float32, cancels.
    return kl_entries(student_log, teacher_log) + (student_log.exp() - teacher_log.exp())


def _jensen_shannon(student_log: Tensor, teacher_log: Tensor) -> Tensor:
    middle = torch.logaddexp(student_log, teacher_log) - math.log(2)
    return (kl_entries(middle, student_log) + kl_entries(middle, teacher_log)) / 2


DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": _square,
    "l1": _absolute,
    "smooth-l1": _huber,
    "kl": _kullback_leibler,
    "js": _jensen_shannon,
}
_OF_DISTRIBUTIONS = ("kl", "js")

# --- the family ---------------------------------------------------------------------------------------


def affinity_refusal(
    affinity: str, normalisation: str, distance: str, *, degree: int = 2, bandwidth: float = 0.4
) -> str | None:
    """Why a combination is undefined, or None where it is valid.

    KL and JS compare distributions, so they need rows that sum to one; a row can be divided by its sum only
    where no affinity is negative.
    """
    error = _combination_error(affinity, normalisation, distance, degree, bandwidth)
    return None if error is None else str(error)


def _combination_error(
    affinity: str, normalisation: str, distance: str, degree: int, bandwidth: float
) -> UserError | None:
    """The error of an undefined combination, or None; see :func:`affinity_refusal`."""
    for name, value, allowed in (
        ("affinity", affinity, get_args(Affinity)),
        ("normalisation", normalisation, get_args(Normalisation)),
        ("distance", distance, get_args(Distance)),
    ):
        if value not in allowed:
            return UserError(unknown(name, value, allowed), code="unknown-option-value")
    highest = _HIGHEST_DEGREE.get(affinity)
    if highest is not None and (not isinstance(degree, int) or not 1 <= degree <= highest):
        return UserError(
            f"The degree of {affinity!r} is a whole number of 1 or more, at most {highest}, not {shown(degree)}.",
            code="option-out-of-range",
        )
    if affinity == "taylor-rbf" and bandwidth > _WIDEST:
        return UserError(
            f"The bandwidth of 'taylor-rbf' is at most {_WIDEST}, not {bandwidth:g}: its series would leave float32.",
            code="option-out-of-range",
        )
    if distance in _OF_DISTRIBUTIONS and normalisation not in _LOG_NORMALISATIONS:
        return UserError(
            f"The distance {distance!r} compares distributions, but the normalisation {normalisation!r} does not make "
            "rows sum to one; use 'row-softmax' or 'row-sum', or the distance 'l2', 'l1' or 'smooth-l1'.",
            code="needs-distributions",
        )
    non_negative = affinity in _NON_NEGATIVE or (highest is not None and degree % 2 == 0)
    if normalisation == "row-sum" and not non_negative:
        return UserError(
            f"The normalisation 'row-sum' needs affinities of 0 or more, but {affinity!r} can be negative; use "
            "'row-softmax', or 'shifted-cosine' instead of 'cosine', or an even degree of 'polynomial' or "
            "'taylor-rbf'.",
            code="needs-non-negative-affinities",
        )
    return None


def _options_refusal(options: dict[str, Any]) -> str | None:
    names = ("affinity", "normalisation", "distance", "degree", "bandwidth")
    return affinity_refusal(**{name: options[name] for name in names})


@loss("affinity", paper="Li, Maki 2022", refusal=_options_refusal)
def affinity_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    affinity: Affinity = "cosine",
    normalisation: Normalisation = "row-softmax",
    distance: Distance = "kl",
    diagonal: bool = True,
    per: Literal["row", "pair"] = "row",
    temperature: Positive = 1.0,
    bandwidth: Positive = 0.4,
    degree: Count = 2,
    offset: float = 1.0,
    mask: Mask = None,
) -> Tensor:
    """Distance between the two networks' normalised matrices of pairwise affinities.

    ``A_ij = aff(h_i, h_j)``, ``N = norm(A)``, ``loss = reduce_ij dist(N_S,ij, N_T,ij)``, with h the rows of
    each side, flattened to ``[B, D]``.

    - affinity: ``dot`` h_i·h_j; ``cosine``; ``shifted-cosine`` (1 + cos) / 2; ``euclid`` ‖h_i − h_j‖₂;
      ``squared-euclid``; ``rbf`` exp(−bandwidth · ‖h_i − h_j‖²); ``taylor-rbf`` the same of unit rows, cut
      off after the power ``degree``: e^(−2b) Σ_p (2b cos)^p / p!; ``polynomial`` (h_i·h_j + offset)^degree;
      ``student-t`` 1 / (1 + ‖h_i − h_j‖²).
    - normalisation: ``none``; ``row-l2`` and ``row-sum`` divide each row by its L2 norm or its sum;
      ``row-softmax`` softmax(A_i / temperature), of −A for the two Euclidean distances; ``mean`` divides by
      the mean of the positive entries off the diagonal, ``max`` by the largest magnitude, ``frobenius`` by
      the Frobenius norm; ``standardise`` and ``row-standardise`` subtract the mean and divide by the
      (population) standard deviation of the matrix or of each row.
    - distance: ``l2`` squared differences; ``l1``; ``smooth-l1`` (Huber, β = 1); ``kl`` KL(teacher‖student)
      and ``js`` Jensen-Shannon, between rows as distributions, natural logarithm.

    Convention: ``per='row'`` sums over j and means over the selected rows i; with a row-wise normalisation
    that value hardly depends on B. ``per='pair'`` also divides by the number of selected columns, so it is
    O(1/B) there; the published reductions are of this kind. ``diagonal=False`` leaves the pairs (i, i) out of
    the normalisation and of the loss, and counts B − 1 columns. The teacher is a constant; gradients pass
    through the student's normaliser. Entries of probability 0 are floored at 1e-12 in logarithms. One sample
    without the diagonal, or none, gives a zero that keeps the graph. Widths of the two sides may differ.

    Args:
        student: ``[B, ...]``, an embedding or a map.
        teacher: ``[B, ...]``.
        affinity, normalisation, distance: the three modules, by name.
        diagonal: whether a sample is compared with itself.
        per: the reduction.
        temperature: of ``row-softmax``.
        bandwidth: of ``rbf``, and up to 40 of ``taylor-rbf``.
        degree, offset: of ``polynomial``, the degree of ``taylor-rbf`` too: 1 to 10, and to 100. Of a polynomial the
            normalisations ``none`` and ``row-softmax`` take the powers themselves, which are infinite in float32 from
            |h_i·h_j + offset| = 10^(38 / degree) on; the others divide before the power.
        mask: Bool ``[B]``, the rows that count; the others enter neither rows nor columns.

    Returns:
        A 0-dim tensor, float32 for half-precision inputs.

    Raises:
        UserError: a combination that is undefined, or sides of different batch sizes.

    Paper:
        Li, Maki: Towards a Unified View of Affinity-Based Knowledge Distillation, arXiv 2209.15555, 2022.
    """
    error = _combination_error(affinity, normalisation, distance, degree, bandwidth)
    if error is not None:
        raise error
    check_rows(student, teacher)
    kernel = _Kernel(bandwidth, degree, offset, _factor_over(normalisation))
    if student.numel() == 0:
        return upcast(student).sum()
    everything = torch.ones(student.shape[0], dtype=torch.bool, device=student.device)
    selected = everything if mask is None else mask
    pairs = selected.unsqueeze(1) & selected.unsqueeze(0)
    if not diagonal:
        pairs = pairs & ~torch.eye(pairs.shape[0], dtype=torch.bool, device=pairs.device)

    def side(features: Tensor) -> Tensor:
        flat = zero_unselected(upcast(features).flatten(1), mask)
        if affinity in _HOMOGENEOUS and normalisation not in ("none", "row-softmax"):
            # The result does not change with a common factor; without it large features overflow.
            flat = safe_divide(flat, flat.detach().abs().amax())
        with no_autocast(flat):
            matrix = torch.where(pairs, AFFINITIES[affinity](flat, kernel), 0)
        if normalisation == "row-softmax" and affinity in _DISTANCES:
            matrix = -matrix
        chosen = _LOG_NORMALISATIONS if distance in _OF_DISTRIBUTIONS else NORMALISATIONS
        return chosen[normalisation](matrix, pairs, temperature)

    entries = torch.where(pairs, DISTANCES[distance](side(student), side(teacher.detach())), 0)
    rows = selected.sum().clamp_min(1)
    columns = (rows - int(not diagonal)).clamp_min(1) if per == "pair" else 1
    return entries.sum() / (rows * columns)
