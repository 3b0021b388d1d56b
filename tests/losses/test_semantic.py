"""Semantic calibration: the authors' number, and batches of any size.

The number is that of DefangChen/SimKD@2b389c3 models/util.py (SelfA) and distiller_zoo/SemCKD.py, when run in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gkd.losses import SemanticLoss, calibrated_loss
from tests.refusals import refused

from .waves import wave

STUDENT, TEACHER = [(3, 4, 4), (4, 2, 2)], [(5, 2, 2), (4, 4, 4)]


def built(group: int = 8) -> SemanticLoss:
    torch.manual_seed(0)
    return SemanticLoss(STUDENT, TEACHER, group=group, temperature=0.5, reduction=2).double()


def maps(batch: int) -> tuple[list[Tensor], list[Tensor]]:
    ours, theirs = (
        [wave(batch, *shape, phase=phase + 0.1 * number) for number, shape in enumerate(shapes)]
        for phase, shapes in ((0.2, STUDENT), (0.9, TEACHER))
    )
    return ours, theirs


def layers_in_the_authors_order(module: SemanticLoss) -> Iterator[nn.Module]:
    for pair in zip(module.queries, module.keys, strict=True):
        for layer in pair:
            yield from (layer.hidden, layer.out)
    for projection in module.projections:
        yield from (projection[0], projection[3], projection[6])


def test_a_full_group_is_the_authors() -> None:
    module = built()
    with torch.no_grad():
        for number, layer in enumerate(layers_in_the_authors_order(module)):
            for parameter in layer.parameters():
                parameter.copy_(wave(*parameter.shape, phase=0.1 + 0.05 * number))
    assert float(module(*maps(8)).detach()) == pytest.approx(2.569509604981458, rel=1e-12)


def test_attention_is_a_distribution_over_the_teachers_maps() -> None:
    attention = built().attention(*maps(8), None)
    assert attention.shape == (8, 2, 2)
    torch.testing.assert_close(attention.sum(2), torch.ones(8, 2).double())
    assert attention.std() > 1e-3


def test_each_group_attends_as_if_it_were_alone() -> None:
    ours, theirs = maps(11)
    module = built(group=4)
    attention = module.attention(ours, theirs, None)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 11)):
        alone = module.attention([x[rows] for x in ours], [x[rows] for x in theirs], None)
        torch.testing.assert_close(attention[rows], alone)


@pytest.mark.parametrize("batch", [1, 7, 9])
def test_any_batch_will_do(batch: int) -> None:
    module = built()
    module(*maps(batch)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_selected_rows_fill_the_groups_first() -> None:
    ours, theirs = maps(9)
    mask = torch.tensor([0, 1, 1, 0, 1, 1, 0, 1, 1]).bool()
    module = built(group=4)
    zeroed = [[x * mask.view(-1, 1, 1, 1) for x in side] for side in (ours, theirs)]
    masked = module.attention(*zeroed, mask)[mask]
    torch.testing.assert_close(
        masked, module.attention([x[mask] for x in ours], [x[mask] for x in theirs], None)
    )


def test_other_shapes_are_refused() -> None:
    with refused("other-shapes"):
        calibrated_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4), torch.ones(2))
