"""What each term pulls on the student, beside the cross-entropy, and weights that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.pulls import measure_weights, pulls
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import kd_loss, sp_loss
from gkd.methods.terms import Term
from gkd.models import build_network
from gkd.storage.weights import copy_state
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]
MakeBatch = Callable[..., Batch]
LAST: dict[str, Any] = {"at": {"student": -1, "teacher": -1}}


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(0)
    return build_network("resnet8", num_classes=3, in_channels=1)


def distiller_of(student: nn.Module, teacher: Teacher, terms: dict[str, Term]) -> Distiller:
    relation = LabelRelation(teacher.space, LabelSpace([*"abc"]))
    return Distiller(student, TeacherSide(teacher, relation), terms, image_shape=(1, 8, 8))


def none() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def test_ratios_of_gradients_on_the_embedding_and_on_the_map_below(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    """Both sides weighted; what does not reach the embedding is compared on the deepest map that it reads."""
    teacher, batches = make_teacher("abc"), [make_batch(3, seed=3), make_batch(3, seed=4)]
    terms = {
        "hard": Term(loss="cross_entropy", weight=0.5),
        "soft": Term(loss="kd", weight=2.0),
        "maps": Term(loss="sp", weight=30.0, **LAST),
    }
    found = pulls(distiller_of(student, teacher, terms), batches, none())

    def norms(place: str, loss: Callable[[Any, Batch], Tensor]) -> float:
        total = 0.0
        for batch in batches:
            features = student.train().features(batch.images)
            output = features.embedding if place == "embedding" else features.maps[-1]
            (gradient,) = torch.autograd.grad(loss(features, batch), output)
            total += float(gradient.norm())
        return total

    with torch.no_grad():
        theirs = {id(batch): teacher.features(batch.images) for batch in batches}

    def hard(features: Any, batch: Batch) -> Tensor:
        return 0.5 * F.cross_entropy(features.logits, batch.labels)

    soft = norms("embedding", lambda f, b: 2.0 * kd_loss(f.logits, theirs[id(b)].logits))
    maps = norms("map", lambda f, b: 30.0 * sp_loss(f.maps[-1], theirs[id(b)].maps[-1]))
    assert found["hard"] == pytest.approx(1)
    assert found["soft"] == pytest.approx(soft / norms("embedding", hard), rel=1e-4)
    assert found["maps"] == pytest.approx(maps / norms("map", hard), rel=1e-4)


def test_looking_changes_nothing(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    """Neither statistics, nor a queue, nor the generators from which a stage draws."""
    terms = {
        "hard": Term(loss="cross_entropy"),
        "queue": Term(loss="queue_similarity", projector="linear", queue=16),
    }
    distiller = distiller_of(student, make_teacher("xyz"), terms)
    before, generator = copy_state(distiller), torch.get_rng_state()
    pulls(distiller, [make_batch(3)], none())
    after = distiller.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in distiller.parameters())


def test_a_relative_weight_is_what_gives_that_ratio(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    terms = {
        "hard": Term(loss="cross_entropy", weight=0.5),
        "maps": Term(loss="sp", weight={"relative": 0.25, "batches": 2}, **LAST),
    }
    distiller = distiller_of(student, make_teacher("xyz"), terms)
    batches = [make_batch(3, seed=seed) for seed in range(3)]
    with refused("not-measured"):
        distiller(batches[0])
    weights = measure_weights(distiller, batches)
    assert pulls(distiller, batches[:2], none())["maps"] == pytest.approx(0.25)
    plain = pulls(
        distiller_of(student, make_teacher("xyz"), {**terms, "maps": Term(loss="sp", weight=1.0, **LAST)}),
        batches[:2],
        none(),
    )
    assert weights == {"maps": pytest.approx(0.25 / plain["maps"])}
    losses = distiller(batches[0])
    expected = 0.5 * losses["loss/hard"] + weights["maps"] * losses["loss/maps"]
    torch.testing.assert_close(losses["loss"].detach(), expected)
    again = distiller_of(student, make_teacher("xyz"), terms)
    again.load_state_dict(distiller.state_dict())
    assert again.measured.shown() == weights


def test_a_stage_without_a_measured_weight_saves_nothing_more(
    student: nn.Module, make_teacher: MakeTeacher
) -> None:
    distiller = distiller_of(student, make_teacher("xyz"), {"hard": Term(loss="cross_entropy")})
    assert not [name for name in distiller.state_dict() if name.startswith("measured")]
    assert measure_weights(distiller, []) == {}


def test_what_cannot_be_compared_is_refused(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    with refused("no-cross-entropy"):
        pulls(distiller_of(student, make_teacher("xyz"), {"maps": Term(loss="sp", **LAST)}), [], none())
    terms = {"hard": Term(loss="cross_entropy"), "tuples": Term(loss="tuples", weight={"relative": 1.0})}
    with refused("no-pull"):  # one class: no tuple
        measure_weights(distiller_of(student, make_teacher("xyz"), terms), [make_batch(1)])


def test_frozen_outputs_are_compared_on_the_logits(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    terms = {"hard": Term(loss="cross_entropy"), "soft": Term(loss="kd"), "maps": Term(loss="sp", **LAST)}
    distiller = distiller_of(student, make_teacher("abc"), terms)
    distiller.param_groups(["head"])
    found = pulls(distiller, [make_batch(3)], none())
    assert found["soft"] > 0
    assert found["maps"] == 0


def test_the_measure_is_all_that_the_labels_pull(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    """With what KD leaves of the cross-entropy, without a cross-entropy that is measured itself, on every batch."""
    batch = make_batch(3)
    terms = {"hard": Term(loss="cross_entropy", weight=0.1), "soft": Term(loss="kd", weight=0.9)}
    found = pulls(distiller_of(student, make_teacher("bcx"), terms), [batch], none())
    reduced = pulls(distiller_of(student, make_teacher("abc"), terms), [batch], none())
    assert found["hard"] < 0.9  # of 0.1 CE + 0.9 coarse CE it is a part
    assert reduced["hard"] == pytest.approx(1)
    second = {
        "hard": Term(loss="cross_entropy"),
        "more": Term(loss="cross_entropy", weight={"relative": 0.5}),
    }
    assert measure_weights(distiller_of(student, make_teacher("abc"), second), [batch]) == {
        "more": pytest.approx(0.5)
    }
    tuples = {"hard": Term(loss="cross_entropy"), "tuples": Term(loss="tuples", weight=1000.0)}
    distiller = distiller_of(student, make_teacher("xyz"), tuples).eval()
    with torch.no_grad():
        one, both = (
            pulls(distiller, batches, none())["tuples"] for batches in ([batch], [batch, make_batch(1)])
        )
    assert 0 < both < one
    assert not distiller.training
