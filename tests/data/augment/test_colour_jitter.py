"""Colour jitter image by image, and the law of its factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from gkd.data import augmentation, uniform

ADDRESS = {"seed": 5, "stage": 0, "epoch": 1}
STEPS = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation, v2.adjust_hue)


def drawn(index: Tensor, ranges: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The strengths ``[4, B]`` and the order ``[4, B]`` that the address says."""
    draws = torch.stack([uniform(**ADDRESS, index=index, draw=96 + number) for number in range(8)]).double()
    middle, half = torch.tensor([1.0, 1.0, 1.0, 0.0]).double(), torch.tensor(ranges).double()
    return middle[:, None] + half[:, None] * (2 * draws[:4] - 1), draws[4:].argsort(dim=0, stable=True)


def test_images_are_torchvisions_after_the_drawn_factors_in_the_drawn_order() -> None:
    images, index = torch.randint(0, 256, (60, 3, 9, 7), dtype=torch.uint8), torch.arange(60) * 3
    chain = augmentation("colour-jitter(brightness=0.5, contrast=0.3, saturation=0.9, hue=0.2)")
    result = chain(images, index, **ADDRESS)
    strengths, order = drawn(index, (0.5, 0.3, 0.9, 0.2))
    for row, image in enumerate(images):
        for number in order[:, row].tolist():
            image = STEPS[number](image, float(strengths[number, row]))
        difference = (result[row].int() - image.int()).abs()
        assert int(difference.max()) <= 3  # a level may be rounded to its neighbour in each of four steps
        assert float((difference > 0).double().mean()) < 0.1
    assert len({tuple(order[:, row].tolist()) for row in range(60)}) > 15


def test_factors_reach_their_range_and_no_further() -> None:
    images = torch.full((4000, 1, 1, 1), 100, dtype=torch.uint8)
    result = augmentation("colour-jitter(brightness=0.5, contrast=0, saturation=0)")(
        images, torch.arange(4000), **ADDRESS
    ).flatten()
    assert 50 <= int(result.min()) <= 51
    assert 148 <= int(result.max()) <= 150
    assert float(result.float().mean()) == pytest.approx(99.5, abs=1.5)


def test_a_range_of_nothing_does_nothing() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    still = augmentation("colour-jitter(brightness=0, contrast=0, saturation=0)")
    assert still(images, torch.arange(20), **ADDRESS).equal(images)
