"""Overhaul of feature distillation: the authors' numbers, and the margins.

The numbers are those of clovaai/overhaul-distillation@76344a8 CIFAR-100/distiller.py, when run in float64.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from gkd.losses import OverhaulLoss, partial_loss
from tests.refusals import refused

from .references import random
from .waves import wave


def test_the_partial_distance_is_the_authors() -> None:
    margin = torch.tensor([-0.8, -0.4, -0.2, -0.3], dtype=torch.float64)
    loss = partial_loss(wave(3, 4, 2, 2, phase=0.2), wave(3, 4, 2, 2, phase=0.9), margin)
    assert float(loss) == pytest.approx(11.52509469562596, rel=1e-12)


# get_margin_from_BN of weights 1, -0.5, 0.3, 0.1 and biases 0.2, -0.3, 0, 2, which gives them in float32.
OF_BATCH_NORM = [-0.7294158339500427, -0.5295735597610474, -0.2393653690814972, -0.30000001192092896]


def test_a_gaussian_margin_is_the_authors_formula() -> None:
    module = OverhaulLoss([(3, 2, 2)], [(4, 2, 2)], margins="gaussian").double().eval()
    margin = module.margins[0]
    margin.mean.copy_(torch.tensor([0.2, -0.3, 0.0, 2.0]))
    margin.variance.copy_(torch.tensor([1.0, 0.25, 0.09, 0.01]))
    torch.testing.assert_close(
        margin(wave(1, 4, 2, 2, phase=0.1), None), torch.tensor(OF_BATCH_NORM).double(), rtol=1e-6, atol=0
    )


def batches(count: int) -> list[Tensor]:
    return [random(number, 5, 4, 3, 3) + 0.3 for number in range(count)]


def after(kind: str, maps: list[Tensor]) -> Tensor:
    margin = OverhaulLoss([(3, 3, 3)], [(4, 3, 3)], margins=kind).double().margins[0]  # type: ignore[arg-type]
    for each in maps:
        value: Tensor = margin(each, None)
    return value


@pytest.mark.parametrize("kind", ["negatives", "gaussian"])
def test_margins_are_of_all_maps_so_far_however_they_were_parted(kind: str) -> None:
    together = torch.cat(batches(4))
    torch.testing.assert_close(after(kind, batches(4)), after(kind, [together]))
    torch.testing.assert_close(after(kind, list(together.split(7))), after(kind, [together]))


def test_negatives_are_averaged_over_images_and_positions() -> None:
    together = torch.cat(batches(3)).transpose(0, 1).flatten(1)
    expected = torch.stack([row[row < 0].mean() for row in together])
    torch.testing.assert_close(after("negatives", batches(3)), expected)


def test_both_margins_agree_where_the_entries_are_gaussian() -> None:
    """As behind a BatchNorm, whose bias and weight are then their mean and standard deviation."""
    weight, bias = torch.tensor([1.0, -0.5, 0.3, 0.1]), torch.tensor([0.2, -0.3, 0.0, 2.0])
    normal = random(0, 300, 4, 10, 10)
    maps = normal * weight.view(1, 4, 1, 1) + bias.view(1, 4, 1, 1)
    torch.testing.assert_close(
        after("gaussian", [maps]), torch.tensor(OF_BATCH_NORM).double(), rtol=0.02, atol=0
    )
    negatives = after("negatives", [maps])
    torch.testing.assert_close(negatives[:3], torch.tensor(OF_BATCH_NORM[:3]).double(), rtol=0.02, atol=0)
    assert negatives[3] == 0  # a channel without a negative entry has nothing below its margin


@pytest.mark.parametrize("kind", ["negatives", "gaussian"])
def test_margins_are_saved_and_stay_in_evaluation(kind: str) -> None:
    module = OverhaulLoss([(3, 3, 3)], [(4, 3, 3)], margins=kind).double()  # type: ignore[arg-type]
    margin = module.margins[0]
    before = margin(batches(1)[0], None)
    resumed = OverhaulLoss([(3, 3, 3)], [(4, 3, 3)], margins=kind).double()  # type: ignore[arg-type]
    resumed.load_state_dict(module.state_dict())
    more = batches(2)[1]
    torch.testing.assert_close(resumed.margins[0](more, None), margin(more, None), rtol=0, atol=0)
    module.eval()
    state = copy.deepcopy(module.state_dict())
    assert not torch.equal(margin(more, None), before)
    torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)


def test_deeper_spots_count_more() -> None:
    shapes = [(3, 2, 2)] * 3
    maps = [[random(side + number, 4, *shape) for number, shape in enumerate(shapes)] for side in (1, 7)]
    values = []
    for growth in (1.0, 2.0):
        torch.manual_seed(0)
        values.append([OverhaulLoss(shapes, shapes, growth=growth).double(), growth])
    alone = []
    for number in range(3):
        one = OverhaulLoss(shapes[:1], shapes[:1]).double()
        one.connectors[0].load_state_dict(values[0][0].connectors[number].state_dict())
        alone.append(one([maps[0][number]], [maps[1][number]]))
    for module, growth in values:
        expected = sum(loss * growth ** (number - 2) for number, loss in enumerate(alone))
        torch.testing.assert_close(module(*maps), expected)


def test_other_shapes_are_refused() -> None:
    with refused("other-shapes"):
        partial_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2), torch.zeros(3))
