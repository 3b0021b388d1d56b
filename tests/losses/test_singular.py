"""Singular vectors: published numbers, signs and gradients.

The numbers are those of HobbitLong/RepDistiller@b84f547 distiller_zoo/KDSVD.py, whose vectors were turned so that their
sums are not negative, and of megvii-research/mdistiller@a08d46f mdistiller/distillers/KDSVD.py, when run in float64.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gkd.losses import singular_loss
from tests.refusals import refused

from .references import random
from .waves import wave


def maps(*shapes: tuple[int, int, int]) -> list[Tensor]:
    """Not negative, as behind a ReLU: the first vector of each is then of one sign."""
    phases = (0.2, 0.4, 0.9, 1.1)
    return [wave(3, *shape, phase=phase).abs() for shape, phase in zip(shapes, phases, strict=True)]


@pytest.mark.parametrize(("vectors", "number"), [(1, 0.0003110976777896287), (2, 0.001169620448047538)])
def test_it_is_the_benchmarks_with_its_signs_settled(vectors: int, number: float) -> None:
    loss = singular_loss(*maps((4, 3, 3), (5, 2, 2), (4, 2, 2), (5, 2, 2)), vectors=vectors)
    assert float(loss) == pytest.approx(number, rel=1e-9)


def test_columns_are_mdistillers() -> None:
    loss = singular_loss(*maps((4, 3, 3), (5, 2, 2), (2, 3, 3), (6, 2, 2)), of="columns")
    assert float(loss) == pytest.approx(0.00036018360961164684, rel=1e-9)


def test_signs_that_the_library_chooses_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [random(number, 4, 5, 3, 3) for number in range(4)]
    expected = singular_loss(*inputs, vectors=3)
    decompose = torch.linalg.eigh
    turns = iter(range(1, 100))

    def otherwise(matrix: Tensor) -> Any:
        values, vectors = decompose(matrix)
        signs = torch.randn(vectors.shape[2], generator=torch.Generator().manual_seed(next(turns))).sign()
        return values, vectors * signs

    monkeypatch.setattr(torch.linalg, "eigh", otherwise)
    torch.testing.assert_close(singular_loss(*inputs, vectors=3), expected)


def dead(maps: Tensor) -> Tensor:
    """Maps of two channels with equal singular values and three dead ones, whose values are 0."""
    maps = torch.zeros_like(maps)
    maps[:, 0, 0, 0] = maps[:, 1, 1, 1] = 1
    return maps


def test_equal_singular_values_have_finite_gradients() -> None:
    inputs = [dead(random(number, 4, 5, 3, 3)) for number in range(2)]
    inputs += [random(number, 4, 5, 3, 3) for number in (2, 3)]
    leaves = [x.requires_grad_() for x in inputs[:2]]
    loss = singular_loss(*inputs)
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)
    # That of the library's decomposition, which published code takes, is not.
    matrix = dead(random(0, 4, 5, 3, 3)).flatten(2).mT.requires_grad_()
    first = torch.linalg.svd(matrix, full_matrices=False)[2][:, 0, 0]
    (published,) = torch.autograd.grad(first.sum(), matrix)
    assert not published.isfinite().all()


def test_a_wider_gap_leaves_more_of_the_gradient_out() -> None:
    inputs = [random(number, 4, 5, 3, 3) for number in range(4)]
    gradients = []
    for gap in (1e-9, 1e-4, 1.0):
        leaf = inputs[0].clone().requires_grad_()
        singular_loss(leaf, *inputs[1:], smallest_gap=gap).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[1].abs().sum() > gradients[2].abs().sum()


def test_other_channels_are_refused() -> None:
    inputs = maps((4, 3, 3), (5, 2, 2), (2, 3, 3), (5, 2, 2))
    with refused("other-channels"):
        singular_loss(*inputs)
    assert singular_loss(*inputs, of="columns") > 0
