"""Projectors and normalisations: what they promise, and what they do to one row, equal rows, zeros and no row."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from gkd.losses import Normalisation, Projector, normalised
from tests.refusals import refused

from .references import random
from .references.embeddings import normalised_rows

HOWS = get_args(Normalisation)
every_how = pytest.mark.parametrize("how", HOWS)


def projector(student: int, teacher: int, **options: Any) -> Projector:
    torch.manual_seed(0)
    return Projector((student,), (teacher,), **options).double()


@pytest.mark.parametrize(("student", "teacher"), [(3, 5), (5, 3), (4, 4)])
def test_an_orthogonal_projector_stays_orthonormal_whatever_the_optimiser_does(
    student: int, teacher: int
) -> None:
    module = projector(student, teacher, projector="orthogonal")
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5, weight_decay=0.1)
    rows = random(1, 7, student)
    before = module(rows).detach()
    for _ in range(3):
        optimiser.zero_grad()
        module(rows).pow(3).sum().backward()
        optimiser.step()
        weight = module(torch.eye(student).double()).detach()  # [student, teacher]: there is no bias
        gram = weight @ weight.T if student <= teacher else weight.T @ weight
        torch.testing.assert_close(gram, torch.eye(len(gram)).double(), rtol=0, atol=1e-6)
    assert (module(rows) - before).abs().max() > 0.1
    if student <= teacher:  # so it keeps lengths
        torch.testing.assert_close(module(rows).norm(dim=1), rows.norm(dim=1), rtol=1e-6, atol=0)


def test_several_projectors_are_averaged_after_the_relu() -> None:
    module, rows = projector(3, 5, projectors=2, relu=True), random(1, 4, 3)
    parts = [layers(rows).clamp_min(0) for layers in module.layers]
    torch.testing.assert_close(module(rows), (parts[0] + parts[1]) / 2)
    assert (parts[0] != parts[1]).any()


def test_the_hidden_layer_of_an_mlp_is_as_wide_as_it_is_told() -> None:
    assert [p.shape for p in projector(3, 5, projector="mlp", expansion=4).parameters()] == [
        (12, 3),
        (12,),
        (12,),
        (5, 12),
    ]


def test_no_projector_changes_nothing_and_needs_one_width() -> None:
    rows = random(1, 4, 3)
    assert torch.equal(projector(3, 3, projector="none")(rows), rows)
    with refused("other-widths"):
        projector(3, 5, projector="none")


def test_an_unknown_projector_is_refused() -> None:
    with refused("unknown-option-value"):
        projector(3, 5, projector="conv")


@every_how
@pytest.mark.parametrize("rows", [9, 3])
def test_equals_the_definition_in_value_and_gradient(how: Normalisation, rows: int) -> None:
    x, upstream = random(1, rows, 4), random(2, rows, 4)
    results = []
    for function in (normalised, normalised_rows):
        leaf = x.clone().requires_grad_()
        value = function(leaf, how)
        results.append((value.detach(), *torch.autograd.grad((value * upstream).sum(), leaf)))
    # The iteration of the reference loses digits where the covariance is singular.
    loose = how == "whiten" and rows < 4
    torch.testing.assert_close(
        results[0], results[1], rtol=1e-4 if loose else 1e-7, atol=1e-6 if loose else 1e-9
    )
    assert torch.autograd.gradcheck(lambda y: normalised(y, how), x.clone().requires_grad_())


def gradient(x: Tensor, how: Normalisation, **more: Any) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = normalised(leaf, how, **more)
    upstream = random(7, *value.shape).to(value.dtype)
    return value.detach(), torch.autograd.grad((value * upstream).sum(), leaf)[0]


@every_how
@pytest.mark.parametrize(
    "what", ["one row", "equal", "zero", "one zero", "nearly equal", "few", "large", "tiny"]
)
def test_degenerate_rows_give_finite_values_and_gradients(how: Normalisation, what: str) -> None:
    x = random(1, 3 if what == "few" else 6, 5).float()
    x = {
        "one row": x[:1],
        "equal": x[:1].expand(6, 5).clone(),
        "zero": 0 * x,
        "one zero": torch.cat([x[:5], 0 * x[:1]]),
        "nearly equal": x[:1] + 1e-6 * x,
        "large": 1e15 * x,
        "tiny": 1e-42 * x,
    }.get(what, x)
    value, slope = gradient(x, how)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    if how in ("centre", "standardise", "whiten") and what in ("one row", "equal", "zero"):
        assert not value.any()


@every_how
def test_rows_outside_the_mask_change_nothing_whatever_they_hold(how: Normalisation) -> None:
    x = random(1, 8, 4)
    mask = torch.ones(8, dtype=torch.bool)
    mask[[0, 5]] = False
    expected, expected_slope = gradient(x[mask], how)
    x[~mask] = torch.nan
    leaf = x.clone().requires_grad_()
    value = normalised(leaf, how, mask)
    torch.testing.assert_close(value[mask], expected)
    assert not value[~mask].any()
    upstream = torch.zeros(8, 4, dtype=torch.float64)
    upstream[mask] = random(7, 6, 4)
    (slope,) = torch.autograd.grad((value * upstream).sum(), leaf)
    torch.testing.assert_close(slope[mask], expected_slope)
    assert not slope[~mask].any()


@every_how
def test_no_row_gives_none_and_no_selected_row_zeros(how: Normalisation) -> None:
    assert normalised(random(1, 0, 4), how).shape == (0, 4)
    value, slope = gradient(random(1, 3, 4), how, mask=torch.zeros(3, dtype=torch.bool))
    assert not value.any()
    assert not slope.any()


@every_how
def test_half_precision_is_computed_in_float32(how: Normalisation) -> None:
    rounded = random(1, 9, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = normalised(rounded, how)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, normalised(rounded.float(), how))


@pytest.mark.parametrize("how", ["centre", "standardise", "whiten"])
def test_small_variations_of_large_rows_keep_their_digits_in_float32(how: Normalisation) -> None:
    rows = (5 + 0.01 * random(1, 64, 8)).float()
    torch.testing.assert_close(
        normalised(rows, how).double(), normalised(rows.double(), how), rtol=1e-4, atol=1e-5
    )


@every_how
def test_a_nan_shows(how: Normalisation) -> None:
    x = random(1, 9, 4)
    x[0, 0] = torch.nan
    assert normalised(x, how).isnan().any()


@pytest.mark.parametrize("size", [12, 4])
def test_whitened_dimensions_are_uncorrelated_and_vary_alike(size: int) -> None:
    """All of them, or with fewer rows than dimensions those that the rows span."""
    x = random(1, size, 6) @ (torch.eye(6) + 0.3 * random(2, 6, 6))
    whitened = normalised(x, "whiten")
    spectrum = torch.linalg.eigvalsh(whitened.T @ whitened / size)
    spanned = min(6, size - 1)
    expected = torch.cat([torch.zeros(6 - spanned), torch.ones(spanned)]).double()
    torch.testing.assert_close(spectrum, expected, rtol=0, atol=1e-2)
    torch.testing.assert_close(normalised(1e6 * x + 3, "whiten"), whitened, rtol=1e-6, atol=1e-6)


def test_whitening_has_a_gradient_where_variances_are_equal() -> None:
    """There the eigenvectors have none."""
    x = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    assert torch.autograd.gradcheck(lambda y: normalised(y, "whiten"), x.requires_grad_())
