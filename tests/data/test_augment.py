"""Augmentation against per-image references, normalisation, channel statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gkd.data import AUGMENTATIONS, ImageSet, channel_statistics, normalise, uniform

Make = Callable[..., ImageSet]


def slow_crop(image: Tensor, border: int, top: int, left: int) -> Tensor:
    """The crop of one image, pixel by pixel."""
    height, width = image.shape[1:]
    result = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            row, column = y + top - border, x + left - border
            if 0 <= row < height and 0 <= column < width:
                result[:, y, x] = image[:, row, column]
    return result


@pytest.mark.parametrize(("size", "border"), [(8, 1), (17, 2), (32, 4)])
@pytest.mark.parametrize("name", ["crop", "crop-flip"])
def test_crop_and_flip_match_the_reference(make_images: Make, name: str, size: int, border: int) -> None:
    images = make_images(12, size=size).images
    index = torch.arange(12) * 991
    address = {"seed": 3, "stage": 1, "epoch": 7}
    result = AUGMENTATIONS[name](images, index, **address, view=2)
    draws = [uniform(**address, index=index, view=2, draw=draw) for draw in range(3)]
    for i in range(12):
        top, left = (int(draws[d][i] * (2 * border + 1)) for d in (0, 1))
        expected = slow_crop(images[i], border, top, left)
        if name == "crop-flip" and draws[2][i] < 0.5:
            expected = expected.flip(2)
        assert result[i].equal(expected)


def test_crop_of_an_image_that_is_not_square() -> None:
    images = torch.randint(0, 256, (6, 1, 16, 24), dtype=torch.uint8)
    index = torch.arange(6)
    result = AUGMENTATIONS["crop"](images, index, seed=0, stage=0, epoch=0)
    for i in range(6):
        top, left = (int(uniform(0, 0, 0, index, draw=d)[i] * 5) for d in (0, 1))
        assert result[i].equal(slow_crop(images[i], 2, top, left))


def test_every_offset_and_both_sides_occur_equally_often() -> None:
    """One bright pixel in the middle shows where each crop was cut."""
    num = 40_000
    images = torch.zeros(num, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 3, 3] = 255
    index = torch.arange(num)
    cropped = AUGMENTATIONS["crop"](images, index, seed=0, stage=0, epoch=0)
    position = torch.bincount(cropped.flatten(1).long().argmax(1), minlength=64).view(8, 8)
    assert position[2:5, 2:5].sum() == num
    assert (position[2:5, 2:5] - num / 9).abs().max() < 5 * (num / 9) ** 0.5
    flipped = AUGMENTATIONS["crop-flip"](images, index, seed=0, stage=0, epoch=0)
    changed = (flipped != cropped).flatten(1).any(1)
    assert changed.equal(uniform(0, 0, 0, index, draw=2) < 0.5)  # column 3 of 8 never mirrors onto itself
    assert abs(float(changed.double().mean()) - 0.5) < 0.0125


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_is_pure(make_images: Make, name: str) -> None:
    images = make_images(64).images
    before = images.clone()
    index = torch.arange(64) + 5
    augment = AUGMENTATIONS[name]
    torch.manual_seed(0)
    whole = augment(images, index, seed=1, stage=0, epoch=4)
    torch.manual_seed(1)
    parts = [
        augment(i, n, seed=1, stage=0, epoch=4) for i, n in zip(images.split(7), index.split(7), strict=True)
    ]
    assert torch.cat(parts).equal(whole)
    order = torch.randperm(64)
    assert augment(images[order], index[order], seed=1, stage=0, epoch=4).equal(whole[order])
    assert images.equal(before)
    assert whole.dtype == torch.uint8
    assert augment(images[:0], index[:0], seed=1, stage=0, epoch=4).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("part", ["seed", "stage", "epoch", "view"])
def test_every_part_of_the_address_changes_the_views(make_images: Make, part: str) -> None:
    images, index = make_images().images, torch.arange(40)
    address = {"seed": 0, "stage": 0, "epoch": 0, "view": 0}
    first = AUGMENTATIONS["crop"](images, index, **address)
    second = AUGMENTATIONS["crop"](images, index, **{**address, part: 1})
    same = (first == second).flatten(1).all(1).sum()
    assert same < 15  # one in nine by chance


def test_normalise_is_the_formula(make_images: Make) -> None:
    images = make_images().images
    mean, std = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)
    result = normalise(images, mean, std)
    for channel in range(3):
        expected = (images[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(result[:, channel].double(), expected, rtol=1e-6, atol=1e-6)
    assert result.dtype == torch.float32
    assert normalise(images, torch.tensor(mean), torch.tensor(std)).equal(result)
    assert normalise(images, mean, std, torch.bfloat16).equal(result.bfloat16())
    assert torch.cat([normalise(part, mean, std) for part in images.split(3)]).equal(result)


def test_normalise_in_channels_last(make_images: Make) -> None:
    images = make_images().images
    mean, std = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)
    result = normalise(images, mean, std, memory_format=torch.channels_last)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result.equal(normalise(images, mean, std))


def test_the_border_is_black_before_normalisation() -> None:
    images = torch.full((64, 1, 8, 8), 255, dtype=torch.uint8)
    cropped = AUGMENTATIONS["crop"](images, torch.arange(64), seed=0, stage=0, epoch=0)
    assert set(normalise(cropped, [0.5], [0.5]).unique().tolist()) == {-1.0, 1.0}


def test_channel_statistics(make_images: Make) -> None:
    images = make_images(50)
    mean, std = channel_statistics(images)
    values = images.images.double() / 255
    torch.testing.assert_close(torch.tensor(mean), values.mean((0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(std), values.std((0, 2, 3), correction=0).float())
    normal = normalise(images.images, mean, std)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)


def test_a_constant_channel_normalises_to_zero(make_images: Make) -> None:
    images = make_images(channels=1)
    images.images.fill_(51)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)
    assert normalise(images.images, mean, std).abs().max() < 1e-6
