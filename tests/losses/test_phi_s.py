"""PHI-S: the same variance in every dimension, by a rotation and one factor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard as sylvester

from gkd.losses.phi_s import hadamard, phi_s
from tests.refusals import refused


def spread_rows(count: int, width: int) -> torch.Tensor:
    """Rows whose dimensions are correlated and of very different variances."""
    torch.manual_seed(width)
    scales = torch.logspace(-1, 1, width, dtype=torch.float64)
    mixed, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
    return torch.randn(count, width, dtype=torch.float64) * scales @ mixed + 3


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 28, 36, 48, 64, 320, 384, 1280])
def test_a_hadamard_matrix_is_orthogonal_with_entries_of_one_size(size: int) -> None:
    matrix = hadamard(size)
    assert matrix is not None
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    assert torch.allclose(matrix.abs(), torch.full_like(matrix, size**-0.5))


def test_the_widths_without_one_are_those_that_the_docstring_names() -> None:
    lacking = [size for size in range(1, 100) if hadamard(size) is None]
    assert [size for size in lacking if size % 4 == 0] == [52, 92]
    assert all(size % 4 for size in lacking if size not in (52, 92))


@pytest.mark.parametrize("width", [8, 12, 9, 3])
def test_it_is_a_rotation_and_a_factor_after_which_all_variances_are_one(width: int) -> None:
    rows = spread_rows(200, width)
    balanced = phi_s(rows)(rows).numpy()
    apart = rows.numpy() - rows.numpy().mean(0)
    np.testing.assert_allclose(balanced.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(balanced.var(0), 1, rtol=1e-4)
    factor = width / np.trace(np.cov(apart.T, bias=True))  # one over the mean variance
    np.testing.assert_allclose(balanced @ balanced.T, factor * apart @ apart.T, rtol=1e-3, atol=1e-3)


def test_every_dimension_has_an_equal_part_of_each_principal_component() -> None:
    """Against the formula by NumPy's SVD and SciPy's Hadamard matrix; of a component the sign is free."""
    rows = spread_rows(300, 8)
    balanced = phi_s(rows)(rows).numpy()
    apart = rows.numpy() - rows.numpy().mean(0)
    _, scales, components = np.linalg.svd(apart, full_matrices=False)
    variances = scales**2 / len(rows)
    reference = apart @ components.T @ (sylvester(8) / np.sqrt(8)).T / np.sqrt(variances.mean())
    for ours in (balanced, reference):
        along = np.abs(ours.T @ (apart @ components.T) / len(rows))  # covariance with each component
        np.testing.assert_allclose(
            along, np.tile(variances / np.sqrt(8 * variances.mean()), (8, 1)), rtol=1e-3
        )


def test_few_rows_equal_rows_and_half_precision_are_finite_and_no_row_is_refused() -> None:
    few = spread_rows(3, 16)
    assert torch.allclose(
        phi_s(few)(few).var(0, unbiased=False), torch.ones(16, dtype=torch.float64), rtol=1e-4
    )
    equal = torch.ones(4, 3)
    assert phi_s(equal)(equal).eq(0).all()
    assert phi_s(few)(few.bfloat16()).dtype == torch.float32
    with refused("no-images"):
        phi_s(few[:0])
