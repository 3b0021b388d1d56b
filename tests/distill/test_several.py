"""Terms over several teachers: sum, mean and dropping; each part is the term with that teacher alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.several import combined
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses.phi_s import phi_s
from gkd.methods.routing import Routing
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.refusals import refused

STUDENT = LabelSpace([*"abc"])
BATCH = Batch(
    torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3, shared=True
)


def network(num_classes: int, seed: int, name: str = "resnet8") -> nn.Module:
    torch.manual_seed(seed)
    return build_network(name, num_classes=num_classes, in_channels=1)


def sides() -> dict[str, TeacherSide]:
    """A teacher that shares two of the student's three classes, and one of other width that shares none."""
    near = Teacher(network(3, 1), LabelSpace([*"bcx"]))
    far = Teacher(network(2, 2, "resnet8x4"), LabelSpace([*"yz"]))
    return {
        name: TeacherSide(each, LabelRelation(each.space, STUDENT))
        for name, each in (("near", near), ("far", far))
    }


def distiller(teachers: Mapping[str, TeacherSide], **term: object) -> Distiller:
    torch.manual_seed(5)
    terms = {"fit": Term(**{"loss": "regression", "weight": 2.0, **term})}  # type: ignore[arg-type]
    return Distiller(network(3, 0), teachers, terms, image_shape=(1, 8, 8)).eval()


def gradients(module: Distiller) -> dict[str, Tensor]:
    module.student.zero_grad()
    module(BATCH)["loss"].backward()
    return {
        name: each.grad.clone() for name, each in module.student.named_parameters() if each.grad is not None
    }


def test_the_gradient_of_the_sum_is_the_sum_of_the_gradients_with_each_teacher_alone() -> None:
    both = distiller(sides(), teacher="all")
    summed = gradients(both)
    parts = {name: distiller({name: side}) for name, side in sides().items()}
    for name, alone in parts.items():  # projectors start as they do in the run with both
        alone.adapters["fit"].load_state_dict(both.adapters[f"fit/{name}"].state_dict())
    alone_gradients = [gradients(alone) for alone in parts.values()]
    assert summed.keys() == alone_gradients[0].keys()
    for name, gradient in summed.items():
        torch.testing.assert_close(gradient, sum(each[name] for each in alone_gradients))
    losses = both(BATCH)
    assert {"loss/fit", "loss/fit/near", "loss/fit/far"} < losses.keys()
    torch.testing.assert_close(losses["loss/fit"], losses["loss/fit/near"] + losses["loss/fit/far"])
    torch.testing.assert_close(losses["loss"], 2 * losses["loss/fit"])


def test_a_term_reads_the_first_the_named_or_the_listed_teachers() -> None:
    with_all = distiller(sides(), teacher="all")
    assert distiller(sides()).read_clean == ["near"]
    assert distiller(sides(), teacher="far").read_clean == ["far"]
    assert distiller(sides(), teacher=["far"]).read_clean == ["far"]
    assert list(distiller(sides(), teacher=["far"])(BATCH)) == ["loss", "loss/fit"]
    assert with_all.read_clean == ["near", "far"]
    widths = [with_all.adapters[f"fit/{name}"][0].projector for name in ("near", "far")]
    assert len({str(projector) for projector in widths}) == 2
    with refused("unknown-teacher"):
        distiller(sides(), teacher=["near", "fur"])
    with refused("no-shared-class"):
        Distiller(network(3, 0), sides(), {"kd": Term(loss="kd", teacher="all")})
    with refused("several-teachers"):
        Distiller(
            network(3, 0), sides(), {"sp": Term(loss="sp"), "pkt": Term(loss="pkt", teacher="far")},
            image_shape=(1, 8, 8), routing=Routing(policy="random"),
        )  # fmt: skip


def test_a_mean_and_dropping() -> None:
    losses = [torch.tensor(value, requires_grad=True) for value in (1.0, 4.0, 2.0)]
    assert combined(losses, "sum") == 7
    assert combined(losses[:1], "drop", drop_rate=1.0) is losses[0]
    assert combined(losses, "mean") == combined(losses, "drop", drop_rate=0.0)
    assert combined(losses, "drop", drop_rate=1.0) == 4  # the largest is never dropped
    torch.manual_seed(0)
    drawn = [float(combined(losses, "drop", drop_rate=0.25).detach()) for _ in range(2000)]
    kept = {7 / 3: 0.75**2, 5 / 2: 0.75 * 0.25, 6 / 2: 0.75 * 0.25, 4.0: 0.25**2}
    for value, probability in kept.items():
        share = sum(abs(each - value) < 1e-6 for each in drawn) / len(drawn)
        assert share == pytest.approx(probability, abs=0.04)
    torch.manual_seed(1)
    combined(losses, "drop", drop_rate=1.0).backward()
    assert [float(each.grad) for each in losses if each.grad is not None] == [0, 1, 0]


def test_a_teacher_that_diverged_and_is_dropped_does_not_spoil_the_sum() -> None:
    losses = [torch.tensor(float("-inf")), torch.tensor(2.0)]
    assert combined(losses, "drop", drop_rate=1.0) == 2


def test_a_balanced_embedding_is_what_the_loss_reads() -> None:
    with refused("balance-missing"):
        distiller(sides(), balance="phi-s")
    side = sides()["far"]
    embedding = side.teacher.features(BATCH.images).embedding
    balanced = TeacherSide(side.teacher, side.relation, balance=phi_s(embedding))
    options = {"distance": "l2", "loss": "regression"}
    module = distiller({"far": balanced}, balance="phi-s", **options)
    student = module.student.features(BATCH.images).embedding
    expected = module.adapters["fit"][0](student, phi_s(embedding)(embedding))
    torch.testing.assert_close(module(BATCH)["loss/fit"], expected.detach())
    other = TeacherSide(side.teacher, side.relation, balance=phi_s(-embedding))
    resumed = distiller({"far": other}, balance="phi-s", **options)
    resumed.load_state_dict(module.state_dict())
    torch.testing.assert_close(resumed.sides["far"].balance(embedding), balanced.balance(embedding))
