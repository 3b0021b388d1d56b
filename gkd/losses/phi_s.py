"""PHI-S: an embedding whose dimensions all have the same variance, by a rotation and one factor."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.numerics import upcast

__all__ = ["Balance", "hadamard", "phi_s"]


class Balance(NamedTuple):
    """An affine map of embeddings: ``(x − mean) @ matrix``.

    Attributes:
        mean: ``[D]``.
        matrix: ``[D, D]``.
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, D]``, in float32 for half-precision rows."""
        rows = upcast(rows)
        return (rows - self.mean.to(rows)) @ self.matrix.to(rows)


def phi_s(rows: Tensor) -> Balance:
    """The map that gives every dimension of these rows the mean 0 and the variance 1.

    ``y = (x − μ) U Hᵀ / √λ̄`` with ``Σ = U diag(λ) Uᵀ`` the covariance of the rows (denominator N), λ̄ the mean of its
    eigenvalues and H an orthogonal matrix whose entries are all ``±1/√D``: a Hadamard matrix, so that every dimension
    of y has an equal part of each principal component. It is a rotation and one factor, so distances and angles between
    rows stay as they are, up to that factor, and teachers of different scale come to the same.

    Convention: where no Hadamard matrix of D is known here (`hadamard`), H is a product of D − 1 plane rotations after
    which all variances are equal, too, though not every component has an equal part (ours, by Horn's construction:
    each rotation turns a dimension above the mean variance and one below it until one of them has the mean). The
    statistics are of all rows given, once: eigenvectors of each batch would turn from one batch to the next, and so
    would what a projector is to learn. Rows without variance give zeros. Computed in float64.

    Args:
        rows: ``[N, D]``, the embeddings of the training images.

    Returns:
        The map, in float32.

    Raises:
        UserError: no row.

    Paper:
        Ranzinger, Barker, Heinrich, Molchanov, Catanzaro, Tao: PHI-S: Distribution Balancing for Label-Free
        Multi-Teacher Distillation, arXiv 2410.01680.
    """
    if len(rows) == 0:
        raise UserError("PHI-S takes its statistics of embeddings, and there are none.", code="no-images")
    rows = rows.detach().flatten(1).double()
    mean = rows.mean(0)
    apart = rows - mean
    values, vectors = torch.linalg.eigh(apart.mT @ apart / len(rows))
    values = values.clamp_min(0)
    even = hadamard(len(values))
    rotation = _levelled(values) if even is None else even.to(values)
    scale = values.mean().sqrt()
    matrix = vectors @ rotation.mT / scale if scale > 0 else torch.zeros_like(vectors)
    return Balance(mean.float(), matrix.float())


def hadamard(size: int) -> Tensor | None:
    """An orthogonal ``[size, size]`` float64 matrix of entries ``±1/√size``; None where none is known here.

    Sylvester's doubling of 1, and of Paley's two constructions from a prime q: of size q + 1 where q leaves 3 when
    divided by 4, and 2 (q + 1) where it leaves 1. That covers the widths of nearly all networks: among those below 100
    that 4 divides only 52 and 92 need more.

    Args:
        size: D.
    """
    matrix = _signs(size)
    return None if matrix is None else matrix / size**0.5


@lru_cache(maxsize=8)
def _signs(size: int) -> Tensor | None:
    """A Hadamard matrix of entries ±1."""
    one = torch.ones(1, 1, dtype=torch.float64)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if size == 1:
        return one
    if size < 1 or size % 2:
        return None
    if _is_prime(size - 1) and size % 4 == 0:  # Paley I: I + S with S skew
        core = _bordered(size - 1, skew=True)
        return torch.eye(size, dtype=torch.float64) + core
    half = size // 2
    if size % 4 == 0 and _is_prime(half - 1) and half % 4 == 2:  # Paley II
        core, identity = _bordered(half - 1, skew=False), torch.eye(half, dtype=torch.float64)
        mixed = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(core, pair) + torch.kron(identity, mixed)
    smaller = _signs(half)
    return None if smaller is None else torch.kron(pair, smaller)


def _bordered(prime: int, *, skew: bool) -> Tensor:
    """Paley's ``[q + 1, q + 1]`` conference matrix: 0 on the diagonal, elsewhere ±1, with orthogonal rows."""
    numbers = torch.arange(prime)
    character = -torch.ones(prime, dtype=torch.float64)
    character[(numbers * numbers) % prime] = 1
    character[0] = 0
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 1:] = 1
    matrix[1:, 0] = -1 if skew else 1
    matrix[1:, 1:] = character[(numbers.unsqueeze(1) - numbers) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _levelled(values: Tensor) -> Tensor:
    """An orthogonal matrix Q with a constant diagonal of ``Q diag(values) Qᵀ``.

    What is not levelled yet stays uncorrelated, so each rotation is of two variances: a below and b above the mean m,
    with ``cos² = (b − m) / (b − a)`` of the angle that brings the first to m.
    """
    mean, left = values.mean(), values.clone()
    rotation = torch.eye(len(values), dtype=values.dtype)
    open_rows = list(range(len(values)))
    while len(open_rows) > 1:
        low = min(open_rows, key=lambda row: float(left[row]))
        high = max(open_rows, key=lambda row: float(left[row]))
        below, above = left[low], left[high]
        if above - below <= 1e-12 * mean:
            break
        cos_squared = ((above - mean) / (above - below)).clamp(0, 1)
        cos, sin = cos_squared.sqrt(), (1 - cos_squared).sqrt()
        first, second = rotation[low].clone(), rotation[high].clone()
        rotation[low], rotation[high] = cos * first + sin * second, cos * second - sin * first
        left[high] = below + above - mean
        open_rows.remove(low)
    return rotation
