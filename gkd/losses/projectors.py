"""Projectors from one side's embedding to the other's width, and normalisations of embeddings before they meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import centred
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Count, checked

__all__ = ["Normalisation", "OrthogonalLinear", "Projector", "ProjectorKind", "normalised"]

ProjectorKind = Literal["linear", "mlp", "orthogonal", "none"]
Normalisation = Literal["layer", "l2", "standardise", "centre", "whiten", "none"]


class Projector(nn.Module):
    """The student's embedding in the teacher's width; several projectors give the mean of their outputs.

    ``linear``: one linear layer with bias. ``mlp``: linear, BatchNorm, GELU, linear, without biases; its hidden layer
    is ``expansion`` times as wide as the student's embedding. ``orthogonal``: a linear layer without bias whose weight
    has orthonormal columns, or rows where the teacher's embedding is the narrower one (`OrthogonalLinear`). ``none``:
    the embedding as it is.

    Layers start as torch starts them; RSD and LightlyTrain draw their weights from a truncated normal of 0.02 instead.
    BatchNorm leaves masked rows out; one row alone is normalised by the running statistics, which stay as they are.

    Args:
        student, teacher: shapes of one sample's embeddings.
        projector: its kind.
        projectors: how many of them are averaged.
        relu: whether a ReLU follows each projector, before the mean.
        expansion: of the hidden layer of ``mlp``.

    Shapes:
        ``[B, D_S]``, mask Bool ``[B]`` -> ``[B, D_T]``, float32 for half-precision rows.

    Raises:
        UserError: ``none`` between embeddings of different widths.

    Paper:
        mean of several: Chen et al.: Improved Feature Distillation via Projector Ensemble, NeurIPS 2022; orthogonal:
        Miles, Elezi, Deng: VkD, CVPR 2024; mlp: Zhang et al.: RSD, ICCV 2025.
    """

    @checked
    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        projector: ProjectorKind = "linear",
        projectors: Count = 1,
        relu: bool = False,
        expansion: Count = 2,
    ) -> None:
        super().__init__()
        before, after = math.prod(student), math.prod(teacher)
        if projector == "none" and before != after:
            raise UserError(
                f"The student's embedding has {before} entries, the teacher's {after}: projector: none needs the same "
                "number; use projector: linear, mlp or orthogonal.",
                code="other-widths",
            )
        self.relu = relu
        self.layers = nn.ModuleList(_layers(projector, before, after, expansion) for _ in range(projectors))

    def forward(self, embedding: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = upcast(zero_unselected(embedding.flatten(1), mask))
        total: Tensor | None = None
        for layers in self.layers:
            projected = run_layers(layers, rows, mask)  # type: ignore[arg-type]
            projected = F.relu(projected) if self.relu else projected
            total = projected if total is None else total + projected
        assert total is not None
        return total / len(self.layers)


def _layers(kind: str, before: int, after: int, expansion: int) -> nn.Sequential:
    if kind == "linear":
        return nn.Sequential(nn.Linear(before, after))
    if kind == "orthogonal":
        return nn.Sequential(OrthogonalLinear(before, after))
    if kind == "mlp":
        hidden = expansion * before
        return nn.Sequential(
            nn.Linear(before, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, after, bias=False),
        )
    return nn.Sequential()


class OrthogonalLinear(nn.Module):
    """A linear layer without bias whose weight stays orthonormal, whatever an optimiser does to its parameter.

    ``weight = base · H_1 … H_k``, its first k columns, or their transpose: a random orthogonal matrix times Householder
    reflections along the columns of the parameter below its diagonal, with 1 on it. The weight starts at minus the
    first columns of ``base``, and decay of the parameter leads back there.

    torch.nn.utils.parametrizations.orthogonal computes the same, but keeps signs of 1 on the diagonal of its parameter
    as whole numbers: the first step of weight decay makes them 0, and the weight with them. Its product of reflections
    also takes 27 times as long from 64 to 1280 entries, forward and backward on a CPU, as the triangular system here.
    """

    base: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.grows = after >= before
        tall, thin = max(before, after), min(before, after)
        self.register_buffer("base", nn.init.orthogonal_(torch.empty(tall, tall)))
        self.reflections = nn.Parameter(torch.zeros(tall, thin))

    @property
    def weight(self) -> Tensor:
        """``[after, before]``, with orthonormal columns, or rows where it has fewer of them."""
        tall, thin = self.reflections.shape
        identity = torch.eye(tall, thin, dtype=self.base.dtype, device=self.base.device)
        along = self.reflections.tril(-1) + identity
        # H_1 … H_k = I − A T⁻¹ Aᵀ, with T the upper triangle of AᵀA and half its diagonal (the compact WY form).
        gram = along.mT @ along
        triangle = gram.triu() - torch.diag(gram.diagonal() / 2)
        columns = identity - along @ torch.linalg.solve_triangular(triangle, along[:thin].mT, upper=True)
        frame = self.base @ columns
        return frame if self.grows else frame.mT

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT


# Added to each standard deviation, as in RSD's code: a dimension that hardly varies is not blown up.
STEADY = 1e-5
# Added to each variance before its inverse root, as a share of the mean variance.
FLOOR = 1e-5
# Below it the inverse root has a slope that is no number of float32.
_NO_VARIANCE = torch.finfo(torch.float32).tiny


def normalised(rows: Tensor, how: Normalisation, mask: Tensor | None = None) -> Tensor:
    """Rows normalised without trained parameters; those outside the mask become zero and change nothing.

    ``layer``: each row minus its mean, divided by ``sqrt(variance + 1e-5)``. ``l2``: each row divided by its length.
    Over the selected rows of the batch: ``centre``: minus their mean μ; ``standardise``: ``(x − μ) / (σ + 1e-5)`` in
    each dimension, σ with denominator B; ``whiten``: ``(x − μ) (Σ + ε I)^(−1/2)`` with their covariance Σ (denominator
    B) and ε = 1e-5 · trace(Σ) / D, the root being the symmetric one. ``none``: the rows as they are.

    Convention: ``l2`` and ``whiten`` do not depend on the scale of the rows; ``layer`` and ``standardise`` do so only
    where a row varies by less than about 3e-3, or a dimension by less than about 1e-5. With one row, or rows that are
    equal but for rounding, ``centre``, ``standardise`` and ``whiten`` give zeros; with fewer rows than dimensions
    ``whiten`` whitens the dimensions that the rows span. Zero rows have finite gradients under each. No row gives none.

    ``whiten`` computes in float64, since a covariance has twice the digits of its rows; its eigenvectors cost the cube
    of the smaller of B and D, and on a GPU a synchronisation.

    Args:
        rows: ``[B, D]``.
        how: the normalisation.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        ``[B, D]``, float32 for half-precision rows.
    """
    rows = upcast(zero_unselected(rows, mask))
    if how == "none" or rows.numel() == 0:
        return rows
    if how == "l2":
        return unit_rows(rows)
    with no_autocast(rows):
        if how == "layer":
            return F.layer_norm(rows, rows.shape[1:])
        counted = None if mask is None else mask.unsqueeze(0)
        # Twice: the mean of rows that hardly vary is rounded, and what it misses is the same for all of them.
        apart = centred(centred(rows.mT, counted), counted).mT
        if how == "centre":
            return apart
        count = rows.shape[0] if mask is None else mask.sum().clamp_min(1)
        if how == "standardise":
            return apart / (_root(apart.square().sum(0) / count) + STEADY)
        return _whitened(apart.double(), count).to(rows.dtype)


def _root(variance: Tensor) -> Tensor:
    """The square root, whose gradient is 0 at 0."""
    varies = variance > 0
    return torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)


def _whitened(apart: Tensor, count: int | Tensor) -> Tensor:
    """Centred rows ``[B, D]`` times the inverse root of their covariance.

    ``X (XᵀX)^(−1/2) = (XXᵀ)^(−1/2) X``, and so with ε: the smaller of both matrices is taken.
    """
    few = apart.shape[0] < apart.shape[1]
    spread = (apart @ apart.mT if few else apart.mT @ apart) / count
    variance = spread.diagonal().sum() / apart.shape[1]
    floor = torch.where(variance > _NO_VARIANCE, FLOOR * variance, 1)
    identity = torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    root: Tensor = _InverseRoot.apply(spread + floor * identity)
    return root @ apart if few else apart @ root


class _InverseRoot(torch.autograd.Function):
    """``A^(−1/2)`` of a symmetric positive matrix.

    Its gradient has no differences of eigenvalues in a denominator, as that of the eigenvectors has; so equal ones do
    no harm: with ``A = V diag(r²) Vᵀ`` that of the upstream G is ``V [ S ∘ (Vᵀ G V) ] Vᵀ``,
    ``S_ij = −1 / ( r_i r_j (r_i + r_j) )``.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        # The solver raises where an entry is no number; NaN is to come out instead.
        finite = matrix.isfinite().all()
        identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        values, vectors = torch.linalg.eigh(torch.where(finite, matrix, identity))
        roots = torch.where(finite, values.clamp_min(torch.finfo(values.dtype).tiny).sqrt(), torch.nan)
        ctx.save_for_backward(vectors, roots)
        return (vectors / roots) @ vectors.mT

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        vectors, roots = ctx.saved_tensors
        one, other = roots.unsqueeze(0), roots.unsqueeze(1)
        slopes = -1 / (one * other * (one + other))
        gradient: Tensor = vectors @ (slopes * (vectors.mT @ upstream @ vectors)) @ vectors.mT
        return gradient
