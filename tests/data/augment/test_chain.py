"""Augmentation against per-image references, and chains by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gkd.data import AUGMENTATIONS, ImageSet, augmentation, uniform
from tests.refusals import refused

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
    result = augmentation(name)(images, index, **address, view=2)
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
    result = augmentation("crop")(images, index, seed=0, stage=0, epoch=0)
    for i in range(6):
        top, left = (int(uniform(0, 0, 0, index, draw=d)[i] * 5) for d in (0, 1))
        assert result[i].equal(slow_crop(images[i], 2, top, left))


def test_every_offset_and_both_sides_occur_equally_often() -> None:
    """One bright pixel in the middle shows where each crop was cut."""
    num = 40_000
    images = torch.zeros(num, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 3, 3] = 255
    index = torch.arange(num)
    cropped = augmentation("crop")(images, index, seed=0, stage=0, epoch=0)
    position = torch.bincount(cropped.flatten(1).long().argmax(1), minlength=64).view(8, 8)
    assert position[2:5, 2:5].sum() == num
    assert (position[2:5, 2:5] - num / 9).abs().max() < 5 * (num / 9) ** 0.5
    flipped = augmentation("crop-flip")(images, index, seed=0, stage=0, epoch=0)
    changed = (flipped != cropped).flatten(1).any(1)
    assert changed.equal(uniform(0, 0, 0, index, draw=2) < 0.5)  # column 3 of 8 never mirrors onto itself
    assert abs(float(changed.double().mean()) - 0.5) < 0.0125


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_is_pure(make_images: Make, name: str) -> None:
    images = make_images(64).images
    before = images.clone()
    index = torch.arange(64) + 5
    augment = augmentation(name)
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
    first = augmentation("crop")(images, index, **address)
    second = augmentation("crop")(images, index, **{**address, part: 1})
    same = (first == second).flatten(1).all(1).sum()
    assert same < 15  # one in nine by chance


def test_cutout_blackens_a_square_around_every_pixel_equally_often() -> None:
    num = 20_000
    images = torch.full((num, 1, 8, 8), 255, dtype=torch.uint8)
    index = torch.arange(num)
    result = augmentation("cutout(size=0.25)")(images, index, seed=0, stage=0, epoch=0)
    black = (result == 0)[:, 0]
    top, left = ((uniform(0, 0, 0, index, draw=draw) * 8).long() - 1 for draw in (3, 4))
    for i in range(200):
        expected = torch.zeros(8, 8, dtype=torch.bool)
        for y in range(8):
            for x in range(8):
                expected[y, x] = top[i] <= y < top[i] + 2 and left[i] <= x < left[i] + 2
        assert black[i].equal(expected)
    assert black.flatten(1).sum(1).unique().tolist() == [1, 2, 4]  # what lies outside is lost
    share = black.double().mean(0)
    assert (share[:7, :7] - 4 / 64).abs().max() < 5 * (4 / 64 / num) ** 0.5
    assert (augmentation("cutout")(images[:, :, :6], index, seed=0, stage=0, epoch=0) == 0).any()


def test_links_of_a_chain_come_in_order_and_take_their_own_options(make_images: Make) -> None:
    images, index, address = (
        make_images(12, size=16).images,
        torch.arange(12),
        {"seed": 1, "stage": 0, "epoch": 2},
    )
    cropped = augmentation("crop-flip")(images, index, **address)
    chain = augmentation("crop-flip + cutout(size=0.25)+rand-augment(ops=1, magnitude=3)")
    assert [step.name for step in chain.steps] == ["crop", "flip", "cutout", "rand-augment"]
    assert [dict(step.options) for step in chain.steps] == [
        {},
        {},
        {"size": 0.25},
        {"ops": 1, "magnitude": 3},
    ]
    cut = augmentation("cutout(size=0.25)")(cropped, index, **address)
    last = augmentation("rand-augment(ops=1, magnitude=3)")(cut, index, **address)
    assert chain(images, index, **address).equal(last)
    assert augmentation("none")(images, index, **address).equal(images)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("crop-flop", "unknown-augmentation"),
        ("cutout(side=3)", "unknown-option"),
        ("crop-flip(size=3)", "unknown-option"),
        ("cutout(size=0)", "option-out-of-range"),
        ("random-resized-crop-flip(min_area=2)", "option-out-of-range"),
        ("random-resized-crop(max_ratio=0.5)", "option-out-of-range"),
        ("rand-augment(ops=1.5)", "option-out-of-range"),
        ("rand-augment(magnitude=31)", "option-out-of-range"),
        ("colour-jitter(hue=0.6)", "option-out-of-range"),
        ("colour-jitter(brightness=-0.1)", "option-out-of-range"),
        ("random-erasing(p=2)", "option-out-of-range"),
        ("random-erasing(fill=256)", "option-out-of-range"),
        ("random-erasing(fill=0.5)", "option-out-of-range"),
        ("random-erasing(min_area=0.5)", "option-out-of-range"),
        ("cutout(size=random)", "option-out-of-range"),
        ("trivial-augment(bins=31)", "unknown-option"),
        ("crop+mixup+flip", "mixup-not-last"),
        ("cutmix+flip", "mixup-not-last"),
        ("crop-flip+random-resized-crop", "resized-crop-not-first"),
        ("cutout(size)", "augmentation-form"),
        ("cutout(size=big)", "augmentation-form"),
        ("crop-flip+", "augmentation-form"),
        ("Crop Flip", "augmentation-form"),
    ],
)
def test_what_is_no_augmentation_is_refused(text: str, code: str) -> None:
    with refused(code):
        augmentation(text)
