"""RandAugment against torchvision's, operation by operation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from gkd.data import augmentation, uniform
from gkd.data.augment.rand_augment import _OPERATIONS

ADDRESS = {"seed": 5, "stage": 0, "epoch": 1}
NAMES = dict(
    zip(
        _OPERATIONS,
        ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
         "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
        strict=True,
    )
)  # fmt: skip


def torchvisions(name: str, magnitude: int, image: Tensor, *, negative: bool) -> Tensor:
    """One operation of torchvision's RandAugment, with a sign that we choose."""
    transform = v2.RandAugment(num_ops=1, magnitude=magnitude)
    space = {name: v2.RandAugment._AUGMENTATION_SPACE[name]}
    transform._AUGMENTATION_SPACE = space
    with torch.random.fork_rng():
        for seed in range(100):
            torch.manual_seed(seed)
            torch.randint(1, ())  # the choice of the operation
            if (float(torch.rand(())) <= 0.5) == negative:
                torch.manual_seed(seed)
                return transform(image)
    raise AssertionError


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_torchvisions(name: str, channels: int) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, channels, 14, 18), dtype=torch.uint8)
    signed, operation = _OPERATIONS[name]
    for magnitude, negative in itertools.product((0, 9, 15, 30), (False, True) if signed else (False,)):
        own = operation(images, magnitude / 30 * (-1 if negative else 1))
        for image, result in zip(images, own, strict=True):
            expected = torchvisions(NAMES[name], magnitude, image, negative=negative)
            difference = (result.int() - expected.int()).abs()
            # Its strengths are float32, ours Python's floats: a level may be rounded to its neighbour.
            assert int(difference.max()) <= 1
            assert float((difference > 0).double().mean()) < 0.2


def test_every_image_goes_through_the_operations_that_it_drew() -> None:
    images = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
    index = torch.arange(200) + 7
    result = augmentation("rand-augment(ops=3, magnitude=12)")(images, index, **ADDRESS)
    names = list(_OPERATIONS)
    seen = set()
    for i in range(200):
        expected = images[i : i + 1]
        for number in range(3):
            which, sign = (
                float(uniform(**ADDRESS, index=index, draw=64 + 2 * number + d)[i]) for d in (0, 1)
            )
            signed, operation = _OPERATIONS[names[int(which * 14)]]
            expected = operation(expected, 12 / 30 * (-1 if signed and sign < 0.5 else 1))
            seen.add(names[int(which * 14)])
        assert result[i].equal(expected[0])
    assert seen == set(names)
