"""Knowledge review: the authors' numbers, and what is refused.

The numbers are those of dvlab-research/ReviewKD@cede6ea CIFAR-100/model/reviewkd.py, when run in float64.
"""

from __future__ import annotations

import pytest
import torch

from gkd.losses import ReviewLoss, context_loss
from tests.refusals import refused

from .waves import wave

STUDENT, TEACHER = [(3, 4, 4), (4, 2, 2), (5,)], [(4, 6, 6), (6, 3, 3), (7,)]


def test_the_context_loss_is_the_authors() -> None:
    loss = context_loss(wave(3, 2, 5, 5, phase=0.2), wave(3, 2, 5, 5, phase=0.9))
    assert float(loss) == pytest.approx(0.6095442783623707, rel=1e-12)


def test_the_review_is_the_authors() -> None:
    module = ReviewLoss(STUDENT, TEACHER).double()
    with torch.no_grad():
        for depth, step in enumerate(module.steps):
            layers = [step.narrow[0], step.widen[0], *([] if step.attention is None else [step.attention])]
            for number, layer in enumerate(layers):
                layer.weight.copy_(wave(*layer.weight.shape, phase=0.3 + 0.2 * depth + 0.1 * number))
                if layer.bias is not None:
                    layer.bias.copy_(wave(*layer.bias.shape, phase=0.5))
    maps = [
        [wave(3, *shape, phase=phase + 0.1 * number) for number, shape in enumerate(shapes)]
        for phase, shapes in ((0.2, STUDENT), (0.9, TEACHER))
    ]
    assert float(module(*maps).detach()) == pytest.approx(4.264356710442604, rel=1e-12)


def test_the_deepest_map_is_fused_with_none_and_the_width_is_its_own_up_to_a_limit() -> None:
    widths = [step.narrow[0].out_channels for step in ReviewLoss(STUDENT, TEACHER).steps]
    assert widths == [5, 5, 5]
    limited = ReviewLoss(STUDENT, TEACHER, max_width=2)
    assert [step.narrow[0].out_channels for step in limited.steps] == [2, 2, 2]
    assert [step.attention is None for step in limited.steps] == [False, False, True]


def test_other_shapes_are_refused() -> None:
    with refused("other-shapes"):
        context_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with refused("not-a-map"):
        context_loss(torch.zeros(2, 3), torch.zeros(2, 3))
