"""Normalisation and channel statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gkd.data import ImageSet, augmentation, channel_statistics, normalise

Make = Callable[..., ImageSet]


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
    cropped = augmentation("crop")(images, torch.arange(64), seed=0, stage=0, epoch=0)
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
