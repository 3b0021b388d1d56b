"""The induced classifier: centres, the authors' two generations of code, confidence weights."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.losses import class_centres, induced_classifier_loss, induced_logits, teacher_confidence
from tests.refusals import refused

from .waves import wave

LABELS = torch.tensor([0, 2, 2, 5, 4, 0, 2])  # classes 1 and 3 are not in the batch


@pytest.fixture
def centres() -> Tensor:
    return class_centres(wave(30, 5, phase=0.8), torch.arange(30) % 6, 6)[0]


@pytest.fixture
def student() -> Tensor:
    return 2 * wave(7, 6, phase=0.5)


@pytest.fixture
def teacher() -> Tensor:
    return 2 * wave(7, 5, phase=1.3)


def test_centres_are_normalised_means_of_raw_embeddings() -> None:
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    centres, counts = class_centres(embeddings, torch.tensor([2, 2, 0]), 4)
    assert counts.tolist() == [1, 0, 2, 0]
    assert counts.dtype == torch.int64
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0, 0], [3 / 10**0.5, 1 / 10**0.5], [0, 0]])
    torch.testing.assert_close(centres, expected)


def test_centres_of_half_precision_embeddings_are_float32() -> None:
    embeddings = wave(30, 5, phase=0.8).bfloat16()
    centres, _ = class_centres(embeddings, torch.arange(30) % 6, 6)
    torch.testing.assert_close(centres, class_centres(embeddings.float(), torch.arange(30) % 6, 6)[0])


def test_induced_logits_are_norm_times_cosine(teacher: Tensor, centres: Tensor) -> None:
    cosines = F.cosine_similarity(teacher.unsqueeze(1), centres.unsqueeze(0), dim=2)
    expected = teacher.norm(dim=1, keepdim=True) * cosines
    torch.testing.assert_close(induced_logits(teacher, centres), expected)


def local_form(student: Tensor, teacher: Tensor, centres: Tensor, tau_t: float, tau_s: float) -> Tensor:
    """Per-sample KL over the classes of the batch, as the authors' stage 2 computes it."""
    here = torch.tensor([k in LABELS for k in range(6)])
    return F.kl_div(
        (student[:, here] / tau_s).log_softmax(1),
        (teacher @ centres[here].T / tau_t).softmax(1),
        reduction="none",
    ).sum(1)


@pytest.mark.parametrize(
    ("temperatures", "run"),
    [
        pytest.param((1.0, 1.0), 0.6368521739565995, id="njulus/GKD@a37fc79 gkd"),
        pytest.param((2.0, 2.0), 0.2181477346096938, id="njulus/REFILLED@be649aa"),
    ],
)
def test_equals_the_authors_code(
    student: Tensor, teacher: Tensor, centres: Tensor, temperatures: tuple[float, float], run: float
) -> None:
    """A re-derivation of Train.py's train_stage2, and the value of that code when run."""
    tau_t, tau_s = temperatures
    loss = induced_classifier_loss(
        student, teacher, centres, LABELS, teacher_temperature=tau_t, student_temperature=tau_s
    )
    torch.testing.assert_close(loss, local_form(student, teacher, centres, tau_t, tau_s).mean())
    assert float(loss) == pytest.approx(run, rel=1e-12)


def test_adaptive_weights_equal_the_authors_code(student: Tensor, teacher: Tensor, centres: Tensor) -> None:
    """njulus/GKD@a37fc79 Train.py, mode wgkd, re-derived, and its value when run."""
    own_logits = 4 * wave(7, 4, phase=0.15)
    unsure = -own_logits.softmax(1).amax(1).log()
    scaled = (unsure - unsure.min()) / (unsure.max() - unsure.min())
    weights = teacher_confidence(own_logits)
    torch.testing.assert_close(weights, 2 / (1 + scaled.exp()))
    loss = induced_classifier_loss(student, teacher, centres, LABELS, weights=weights)
    torch.testing.assert_close(loss, (weights * local_form(student, teacher, centres, 1, 1)).mean())
    assert float(loss) == pytest.approx(0.45781502457216344, rel=1e-12)


def test_weights_average_over_samples_and_masked_weights_do_not_count(
    student: Tensor, teacher: Tensor, centres: Tensor
) -> None:
    plain = induced_classifier_loss(student, teacher, centres, LABELS)
    half = induced_classifier_loss(student, teacher, centres, LABELS, weights=torch.full((7,), 0.5))
    torch.testing.assert_close(half, plain / 2)
    mask = LABELS != 5
    weights = torch.where(mask, 0.5, torch.nan)
    masked = induced_classifier_loss(student, teacher, centres, LABELS, weights=weights, mask=mask)
    subset = induced_classifier_loss(student[mask], teacher[mask], centres, LABELS[mask])
    torch.testing.assert_close(masked, subset / 2)


@pytest.mark.parametrize("classes", ["batch", "all"])
def test_a_class_without_a_centre_is_in_neither_softmax(
    student: Tensor, teacher: Tensor, centres: Tensor, classes: str
) -> None:
    centres[2] = 0
    student = student.requires_grad_()
    loss = induced_classifier_loss(student, teacher, centres, LABELS, classes=classes)
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient[:, 2].any()
    assert gradient[LABELS == 2].any()  # its samples still learn about the other classes
    kept = [0, 4, 5] if classes == "batch" else [0, 1, 3, 4, 5]
    renumbered = torch.zeros(7, dtype=torch.int64)
    expected = induced_classifier_loss(
        student[:, kept].detach(), teacher, centres[kept], renumbered, classes="all"
    )
    torch.testing.assert_close(loss.detach(), expected)


def test_no_centre_at_all_is_a_zero_with_a_graph(student: Tensor, teacher: Tensor) -> None:
    student = student.requires_grad_()
    loss = induced_classifier_loss(student, teacher, torch.zeros(6, 5).double(), LABELS)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss == 0
    assert not gradient.any()


def test_what_is_refused(student: Tensor, teacher: Tensor, centres: Tensor) -> None:
    with refused("unknown-option-value"):
        induced_classifier_loss(student, teacher, centres, LABELS, classes="btach")
    with refused("other-classes"):
        induced_classifier_loss(student, teacher, centres[:5], LABELS)
    with refused("unknown-confidence"):
        teacher_confidence(student, "entropie")


@pytest.mark.parametrize("kind", ["pseudo-label", "entropy", "max-logit"])
def test_confidence_ranks_from_least_sure_to_surest(kind: str) -> None:
    logits = torch.tensor([[0.1, 0.0, 0.0], [5.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    weights = teacher_confidence(logits, kind)
    assert not weights.requires_grad
    assert float(weights[0]) == pytest.approx(2 / (1 + math.e))
    assert float(weights[1]) == pytest.approx(1.0)
    assert weights[0] < weights[2] < weights[1]


def test_confidence_signals() -> None:
    """Entropy and pseudo-label need not agree: [½, ½, 0] has a smaller largest probability than
    [0.6, 0.2, 0.2], but also a smaller entropy."""
    logits = torch.tensor([[0.5, 0.5, 1e-9], [0.6, 0.2, 0.2]]).log()
    assert teacher_confidence(logits, "entropy").argmax() == 0
    assert teacher_confidence(logits, "pseudo-label").argmax() == 1


@pytest.mark.parametrize("kind", ["pseudo-label", "entropy", "max-logit"])
@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(torch.tensor([[1.0, 2.0]]), id="batch of one"),
        pytest.param(torch.tensor([[1.0, 2.0]] * 4), id="equal"),
        pytest.param(torch.tensor([[200.0, 0.0], [0.0, 200.0]]), id="saturated"),
        pytest.param(torch.zeros(0, 3), id="empty"),
    ],
)
def test_confidence_is_one_where_all_agree(kind: str, logits: Tensor) -> None:
    torch.testing.assert_close(teacher_confidence(logits, kind), torch.ones(len(logits)))


@pytest.mark.parametrize("kind", ["pseudo-label", "entropy", "max-logit"])
def test_confidence_of_a_masked_batch_is_that_of_the_subset(kind: str) -> None:
    logits = 4 * wave(7, 4, phase=0.15)
    mask = torch.tensor([True, False, True, True, False, True, True])
    logits[~mask] = 1e6
    weights = teacher_confidence(logits, kind, mask=mask)
    torch.testing.assert_close(weights[mask], teacher_confidence(logits[mask], kind))
    assert (weights[~mask] == 1).all()


def test_confidence_does_not_hide_a_nan() -> None:
    assert teacher_confidence(torch.tensor([[1.0, torch.nan], [0.0, 3.0]])).isnan().all()
