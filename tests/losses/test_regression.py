"""Regression of embeddings: the settings of the papers whose code is public, and the inverted projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.losses import InvertedProjectionLoss, RegressionLoss, regression_loss
from tests.refusals import refused

from .waves import wave

STUDENT, TEACHER = wave(5, 4, phase=0.2), wave(5, 6, phase=0.9)


def layers(module: RegressionLoss) -> list[nn.Linear]:
    return [layer for each in module.projector.layers for layer in each]  # type: ignore[union-attr, misc]


def waves_into(module: RegressionLoss) -> RegressionLoss:
    module.double()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(wave(*parameter.shape, phase=0.3 * number))
    return module


def test_three_projectors_and_the_cosine_are_pefd() -> None:
    """chenyd7/PEFD@2f5dbbc helper/loops.py, re-derived."""
    module = waves_into(RegressionLoss((4,), (6,), projectors=3, relu=True))
    first, second, third = (F.relu(layer(STUDENT)) for layer in layers(module))
    student = (first + second + third) / 3
    expected = (1 - (student * TEACHER).sum(1) / (student.norm(dim=1) * TEACHER.norm(dim=1))).sum() / 5
    torch.testing.assert_close(module(STUDENT, TEACHER), expected)


def test_an_orthogonal_projector_before_a_normalised_teacher_is_vkd() -> None:
    """roymiles/VkD@0c9cc5e engine.py and train.py, re-derived."""
    options = {"projector": "orthogonal", "teacher_normalise": "layer", "distance": "smooth-l1"}
    module = RegressionLoss((4,), (6,), **options).double()  # type: ignore[arg-type]
    (layer,) = layers(module)
    projected = STUDENT @ layer.weight.T
    torch.testing.assert_close(layer.weight.T @ layer.weight, torch.eye(4).double(), rtol=0, atol=1e-6)
    expected = F.smooth_l1_loss(projected, F.layer_norm(TEACHER, (6,)))
    torch.testing.assert_close(module(STUDENT, TEACHER), expected)


def test_a_wider_smooth_l1_is_feature_distillation() -> None:
    """SwinTransformer/Feature-Distillation@becd8b3 models/feature_distillation.py, re-derived for one token."""
    module = waves_into(RegressionLoss((4,), (6,), teacher_normalise="layer", distance="smooth-l1", beta=2.0))
    (layer,) = layers(module)
    target = nn.LayerNorm(6, elementwise_affine=False)(3 * TEACHER)
    expected = nn.SmoothL1Loss(beta=2.0)(layer(STUDENT), target)
    torch.testing.assert_close(module(STUDENT, 3 * TEACHER), expected)


def test_a_normalised_input_and_the_square_are_the_token_loss_of_proteus() -> None:
    """BeSpontaneous/Proteus-pytorch@d2f87ec pretrain/models_proteus_dinov2.py, re-derived.

    The scale and shift of its LayerNorm go into the linear layer.
    """
    norm, head = nn.LayerNorm(4).double(), nn.Linear(4, 6).double()
    with torch.no_grad():
        norm.weight.copy_(1 + wave(4, phase=0.1))
        norm.bias.copy_(wave(4, phase=0.5))
    module = RegressionLoss((4,), (6,), input_normalise="layer", distance="l2").double()
    (layer,) = layers(module)
    with torch.no_grad():
        layer.weight.copy_(head.weight * norm.weight)
        layer.bias.copy_(head.bias + head.weight @ norm.bias)
    torch.testing.assert_close(module(STUDENT, TEACHER), F.mse_loss(head(norm(STUDENT)), TEACHER))


def test_the_square_of_unit_rows_is_twice_the_cosine_by_width() -> None:
    student, teacher = wave(5, 6, phase=0.2), TEACHER
    unit = regression_loss(student, teacher, distance="l2", student_normalise="l2", teacher_normalise="l2")
    torch.testing.assert_close(unit, 2 * regression_loss(student, teacher) / 6)


def test_widths_that_differ_are_refused() -> None:
    with refused("other-widths"):
        regression_loss(STUDENT, TEACHER)
    with refused("other-widths"):
        RegressionLoss((4,), (6,), projector="none")


def inverted(**options: object) -> InvertedProjectionLoss:
    torch.manual_seed(0)
    return InvertedProjectionLoss((4,), (6,), **options).double()  # type: ignore[arg-type]


def test_the_teacher_is_projected_and_the_student_is_not() -> None:
    module = inverted()
    (layer,) = module.projection
    torch.testing.assert_close(module(STUDENT, TEACHER), F.mse_loss(STUDENT, layer(TEACHER)))


def test_the_rank_of_the_projection_is_bounded() -> None:
    def rank(module: InvertedProjectionLoss) -> int:
        projected: Tensor = module.projection(torch.eye(6).double()) - module.projection(
            torch.zeros(1, 6).double()
        )
        return int(torch.linalg.matrix_rank(projected))

    assert (rank(inverted()), rank(inverted(rank=2))) == (4, 2)


def test_nothing_but_another_loss_keeps_student_and_projection_from_zero() -> None:
    """A normalisation over the batch does: equal rows are then far from the teacher's."""
    module = inverted()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert module(0 * STUDENT, TEACHER) == 0
    kept = inverted(distance="cosine", student_normalise="standardise", teacher_normalise="standardise")
    assert kept(0 * STUDENT, TEACHER) == 1
