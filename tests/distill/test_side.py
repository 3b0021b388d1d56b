"""A teacher's side: its relation by default, its view, and several of them in one distiller."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from gkd.core.batch import Batch
from gkd.core.class_vectors import ClassVectors
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.network import Unregistered
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide, View, teacher_sides
from gkd.distill.teacher import Teacher
from gkd.losses import kd_loss, pkt_loss
from gkd.methods.mixup import Mixup
from gkd.methods.routing import Routing
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.refusals import refused


def network(num_classes: int, seed: int, channels: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return build_network("resnet8", num_classes=num_classes, in_channels=channels)


def batch_of(size: int = 8, **more: object) -> Batch:
    images = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(size) % 3, **more)  # type: ignore[arg-type]


def test_two_networks_a_term_and_a_batch_of_images_and_labels_are_enough() -> None:
    student, teacher = network(3, 0), Teacher(network(3, 1))
    batch = batch_of()
    loss = Distiller(student, teacher, {"kd": Term(loss="kd")}).eval()(batch)["loss"]
    expected = kd_loss(student(batch.images), teacher(batch.images))
    torch.testing.assert_close(loss, expected)


def test_classes_relate_a_bare_teacher_by_name() -> None:
    student, teacher = network(3, 0), Teacher(network(4, 1), LabelSpace([*"dcba"]))
    batch = batch_of()
    distiller = Distiller(student, teacher, {"kd": Term(loss="kd")}, classes=LabelSpace([*"abc"])).eval()
    expected = kd_loss(student(batch.images), teacher(batch.images)[:, [3, 2, 1]])
    torch.testing.assert_close(distiller(batch)["loss"], expected)
    with refused("no-shared-class"):
        Distiller(student, teacher, {"kd": Term(loss="kd")})
    pkt = Distiller(student, teacher, {"pkt": Term(loss="pkt")}).eval()(batch)[
        "loss"
    ]  # needs no shared class
    expected = pkt_loss(student.features(batch.images).embedding, teacher.features(batch.images).embedding)
    torch.testing.assert_close(pkt, expected)


def test_an_unnamed_teacher_meets_no_named_class_by_accident() -> None:
    side = teacher_sides(Teacher(network(3, 1)), 3, LabelSpace([*"012"]))["teacher"]
    assert side.relation.kind == "none"
    assert teacher_sides(Teacher(network(3, 1)), 3)["teacher"].relation.kind == "same"
    assert teacher_sides(None, 3) == {}


def test_a_mean_without_a_std_is_refused() -> None:
    with refused("mean-without-std"):
        Teacher(network(3, 1), mean=(0.5,))


def two(**more: object) -> tuple[nn.Module, dict[str, TeacherSide]]:
    """A student of abc beside a teacher of cba and one of bx that sees three channels."""
    near, far = (
        Teacher(network(3, 1), LabelSpace([*"cba"])),
        Teacher(network(3, 2, channels=3), LabelSpace([*"bax"])),
    )
    classes = LabelSpace([*"abc"])
    return network(3, 0), {
        "near": TeacherSide(near, LabelRelation(near.space, classes)),
        "far": TeacherSide(far, LabelRelation(far.space, classes), view=View((3, 8, 8), "colour")),
    }


def test_a_term_names_the_teacher_that_it_reads() -> None:
    student, sides = two()
    colour = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    batch = batch_of(views={"colour": colour})
    terms = {
        "first": Term(loss="kd"),
        "second": Term(loss="kd", teacher="far"),
        "hint": Term(loss="fitnet", teacher="far", at={"student": 1, "teacher": 2}),  # type: ignore[arg-type]
        "crd": Term(loss="pkt", teacher="far"),
    }
    distiller = Distiller(student, sides, terms, image_shape=(1, 8, 8)).eval()
    losses = distiller(batch)
    logits = student(batch.images)
    near, far = sides["near"].teacher, sides["far"].teacher
    torch.testing.assert_close(
        losses["loss/first"], kd_loss(logits, near(batch.images)[:, [2, 1, 0]]).detach()
    )
    known = batch.labels < 2  # the far teacher has a and b
    expected = kd_loss(logits[known][:, :2], far(colour)[known][:, [1, 0]]).detach()
    torch.testing.assert_close(losses["loss/second"], expected)
    hinted = distiller.adapters["hint"][0](
        student.features(batch.images).maps[1], far.features(colour).maps[2]
    )
    torch.testing.assert_close(losses["loss/hint"], hinted.detach())
    assert not any("near" in key or "far" in key or "side" in key for key in distiller.state_dict())
    kept = replace(batch, teacher=near.features(batch.images + 1))  # kept outputs are the first teacher's
    assert distiller(kept)["loss/first"] != losses["loss/first"]
    assert distiller(kept)["loss/second"] == losses["loss/second"]


def test_only_the_teachers_that_are_read_run(monkeypatch: pytest.MonkeyPatch) -> None:
    student, sides = two()
    distiller = Distiller(student, sides, {"kd": Term(loss="kd")})
    distiller(batch_of())  # without the view that the other one sees
    distiller = Distiller(student, sides, {"kd": Term(loss="kd", teacher="far")})
    assert distiller.read_clean == ["far"]
    with refused("unknown-view"):
        distiller(batch_of())


@pytest.mark.parametrize("how", ["mixed", "interpolated"])
def test_views_of_virtual_samples_are_mixed_too(how: str) -> None:
    student, sides = two()
    terms = {"kd": Term(loss="kd", teacher="far", samples="virtual", rows="all")}
    mixup = Mixup(teacher=how)  # type: ignore[arg-type]
    losses = Distiller(student, sides, terms, mixup=mixup)(
        batch_of(views={"colour": torch.randn(8, 3, 8, 8)})
    )
    assert torch.isfinite(losses["loss"])


def test_what_several_teachers_cannot_do_is_refused() -> None:
    student, sides = two()
    with refused("unknown-teacher"):
        Distiller(student, sides, {"kd": Term(loss="kd", teacher="fra")})
    terms = {"kd": Term(loss="kd"), "pkt": Term(loss="pkt", teacher="far")}
    with refused("several-teachers"):
        Distiller(student, sides, terms, image_shape=(1, 8, 8), routing=Routing(policy="random"))


def test_a_held_module_is_not_owned() -> None:
    parent, child = nn.Linear(2, 2), nn.Linear(3, 3)
    parent.held = Unregistered(child)  # type: ignore[assignment]
    assert len(list(parent.parameters())) == 2
    assert child not in list(parent.modules())
    assert parent.double().held.module.weight.dtype == torch.float32


def test_centres_may_be_the_vectors_of_the_classes_names() -> None:
    vectors = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    names = ClassVectors(LabelSpace([*"xcab"]), vectors)
    student, teacher = network(3, 0), Teacher(network(5, 1), names=names)
    options = {"loss": "induced_classifier", "classes": "all", "normalise": True, "teacher_temperature": 0.01}
    terms = {"induced": Term(**options, centres="names")}
    batch, classes = batch_of(), LabelSpace([*"abc"])
    found = Distiller(student, teacher, terms, classes=classes).eval()(batch)["loss"]
    with torch.no_grad():
        embedding = nn.functional.normalize(teacher.features(batch.images).embedding, dim=1)
        centres = nn.functional.normalize(vectors[[2, 3, 1]], dim=1)
        wanted, log = (embedding @ centres.T / 0.01).softmax(1), student(batch.images).log_softmax(1)
        expected = (wanted * (wanted.clamp_min(1e-30).log() - log)).sum(1).mean()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with refused("names-missing"):
        Distiller(student, Teacher(network(5, 1)), terms, classes=classes)
    with refused("names-missing"):
        Distiller(student, teacher, terms, classes=LabelSpace([*"abz"]))
    state = Distiller(student, teacher, terms, classes=classes).state_dict()
    assert not any("names" in key for key in state)  # recomputed, and in no checkpoint
