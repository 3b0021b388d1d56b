"""Terms that do not fit the networks or the labels are refused before a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd.config.shipped import load_method
from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.tapped import output_shapes
from gkd.distill.distiller import Distiller
from gkd.distill.fit_check import both_shapes, check_terms, head_notes
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import LOSSES, Loss, Mask
from gkd.methods.method import Method
from gkd.methods.terms import Term
from gkd.models import build_network
from gkd.models.taps import tap
from tests.network_helpers import Behind
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]


MakeBatch = Callable[..., Batch]


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(0)
    return build_network("resnet8", num_classes=3, in_channels=1)


def test_a_map_that_is_not_there_is_refused(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    distiller = Distiller(
        student, TeacherSide(make_teacher("abc"), relation), {"sp": Term(loss="sp", at={"student": 4})}
    )
    with refused("spot-out-of-range"):
        distiller(make_batch(3))


def before_activation(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """The apartness of two maps."""
    return (student_map - teacher_map).square().mean()


@pytest.mark.parametrize(("preact", "wrapped"), [("student", 0), ("teacher", 1), ("both", 0), ("both", 1)])
def test_a_network_that_gives_no_maps_before_their_activation_is_refused(
    preact: str,
    wrapped: int,
    make_teacher: MakeTeacher,
    make_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOSSES, "before", Loss(before_activation, "ours"))
    networks = [make_teacher("abc", seed=1).network, make_teacher("abc").network]
    networks[wrapped] = tap(networks[wrapped], maps=["layer1", "layer2", "layer3"])
    term = Term(loss="before", at={"preact": preact})  # type: ignore[arg-type]
    with refused("no-preact-maps"):
        Distiller(networks[0], Teacher(networks[1], LabelSpace([*"abc"])), {"b": term})


def test_outputs_that_were_computed_without_maps_before_their_activation_are_refused(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "before", Loss(before_activation, "ours"))
    teacher, batch = make_teacher("abc"), make_batch(3)
    distiller = Distiller(student, teacher, {"b": Term(loss="before", at={"preact": "teacher"})})  # type: ignore[arg-type]
    with refused("no-preact-maps"):
        distiller(replace(batch, teacher=teacher.features(batch.images)))
    given = teacher.features(batch.images, preact=True)
    assert torch.equal(distiller(replace(batch, teacher=given))["loss"], distiller(batch)["loss"])


def of_head(student_logits: Tensor, teacher_weight: Tensor, *, mask: Mask = None) -> Tensor:
    """The size of a head."""
    return student_logits.mean() + teacher_weight.square().mean()


def test_a_head_that_is_not_linear_or_does_not_take_the_embedding_is_refused(
    student: nn.Module, make_teacher: MakeTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "of_head", Loss(of_head, "ours"))
    term, space = Term(loss="of_head"), LabelSpace([*"abc"])
    cosine = build_network("resnet8", num_classes=3, in_channels=1, head="cosine")
    with refused("needs-linear-head"):
        Distiller(student, Teacher(cosine, space), {"h": term})
    tapped = tap(make_teacher("abc").network, maps=["layer1"], embedding="layer3")
    with refused("embedding-not-of-head"):
        Distiller(student, Teacher(tapped, space), {"h": term})


def test_shapes_are_found_without_touching_statistics_modes_or_random_numbers(student: nn.Module) -> None:
    student.train()
    student.layer1.eval()
    before = {name: values.clone() for name, values in student.state_dict().items()}
    torch.manual_seed(3)
    shapes = output_shapes(student, (1, 8, 8))
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))
    assert shapes.embedding == (64,)
    assert shapes.maps[-1] == (64, 2, 2)
    assert all(torch.equal(before[name], values) for name, values in student.state_dict().items())
    assert student.training
    assert student.layer2.training
    assert not student.layer1.training


def refuse(terms: dict[str, Term], student: nn.Module, teacher: Teacher | None, labels: Tensor) -> None:
    check_terms(terms, *both_shapes(student, teacher, (1, 8, 8), {"teacher": (1, 8, 8)}), labels)


@pytest.mark.parametrize(
    ("term", "code"),
    [
        ({"loss": "at", "at": {"student": [1, 9], "teacher": [1, 2]}}, "spot-out-of-range"),
        ({"loss": "nst", "at": {"student": "embedding", "teacher": -1}}, "not-a-map"),
        (
            {"loss": "fsp", "at": {"student": [0, 1], "teacher": [1, 2]}},
            "other-channels",
        ),
        ({"loss": "fitnet", "at": {"student": "embedding", "teacher": 1}}, "other-kinds-of-output"),
        ({"loss": "vid", "at": {"student": "logits", "teacher": 1}}, "not-a-map"),
    ],
)
def test_terms_that_do_not_fit_the_networks_are_refused_before_a_step(
    student: nn.Module, make_teacher: MakeTeacher, term: dict[str, Any], code: str
) -> None:
    with refused(code):
        refuse({"term": Term.model_validate(term)}, student, make_teacher("abc"), torch.arange(3))


def test_labels_without_a_negative_are_refused_before_a_step(
    student: nn.Module, make_teacher: MakeTeacher
) -> None:
    with refused("no-negatives"):
        refuse({"crd": Term(loss="crd")}, student, make_teacher("abc"), torch.zeros(4, dtype=torch.int64))
    with refused("needs-teacher"):
        refuse({"crd": Term(loss="crd")}, student, None, torch.arange(3))


@pytest.mark.parametrize(
    ("method", "kinds", "said"),
    [
        ("kd", ("mean", "mean"), []),  # logits alone
        ("sp", ("mean", "scale"), []),  # and maps
        ("refilled", ("plain", "plain"), []),
        ("refilled", ("mean", "plain"), ["student's Behind", "term 'tuples' of stage 'embedding' reads"]),
        (
            "refilled",
            ("plain", "scale"),
            ["teacher's Behind", "'tuples' of stage 'embedding', the term 'induced' of"],
        ),
        ("podnet", ("mean", "plain"), ["student's Behind", "stage 'balance', which trains head alone"]),
        ("fsp", ("mean", "plain"), ["student's Behind", "which trains backbone alone"]),
        ("der", ("mean", "plain"), ["student's Behind", "the term 'auxiliary' of stage 'expand' reads"]),
        ("fitnet", ("mean", "mean"), []),
    ],
)
def test_what_reads_an_embedding_that_the_logits_are_not_made_of_is_said(
    method: str, kinds: tuple[str, str], said: list[str]
) -> None:
    student, teacher = ((tap(Behind(kind)), (1, 8, 8)) for kind in kinds)
    notes = head_notes(load_method(method), student, teacher)
    assert len(notes) == (1 if said else 0)
    assert all(words in notes[0] for words in said)


def test_an_embedding_at_a_spot_is_read_too() -> None:
    at = {"student": "embedding", "teacher": "logits"}
    stage = {"epochs": 1, "terms": {"hint": {"loss": "fitnet", "at": at}}}
    method = Method.model_validate({"name": "m", "paper": "", "summary": "", "stages": {"one": stage}})
    sides = ((tap(Behind("mean")), (1, 8, 8)), (tap(Behind("mean")), (1, 8, 8)))
    (note,) = head_notes(method, *sides)
    assert "student's Behind" in note
    assert head_notes(method, sides[0], None) == [note]


def test_embeddings_of_other_widths_are_refused_before_a_step(make_teacher: MakeTeacher) -> None:
    wide = build_network("resnet8x4", num_classes=3, in_channels=1)
    with refused("other-widths"):
        refuse({"flat": Term(loss="cosine")}, wide, make_teacher("abc"), torch.arange(3))
    same = build_network("resnet8", num_classes=3, in_channels=1)
    check_terms(
        {"flat": Term(loss="cosine")},
        *both_shapes(same, make_teacher("abc"), (1, 8, 8), {"teacher": (1, 8, 8)}),
        None,
    )
