"""One-for-all: the authors' numbers, and what the branches are built of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import OFABranchesLoss, ofa_loss
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.refusals import refused

from .waves import wave


@pytest.mark.parametrize(
    ("power", "temperature", "expected"), [(1.0, 1.0, 2.4372513086148055), (1.5, 2.0, 1.54997013497305)]
)
def test_ofa_is_the_authors(power: float, temperature: float, expected: float) -> None:
    """The numbers are those of Hao840/OFAKD@f7bb896, ofa_loss, in float64."""
    student, teacher = 2 * wave(7, 5, phase=0.2), 2 * wave(7, 5, phase=0.9)
    loss = ofa_loss(student, teacher, torch.arange(7) % 5, power=power, temperature=temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_a_map_is_halved_once_for_each_spot_that_follows() -> None:
    module = OFABranchesLoss(((2, 8, 8), (4, 4, 4), (8, 2, 2)), ((6,), (6,), (12,)), num_classes=5)
    strides = [
        [layer.stride[0] for layer in branch.layers if isinstance(layer, nn.Conv2d) and layer.stride[0] > 1]
        for branch in module.branches
    ]
    assert strides == [[2, 2], [2], []]
    assert [branch.head.in_features for branch in module.branches] == [12, 12, 12]
    assert {branch.head.out_features for branch in module.branches} == {5}


def test_an_embedding_has_no_branch() -> None:
    with refused("not-a-map"):
        OFABranchesLoss(((2, 8, 8), (8,)), ((6,), (6,)), num_classes=5)


def test_branches_have_a_column_for_each_shared_class(make_teacher: Callable[..., Teacher]) -> None:
    """The student has classes b, c, d of the teacher's a, b, c."""
    term = Term.model_validate(
        {"loss": "ofa_branches", "at": {"student": [1, 3], "teacher": ["embedding", "embedding"]}}
    )
    relation = LabelRelation(LabelSpace(list("abc")), LabelSpace(list("bcd")))
    distiller = Distiller(
        build_network("resnet8", num_classes=3, in_channels=1),
        TeacherSide(make_teacher("abc"), relation),
        {"branches": term},
        image_shape=(1, 8, 8),
    )
    (module,) = distiller.adapters["branches"]  # type: ignore[misc]
    assert {branch.head.out_features for branch in module.branches} == {2}
    losses = distiller(Batch(torch.randn(6, 1, 8, 8), torch.arange(6) % 3, shared=True))
    losses["loss"].backward()
    assert losses["loss"] > 0
    assert all(parameter.grad is not None for parameter in module.parameters())
