"""Losses within an episode, beside the published arithmetic and gkd's other forms of the same classifiers."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.few_shot.classifiers import cosine_mean, nearest_mean
from gkd.losses import class_centres, episode_induced_loss, induced_classifier_loss, prototype_loss
from tests.refusals import refused

from .waves import wave

WAYS, SHOTS, QUERIES = 5, 3, 4
WAY = torch.arange(WAYS).repeat_interleave(SHOTS + QUERIES)
SUPPORT = (torch.arange(SHOTS + QUERIES) < SHOTS).repeat(WAYS)


@pytest.fixture
def student() -> Tensor:
    return wave(WAYS * (SHOTS + QUERIES), 6, phase=0.5)


@pytest.fixture
def teacher() -> Tensor:
    return 2 * wave(WAYS * (SHOTS + QUERIES), 7, phase=1.3)


def parts(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Support ``[N, K, D]`` and queries ``[N, Q, D]``."""
    rows = embedding.view(WAYS, SHOTS + QUERIES, -1)
    return rows[:, :SHOTS], rows[:, SHOTS:]


def test_prototypes_are_those_of_the_authors(student: Tensor) -> None:
    """As jakesnell/prototypical-networks@3e543c8 computes it: all squared distances, log-softmax, own entry."""
    support, query = parts(student)
    apart = query.reshape(-1, 1, 6) - support.mean(1).unsqueeze(0)
    log = F.log_softmax(-apart.pow(2).sum(2), dim=1).view(WAYS, QUERIES, -1)
    own = torch.arange(WAYS).view(WAYS, 1, 1).expand(WAYS, QUERIES, 1)
    expected = -log.gather(2, own).squeeze().view(-1).mean()
    torch.testing.assert_close(prototype_loss(student, WAY, SUPPORT), expected)


@pytest.mark.parametrize(("metric", "scores"), [("euclidean", nearest_mean), ("cosine", cosine_mean)])
def test_a_metric_is_that_of_the_classifier_that_judges(student: Tensor, metric: str, scores: object) -> None:
    support, query = parts(student)
    logits = scores(support.unsqueeze(0), query.unsqueeze(0)).view(WAYS * QUERIES, WAYS)  # type: ignore[operator]
    expected = F.cross_entropy(logits / 0.3, WAY[~SUPPORT])
    value = prototype_loss(student, WAY, SUPPORT, metric=metric, temperature=0.3)  # type: ignore[arg-type]
    torch.testing.assert_close(value, expected)


def test_the_ways_numbers_are_names(student: Tensor, teacher: Tensor) -> None:
    other = torch.tensor([34, 2, 17, 0, 9])[WAY]
    torch.testing.assert_close(prototype_loss(student, other, SUPPORT), prototype_loss(student, WAY, SUPPORT))
    torch.testing.assert_close(
        episode_induced_loss(student, teacher, other, SUPPORT),
        episode_induced_loss(student, teacher, WAY, SUPPORT),
    )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_induced_classifier_over_an_episodes_centres(
    student: Tensor, teacher: Tensor, metric: str
) -> None:
    """The student's own scores in place of its head's logits; the teacher's side is that of REFILLED's stage 2."""
    support, query = parts(student)
    scores = {"euclidean": nearest_mean, "cosine": cosine_mean}[metric]
    logits = scores(support.unsqueeze(0), query.unsqueeze(0)).view(WAYS * QUERIES, WAYS)
    centres, _ = class_centres(teacher[SUPPORT], WAY[SUPPORT], WAYS)
    temperatures = {"teacher_temperature": 2.0, "student_temperature": 0.5}
    expected = induced_classifier_loss(
        logits, teacher[~SUPPORT], centres, WAY[~SUPPORT], classes="all", **temperatures
    )
    value = episode_induced_loss(student, teacher, WAY, SUPPORT, metric=metric, **temperatures)  # type: ignore[arg-type]
    torch.testing.assert_close(value, expected)


def test_far_from_the_origin_no_digits_are_lost(student: Tensor) -> None:
    far = (100 * student + 3e5).float()  # distances of hundreds, norms of a million
    torch.testing.assert_close(
        prototype_loss(far, WAY, SUPPORT, temperature=1e4),
        prototype_loss(far.double(), WAY, SUPPORT, temperature=1e4).float(),
        rtol=1e-5, atol=0,
    )  # fmt: skip


def test_gradients_reach_support_and_queries_but_not_rows_of_ways_alone(student: Tensor) -> None:
    """A query whose way has no support asks nothing; support of a way without a query still answers others."""
    support = SUPPORT & (WAY != 1)
    gradient = torch.autograd.grad(prototype_loss(student.requires_grad_(), WAY, support), student)[0]
    reached = gradient.abs().sum(1) > 0
    assert torch.equal(reached, WAY != 1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"metric": "manhattan"}, "unknown-option-value"),
        ({"temperature": 0.0}, "option-out-of-range"),
        ({"way": WAY + 31}, "ways-out-of-range"),
        ({"way": WAY - 1}, "ways-out-of-range"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(student: Tensor, arguments: dict, code: str) -> None:
    with refused(code):
        prototype_loss(student, **{"way": WAY, "support": SUPPORT, **arguments})
