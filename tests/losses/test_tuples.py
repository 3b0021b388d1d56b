"""The tuple loss: the fast algorithm against its definition, the authors' code, and hard cases."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.losses import tuple_loss, tuple_loss_and_count, tuples
from tests.refusals import refused

from .references import kl, mean, random
from .references.refilled import mined, tuple_reference, tuples_of
from .waves import wave

MININGS = ("semi-hard", "facenet", "all")


def clustered(batch: int, num_classes: int, seed: int, width: int = 16) -> tuple[Tensor, Tensor]:
    """Embeddings around one direction a class, as in training, and their labels."""
    labels = torch.arange(batch) % num_classes
    return random(0, num_classes, width)[labels] + 0.8 * random(seed, batch, width), labels


def vectorised_reference(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, margin: float, mining: str
) -> tuple[Tensor, int]:
    """The definition, tuple by tuple, in float64; quick enough for 64 samples."""
    student, teacher = F.normalize(student.double(), dim=1), F.normalize(teacher.double(), dim=1)
    divergences = []
    for a in range(len(labels)):
        # +1e-300 inside the square root only keeps the gradient of a zero distance finite
        near = ((student - student[a]).square().sum(1) + 1e-300).sqrt() / -temperature
        graded = (teacher - teacher[a]).norm(dim=1).detach() / -temperature
        distance = (student - student[a]).norm(dim=1).tolist()
        negatives = {n: distance[n] for n in range(len(labels)) if labels[n] != labels[a]}
        for p in range(len(labels)):
            if p == a or labels[p] != labels[a]:
                continue
            chosen = mined(distance[p], negatives, mining, margin)
            if chosen:
                members = torch.tensor([p, *chosen])
                log_t, log_s = graded[members].log_softmax(0), near[members].log_softmax(0)
                divergences.append((log_t.exp() * (log_t - log_s)).sum())
    return mean(divergences, student), len(divergences)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("num_classes", [2, 5, 20])
@pytest.mark.parametrize("temperature", [4.0, 0.1, 0.01])
def test_equals_the_definition(mining: str, num_classes: int, temperature: float) -> None:
    student, labels = clustered(48, num_classes, seed=1)
    teacher, _ = clustered(48, num_classes, seed=2)
    student = student.float().requires_grad_()
    loss, count = tuple_loss_and_count(
        student, teacher.float(), labels, temperature=temperature, margin=0.2, mining=mining
    )
    (gradient,) = torch.autograd.grad(loss, student)
    expected, num_tuples = vectorised_reference(
        student, teacher.float(), labels, temperature, margin=0.2, mining=mining
    )
    (expected_gradient,) = torch.autograd.grad(expected, student)
    assert int(count) == num_tuples > 10
    assert expected > 1e-6
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


@pytest.mark.parametrize("mining", MININGS)
def test_low_temperature_keeps_its_precision(mining: str) -> None:
    """Plain prefix sums lose everything here: the terms of a row span e^±300."""
    student, labels = clustered(32, 4, seed=1)
    teacher = 3 * random(9, 32, 8)
    student = student.requires_grad_()
    loss = tuple_loss(student, teacher, labels, temperature=0.005, mining=mining)
    (gradient,) = torch.autograd.grad(loss, student)
    expected, _ = vectorised_reference(student, teacher, labels, 0.005, 0.2, mining)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    assert (gradient - expected_gradient).norm() < 1e-7 * expected_gradient.norm()


@pytest.mark.parametrize("mining", MININGS)
def test_chunks_of_anchors_change_nothing(mining: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, labels = clustered(50, 5, seed=1)
    teacher, _ = clustered(50, 5, seed=2)
    student = student.requires_grad_()
    loss, count = tuple_loss_and_count(student, teacher, labels, mining=mining)
    monkeypatch.setattr(tuples, "CHUNK_ELEMENTS_CPU", 1)
    monkeypatch.setattr(tuples, "CHUNK_ANCHORS", 7)
    chunked, chunked_count = tuple_loss_and_count(student, teacher, labels, mining=mining)
    torch.testing.assert_close(chunked, loss)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in (chunked, loss)))
    assert chunked_count == count


@pytest.mark.parametrize("mining", MININGS)
def test_one_negative_is_the_sigmoid_form(mining: str) -> None:
    """K = 1: P = σ((D_an − D_ap) / τ) and its complement, as in the CVPR paper."""
    angles = torch.tensor([0.0, 0.5, 1.5], dtype=torch.float64)
    student, teacher = torch.stack([angles.cos(), angles.sin()], dim=1), wave(3, 4, phase=0.7)
    labels = torch.tensor([0, 0, 1])

    def near(e: Tensor, anchor: int, positive: int) -> Tensor:
        e = F.normalize(e, dim=1)
        return torch.sigmoid(((e[anchor] - e[2]).norm() - (e[anchor] - e[positive]).norm()) / 4)

    divergences = []
    for a, p in ((0, 1), (1, 0)):
        p_t, p_s = near(teacher, a, p), near(student, a, p)
        divergences.append(p_t * (p_t / p_s).log() + (1 - p_t) * ((1 - p_t) / (1 - p_s)).log())
    loss, count = tuple_loss_and_count(student, teacher, labels, mining=mining, margin=2.0)
    assert count == 2
    torch.testing.assert_close(loss, torch.stack(divergences).mean())


def padded_form(student: Tensor, teacher: Tensor, labels: Tensor, margin: float, tau: float) -> Tensor:
    """njulus/REFILLED@be649aa Train.py (flag_merge): tuples padded to the longest, fill 1e9."""
    found = tuples_of(student, labels, "semi-hard", margin)
    longest = max(len(negatives) for _, _, negatives in found)
    index = torch.tensor([[p, *n, *[0] * (longest - len(n))] for _, p, n in found])
    padding = torch.tensor([[False] * (1 + len(n)) + [True] * (longest - len(n)) for _, _, n in found])
    anchors = torch.tensor([a for a, _, _ in found])

    def logits(e: Tensor) -> Tensor:
        e = F.normalize(e, dim=1)
        distance = (e[anchors].unsqueeze(1) - e[index]).norm(dim=2)
        return -distance.masked_fill(padding, 1e9) / tau

    divergence = F.kl_div(logits(student).log_softmax(1), logits(teacher).softmax(1), reduction="none")
    return divergence.sum(1).mean()


def test_equals_the_authors_padded_form() -> None:
    student, teacher = wave(12, 4, phase=0.3).requires_grad_(), wave(12, 6, phase=0.7)
    labels = torch.arange(12) % 3
    loss, count = tuple_loss_and_count(student, teacher, labels)
    expected = padded_form(student, teacher, labels, margin=0.2, tau=4.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in (loss, expected)))
    assert int(count) == 25
    assert float(loss.detach()) == pytest.approx(0.0022433301392870164, rel=1e-10)  # that code, when run


def test_the_authors_triplet_branch_is_half_of_the_mean_over_triplets() -> None:
    """The 2021 triplet branch stacks p and 1 − p along the batch: its batch mean halves the loss."""
    student, teacher = wave(12, 4, phase=0.3), wave(12, 6, phase=0.7)
    labels = torch.arange(12) % 3
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    triplets = [(a, p, n) for a, p, ns in tuples_of(student, labels, "semi-hard", 0.2) for n in ns]

    def logits(e: Tensor, a: int, p: int, n: int) -> list[Tensor]:
        return [-(e[a] - e[p]).norm() / 4, -(e[a] - e[n]).norm() / 4]

    per_triplet = torch.stack([kl(logits(t, *x), logits(s, *x)) for x in triplets]).mean()
    assert float(per_triplet / 2) == pytest.approx(0.0008728461421531541, rel=1e-10)  # that branch, run


def test_a_well_separated_batch_has_no_semi_hard_tuple() -> None:
    labels = torch.arange(12) % 3
    student = (torch.eye(3)[labels] + 0.01 * random(1, 12, 3).float()).requires_grad_()
    loss, count = tuple_loss_and_count(student, random(2, 12, 5).float(), labels)
    assert loss == 0
    assert count == 0
    assert not torch.autograd.grad(loss, student)[0].any()


def test_facenet_gives_every_pair_a_triplet_and_falls_back_to_the_farthest() -> None:
    # On a circle: the positive is opposite, so that no negative is farther.
    angles = torch.tensor([0.0, math.pi, 0.5, 1.0], dtype=torch.float64)
    student = torch.stack([angles.cos(), angles.sin()], dim=1)
    teacher, labels = random(5, 4, 3), torch.tensor([0, 0, 1, 2])
    loss, count = tuple_loss_and_count(student, teacher, labels, mining="facenet")
    unit = F.normalize(teacher, dim=1)

    def logits(e: Tensor, a: int, p: int, n: int) -> list[Tensor]:
        return [-(e[a] - e[p]).norm() / 4, -(e[a] - e[n]).norm() / 4]

    picked = [(0, 1, 3), (1, 0, 2)]  # from 0 the farthest is 3; from 1 it is 2
    expected = torch.stack([kl(logits(unit, *x), logits(student, *x)) for x in picked]).mean()
    assert count == 2
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_have_distance_zero_and_finite_gradients(mining: str, dtype: torch.dtype) -> None:
    """Each vector twice, in one class or in two: a duplicate is never farther than its original."""
    base = random(3, 20, 128).to(dtype)
    student = torch.cat([base, base])
    teacher = random(4, 40, 32).to(dtype)
    labels = torch.cat([torch.arange(20) % 4, torch.arange(20) // 2 % 4])
    leaf = student.clone().requires_grad_()
    loss, count = tuple_loss_and_count(leaf, teacher, labels, mining=mining)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.isfinite(gradient).all()
    if mining != "facenet":  # equally near negatives: facenet may take either
        found = tuples_of(student, labels, mining, 0.2)
        assert int(count) == len(found)
        expected = tuple_reference(student, teacher, labels, mining=mining)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_a_negative_that_equals_the_positive_is_not_semi_hard() -> None:
    twin = random(3, 1, 64)
    student = torch.cat([random(1, 1, 64), twin, twin])
    _, count = tuple_loss_and_count(student, random(2, 3, 4), torch.tensor([0, 0, 1]))
    # From the anchor 0 the negative is exactly as far as the positive; from 1 it is nearer.
    assert count == 0


def test_vectors_within_rounding_are_one_vector_and_others_are_not() -> None:
    unit = F.normalize(random(3, 30, 128), dim=1)
    step = F.normalize(random(4, 30, 128), dim=1)
    for distance in (0.0, 1e-8, 1e-7):
        assert not tuples._distances(unit, unit + distance * step).diagonal().any()
    for distance in (1e-5, 1e-2, 1.0):
        measured = tuples._distances(unit, unit + distance * step).diagonal()
        torch.testing.assert_close(measured, torch.full_like(measured, distance), rtol=1e-5, atol=0)


def test_margin_is_inclusive() -> None:
    # Distances from the anchor on the circle: positive 0 (a duplicate), negative 2 sin(θ/2) = 0.2.
    theta = 2 * math.asin(0.1)
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [math.cos(theta), math.sin(theta)]]).double()
    labels, teacher = torch.tensor([0, 0, 1]), random(2, 3, 4)
    assert tuple_loss_and_count(student, teacher, labels, margin=0.2)[1] == 2
    assert tuple_loss_and_count(student, teacher, labels, margin=0.1999)[1] == 0


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuples, "_distance_gradient", None)  # calling it would fail
    student, labels = clustered(12, 3, seed=1)
    with torch.no_grad():
        assert tuple_loss(student.requires_grad_(), random(2, 12, 4), labels) >= 0


def test_what_is_refused() -> None:
    student, labels = clustered(6, 2, seed=1)
    with refused("unknown-option-value"):
        tuple_loss(student, student, labels, mining="semihard")
    with refused("option-out-of-range"):
        tuple_loss(student, student, labels, temperature=0.001)
