"""Operations with a strength for each image, against torchvision's with the same strength."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from gkd.data.augment import operations as of


def affine(image: Tensor, *, shear: tuple[float, float] = (0.0, 0.0), by: tuple[int, int] = (0, 0)) -> Tensor:
    slopes = [float(torch.tensor(slope, dtype=torch.float64).atan().rad2deg()) for slope in shear]
    centre = [0.0, 0.0] if any(shear) else None
    return v2.affine(image, angle=0.0, translate=list(by), scale=1.0, shear=slopes, center=centre)


# operation -> torchvision's on one image, and strengths
REFERENCES: dict[of.Operation, tuple[Callable[[Tensor, float], Tensor], list[float]]] = {
    of.brightness: (v2.adjust_brightness, [0.0, 0.37, 1.0, 1.9]),
    of.saturation: (v2.adjust_saturation, [0.0, 0.37, 1.0, 1.9]),
    of.contrast: (v2.adjust_contrast, [0.0, 0.37, 1.0, 1.9]),
    of.sharpness: (v2.adjust_sharpness, [0.0, 0.37, 1.0, 1.9]),
    of.hue: (v2.adjust_hue, [-0.5, -0.21, 0.0, 0.33]),
    of.posterise: (lambda image, by: v2.posterize(image, int(by)), [0, 2, 5, 8]),
    of.solarise: (v2.solarize, [0.0, 100.5, 128.0, 255.0]),
    of.invert: (lambda image, _: v2.invert(image), [0.0, 0.0, 0.0, 0.0]),
    of.auto_contrast: (lambda image, _: v2.autocontrast(image), [0.0, 0.0, 0.0, 0.0]),
    of.equalise: (lambda image, _: v2.equalize(image), [0.0, 0.0, 0.0, 0.0]),
    of.identity: (lambda image, _: image, [0.0, 0.0, 0.0, 0.0]),
    of.shear_x: (lambda image, by: affine(image, shear=(by, 0.0)), [-0.99, -0.133, 0.0, 0.27]),
    of.shear_y: (lambda image, by: affine(image, shear=(0.0, by)), [-0.99, -0.133, 0.0, 0.27]),
    of.translate_x: (lambda image, by: affine(image, by=(int(by), 0)), [-30.0, -4.7, 0.0, 5.9]),
    of.translate_y: (lambda image, by: affine(image, by=(0, int(by))), [-30.0, -4.7, 0.0, 5.9]),
    of.rotate: (lambda image, by: v2.rotate(image, by), [-135.0, -7.5, 0.0, 43.0]),
}
MOVES = {of.shear_x, of.shear_y, of.translate_x, of.translate_y, of.rotate}


@pytest.mark.parametrize("size", [(14, 18), (9, 11)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", REFERENCES, ids=lambda operation: operation.__name__)
def test_every_operation_is_torchvisions(
    operation: of.Operation, channels: int, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, channels, *size), dtype=torch.uint8, generator=generator)
    reference, strengths = REFERENCES[operation]
    result = operation(images, torch.tensor(strengths, dtype=torch.float64))
    assert result.dtype == torch.uint8
    for image, own, by in zip(images, result, strengths, strict=True):
        expected = reference(image, by)
        difference = (own.int() - expected.int()).abs()
        if operation in MOVES:  # a source between two pixels may be rounded to either
            assert float((difference > 0).double().mean()) <= 0.02
        else:  # a level may be rounded to its neighbour
            assert int(difference.max()) <= 1
            assert float((difference > 0).double().mean()) <= 0.02
        if operation not in (of.identity, of.auto_contrast, of.saturation, of.hue, of.sharpness) and by not in (
            0.0, 1.0, 8, 255.0,
        ):  # fmt: skip
            assert not own.equal(image)


def test_an_image_of_edges_alone_is_not_sharpened() -> None:
    images = torch.randint(0, 256, (4, 3, 2, 9), dtype=torch.uint8)
    assert of.sharpness(images, torch.full((4,), 1.9)).equal(images)


@pytest.mark.parametrize("operation", REFERENCES, ids=lambda operation: operation.__name__)
def test_an_image_does_not_depend_on_its_batch(operation: of.Operation) -> None:
    images = torch.randint(0, 256, (40, 3, 9, 11), dtype=torch.uint8)
    strengths = torch.tensor(REFERENCES[operation][1], dtype=torch.float64).repeat(10)
    whole = operation(images, strengths)
    for size in (1, 7):
        parts = [operation(*part) for part in zip(images.split(size), strengths.split(size), strict=True)]
        assert torch.cat(parts).equal(whole)


def test_images_go_through_what_they_drew() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    chosen, strength = torch.tensor([0, 1, -1, 1, 0, -1]), torch.linspace(0.1, 2, 6, dtype=torch.float64)
    result = of.apply_each((of.brightness, of.invert), images, chosen, strength)
    for row, which in enumerate(chosen.tolist()):
        alone = images[row : row + 1]
        expected = (of.brightness, of.invert)[which](alone, strength[row : row + 1]) if which >= 0 else alone
        assert result[row].equal(expected[0])
