"""Random resized crops against torchvision's on the same boxes, and the law of the boxes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as v2

from gkd.data import ImageSet, augmentation
from gkd.data.augment.resized_crop import random_boxes, resize_boxes

Make = Callable[..., ImageSet]
ADDRESS = {"seed": 0, "stage": 0, "epoch": 0}


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (20, 31)])
def test_boxes_are_resized_as_torchvision_does(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (40, 3, *size), dtype=torch.uint8)
    boxes = random_boxes(torch.tensor(size).expand(40, 2), torch.arange(40), **ADDRESS)
    result = resize_boxes(images, boxes)
    for image, box, own in zip(images, boxes.tolist(), result, strict=True):
        expected = v2.resized_crop(image.float(), *box, list(size), antialias=True)
        assert (own.float() - expected).abs().max() < 0.51  # rounding to whole levels


def test_a_box_of_the_whole_image_changes_nothing() -> None:
    images = torch.randint(0, 256, (4, 3, 9, 12), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 9, 12]]).expand(4, 4)
    assert resize_boxes(images, boxes).equal(images)


def test_boxes_lie_inside_and_have_torchvisions_law() -> None:
    num, size = 4000, (48, 64)
    sizes = torch.tensor(size).expand(num, 2)
    top, left, height, width = random_boxes(sizes, torch.arange(num), **ADDRESS).unbind(1)
    assert bool((top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all())
    assert bool((top + height <= size[0]).all() and (left + width <= size[1]).all())
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    reference = torch.tensor(
        [RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3]) for _ in range(num)]
    )
    own = torch.stack([top, left, height, width], 1)
    for column in range(4):
        a, b = own[:, column].double(), reference[:, column].double()
        assert abs(a.mean() - b.mean()) < 5 * math.sqrt((a.var() + b.var()) / num)
        assert abs(a.std() / b.std() - 1) < 0.1


def test_where_no_box_fits_the_largest_centred_one_is_taken() -> None:
    boxes = random_boxes(torch.tensor([[10, 400]]), torch.tensor([3]), **ADDRESS, min_area=1.0)
    assert boxes.tolist() == [[0, 193, 10, 13]]  # 13 = round(10 * 4 / 3)
    boxes = random_boxes(torch.tensor([[400, 10]]), torch.tensor([3]), **ADDRESS, min_area=1.0)
    assert boxes.tolist() == [[193, 0, 13, 10]]


def test_min_area_and_max_ratio_bound_the_boxes() -> None:
    sizes = torch.tensor([100, 100]).expand(500, 2)
    boxes = random_boxes(sizes, torch.arange(500), **ADDRESS, min_area=0.5, max_ratio=1.0)
    assert boxes[:, 2].equal(boxes[:, 3])
    assert int(boxes[:, 2].min()) >= 70
    assert not boxes.equal(random_boxes(sizes, torch.arange(500), **{**ADDRESS, "epoch": 1}, min_area=0.5))


def test_by_name(make_images: Make) -> None:
    images, index = make_images(20, size=16).images, torch.arange(20)
    boxes = random_boxes(torch.tensor([16, 16]).expand(20, 2), index, **ADDRESS, min_area=0.3)
    cut = augmentation("random-resized-crop(min_area=0.3)")(images, index, **ADDRESS)
    assert cut.equal(resize_boxes(images, boxes))
    flipped = augmentation("random-resized-crop-flip(min_area=0.3)")(images, index, **ADDRESS)
    assert flipped.equal(augmentation("flip")(cut, index, **ADDRESS))
