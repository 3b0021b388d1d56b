"""Random erasing against torchvision's on the same boxes, and the law of the boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from gkd.data import augmentation, uniform
from gkd.data.augment.random_erasing import erased_boxes

ADDRESS = {"seed": 5, "stage": 0, "epoch": 1}
RANGES = {"min_area": 0.02, "max_area": 0.4, "max_ratio": 10 / 3}


def test_images_are_torchvisions_after_the_drawn_boxes() -> None:
    images, index = torch.randint(0, 255, (80, 3, 12, 15), dtype=torch.uint8), torch.arange(80) + 3
    result = augmentation("random-erasing(fill=255)")(images, index, **ADDRESS)
    chosen = uniform(**ADDRESS, index=index, draw=112) < 0.5
    boxes = erased_boxes((12, 15), index, (5, 0, 1), view=0, **RANGES)
    for row, image in enumerate(images):
        if chosen[row]:
            image = functional.erase(image, *boxes[row].tolist(), v=torch.tensor([255]).view(1, 1, 1))
        assert result[row].equal(image)
    assert 25 < int(chosen.sum()) < 55


def test_boxes_lie_inside_and_have_torchvisions_law() -> None:
    num, size = 4000, (48, 64)
    boxes = erased_boxes(size, torch.arange(num), (5, 0, 1), view=0, **RANGES)
    top, left, height, width = boxes.unbind(1)
    assert bool((top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all())
    assert bool((top + height <= size[0]).all() and (left + width <= size[1]).all())
    transform = v2.RandomErasing(p=1.0, scale=(0.02, 0.4), ratio=(0.3, 10 / 3))
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    drawn = [transform.make_params([image]) for _ in range(num)]
    reference = torch.tensor([[each["i"], each["j"], each["h"], each["w"]] for each in drawn])
    for column in range(4):
        a, b = boxes[:, column].double(), reference[:, column].double()
        assert abs(a.mean() - b.mean()) < 5 * math.sqrt((a.var() + b.var()) / num)
        assert abs(a.std() / b.std() - 1) < 0.1


def test_where_no_box_fits_nothing_is_erased() -> None:
    images = torch.randint(0, 255, (50, 1, 4, 4), dtype=torch.uint8)
    chain = augmentation("random-erasing(p=1, min_area=1, max_area=1, max_ratio=1, fill=255)")
    assert chain(images, torch.arange(50), **ADDRESS).equal(images)
    assert augmentation("random-erasing(p=0)")(images, torch.arange(50), **ADDRESS).equal(images)


def test_noise_is_of_every_level_and_each_samples_own() -> None:
    images = torch.zeros(64, 3, 17, 19, dtype=torch.uint8)
    index = torch.arange(64)
    chain = augmentation("random-erasing(p=1, min_area=0.5, max_area=0.7, max_ratio=1.05)")
    result = chain(images, index, **ADDRESS)
    again = torch.cat([chain(images[:1], number, **ADDRESS) for number in index.split(1)])
    assert result.equal(again)
    counts = torch.bincount(result[result > 0].long(), minlength=256)[1:].double()
    assert float(counts.std() / counts.mean()) < 3 / float(counts.mean()) ** 0.5
    inner = result[:, :, 7:10, 7:12].flatten(1).double()  # 45 numbers, in every box
    correlation = torch.corrcoef(inner) - torch.eye(64)
    assert float(correlation.std()) < 0.2
    assert float(correlation.abs().max()) < 0.8
    assert not result.equal(chain(images, index, **{**ADDRESS, "epoch": 2}))


@pytest.mark.parametrize("options", ["min_area=0.5, max_area=0.6", "max_area=0.05"])
def test_areas_are_within_their_range(options: str) -> None:
    images = torch.zeros(300, 1, 40, 40, dtype=torch.uint8)
    result = augmentation(f"random-erasing(p=1, fill=1, {options})")(images, torch.arange(300), **ADDRESS)
    shares = result.double().mean((1, 2, 3))
    low, high = (0.5, 0.6) if "0.6" in options else (0.02, 0.05)
    assert low - 0.03 < float(shares[shares > 0].min())
    assert float(shares.max()) < high + 0.03
