"""The family: every valid combination against plain loops, every other one refused, the published ones equal."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch

from gkd.losses import affinity_loss, affinity_refusal, cc_loss, pkt_loss, rkd_distance_loss, sp_loss
from gkd.losses.affinity import AFFINITIES, DISTANCES, NORMALISATIONS, Affinity, Distance, Normalisation
from tests.refusals import refused

from .references import random
from .references.affinity import affinity_reference

EVERY = list(itertools.product(AFFINITIES, NORMALISATIONS, DISTANCES))
VALID = [names for names in EVERY if affinity_refusal(*names) is None]


def test_every_name_has_its_function() -> None:
    assert tuple(AFFINITIES) == get_args(Affinity)
    assert tuple(NORMALISATIONS) == get_args(Normalisation)
    assert tuple(DISTANCES) == get_args(Distance)


def test_the_validity_matrix() -> None:
    """The rule, stated apart from the code: distributions for KL and JS, no negative entry under row-sum."""
    negative = {"dot", "cosine"}
    for names in EVERY:
        affinity, normalisation, distance = names
        distributions = normalisation in ("row-sum", "row-softmax")
        allowed = (distance in ("l2", "l1", "smooth-l1") or distributions) and not (
            normalisation == "row-sum" and affinity in negative
        )
        assert (names in VALID) == allowed
    assert len(VALID) == 9 * 9 * 3 - 2 * 3 + 9 * 2 + 7 * 2


@pytest.mark.parametrize(("affinity", "normalisation"), dict.fromkeys(names[:2] for names in VALID))
def test_every_valid_combination_equals_the_loops(affinity: Affinity, normalisation: Normalisation) -> None:
    student, teacher = random(1, 5, 4), random(2, 5, 6)
    distances = [distance for *names, distance in VALID if names == [affinity, normalisation]]
    assert distances
    # The diagonal is taken out before anything is compared: once for each affinity and normalisation will do.
    for distance, diagonal in [(distances[0], False), *((each, True) for each in distances)]:
        options = {"affinity": affinity, "normalisation": normalisation, "distance": distance}
        more = {**options, "diagonal": diagonal, "temperature": 5.0}
        leaf, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
        value, expected = affinity_loss(leaf, teacher, **more), affinity_reference(plain, teacher, **more)  # type: ignore[arg-type]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-12)
        if affinity in ("euclid", "squared-euclid", "rbf", "student-t") and diagonal:
            continue  # the loops have no derivative of the distance of a sample to itself
        gradient, want = torch.autograd.grad(value, leaf)[0], torch.autograd.grad(expected, plain)[0]
        torch.testing.assert_close(gradient, want, rtol=1e-6, atol=1e-10)


def test_an_undefined_combination_is_refused_with_the_reason() -> None:
    for affinity, normalisation, distance in (names for names in EVERY if names not in VALID):
        with refused(
            "needs-non-negative-affinities" if normalisation == "row-sum" else "needs-distributions"
        ):
            affinity_loss(
                random(1, 3, 4),
                random(2, 3, 4),
                affinity=affinity,  # type: ignore[arg-type]
                normalisation=normalisation,  # type: ignore[arg-type]
                distance=distance,  # type: ignore[arg-type]
            )


def test_a_polynomial_of_odd_degree_has_no_row_sums() -> None:
    assert affinity_refusal("polynomial", "row-sum", "kl", degree=2) is None
    assert "even degree" in str(affinity_refusal("polynomial", "row-sum", "kl", degree=3))


@pytest.mark.parametrize("degree", [0, 2.5])
def test_a_degree_is_a_whole_number(degree: float) -> None:
    for affinity in ("polynomial", "taylor-rbf"):
        assert "whole number of 1 or more" in str(affinity_refusal(affinity, "none", "l2", degree=degree))  # type: ignore[arg-type]
    assert affinity_refusal("cosine", "none", "l2", degree=degree) is None  # type: ignore[arg-type]


def test_an_unknown_name_meets_its_closest_match() -> None:
    assert "Did you mean 'euclid'" in str(affinity_refusal("euclide", "none", "l2"))


def test_the_published_losses_are_combinations() -> None:
    student, teacher = random(1, 6, 4), random(2, 6, 5)
    combined = {
        sp_loss: {"affinity": "dot", "normalisation": "row-l2", "distance": "l2"},
        pkt_loss: {"affinity": "shifted-cosine", "normalisation": "row-sum", "distance": "kl"},
        rkd_distance_loss: {"affinity": "euclid", "normalisation": "mean", "distance": "smooth-l1"},
        cc_loss: {"affinity": "taylor-rbf", "normalisation": "none", "distance": "l2"},
    }
    for loss, names in combined.items():
        expected = affinity_loss(student, teacher, per="pair", **names)  # type: ignore[arg-type]
        torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize("normalisation", ["row-l2", "row-sum", "mean", "max", "frobenius", "standardise"])
def test_the_scale_of_a_network_goes_out_with_the_normaliser(normalisation: Normalisation) -> None:
    affinity: Affinity = "euclid" if normalisation == "row-sum" else "dot"
    student, teacher = random(1, 6, 4), random(2, 6, 5)
    values = [
        affinity_loss(scale * student, teacher, affinity=affinity, normalisation=normalisation, distance="l2")
        for scale in (1.0, 1e3)
    ]
    torch.testing.assert_close(values[0], values[1])


def test_the_mean_over_rows_hardly_depends_on_the_batch() -> None:
    """Twice the same batch: each row's distribution is spread over twice the samples."""
    student, teacher = random(1, 6, 4), random(2, 6, 5)
    twice = {"student": student.repeat(2, 1), "teacher": teacher.repeat(2, 1)}
    torch.testing.assert_close(affinity_loss(**twice), affinity_loss(student, teacher))
    by_pair = affinity_loss(student, teacher, per="pair")
    torch.testing.assert_close(affinity_loss(**twice, per="pair"), by_pair / 2)


def test_other_batch_sizes_are_refused() -> None:
    with refused("other-batch-sizes"):
        affinity_loss(random(1, 4, 3), random(2, 5, 3))


@pytest.mark.parametrize("normalisation", ["row-l2", "max", "frobenius", "row-standardise"])
def test_powers_of_large_embeddings_are_finite_where_a_common_factor_falls_out(normalisation: str) -> None:
    student, teacher = (1000 * random(seed, 6, 8).double() for seed in (1, 2))
    options = {"affinity": "polynomial", "normalisation": normalisation, "distance": "l2", "degree": 10}
    leaf = student.float().requires_grad_()
    value = affinity_loss(leaf, teacher.float(), **options)  # type: ignore[arg-type]
    value.backward()
    # float64 holds (10⁷)¹⁰, so there the powers themselves are the measure
    powers = [((rows @ rows.T + 1) ** 10) for rows in (student.requires_grad_(), teacher)]
    by = {
        "row-l2": lambda m: m / m.norm(dim=1, keepdim=True),
        "max": lambda m: m / m.abs().max(),
        "frobenius": lambda m: m / m.norm(),
        "row-standardise": lambda m: (m - m.mean(1, keepdim=True)) / m.std(1, correction=0, keepdim=True),
    }[normalisation]
    expected = (by(powers[0]) - by(powers[1])).square().sum() / 6
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert leaf.grad is not None
    assert student.grad is not None
    assert torch.allclose(
        leaf.grad.double(), student.grad, rtol=1e-3, atol=1e-4 * student.grad.abs().max().item()
    )
