"""TrivialAugment and AutoAugment's CIFAR-10 policy: tables against torchvision's, and each image's own draws."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from gkd.data import augmentation, uniform
from gkd.data.augment.auto_augment import (
    _OPERATIONS,
    _WIDE,
    CIFAR10,
    auto_strength,
    trivial_strengths,
)

ADDRESS = {"seed": 5, "stage": 0, "epoch": 1}
TRIVIAL = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
POLICY = dict(
    zip(
        _OPERATIONS,
        ("ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness", "Posterize",
         "Solarize", "AutoContrast", "Equalize", "Invert"),
        strict=True,
    )
)  # fmt: skip


def as_torchvision_says(name: str, magnitude: float) -> float:
    """A strength of ours as the magnitude of torchvision's operation."""
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return magnitude - 1
    return magnitude / 255 if name == "Solarize" else magnitude


def test_strengths_of_trivial_augment_are_torchvisions() -> None:
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    assert tuple(space) == TRIVIAL
    for name, levels in zip(TRIVIAL, trivial_strengths(), strict=True):
        make, signed = space[name]
        magnitudes = make(31, 32, 32)
        for level, (drawn, other) in enumerate(levels):
            expected = 0.0 if magnitudes is None else float(magnitudes[level])
            if magnitudes is not None:
                assert as_torchvision_says(name, drawn) == pytest.approx(expected, abs=1e-5)
                assert as_torchvision_says(name, other) == pytest.approx(
                    -expected if signed else expected, abs=1e-5
                )


def test_the_policy_is_torchvisions() -> None:
    transform = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    assert len(CIFAR10) == len(transform._policies) == 25
    for own, theirs in zip(CIFAR10, transform._policies, strict=True):
        for (name, probability, level), (their_name, their_probability, their_level) in zip(
            own, theirs, strict=True
        ):
            assert (POLICY[name], probability, level) == (their_name, their_probability, their_level or 0)


@pytest.mark.parametrize("name", _OPERATIONS)
def test_strengths_of_the_policy_are_torchvisions(name: str) -> None:
    make, signed = v2.AutoAugment._AUGMENTATION_SPACE[POLICY[name]]
    magnitudes = make(10, 20, 32)
    for level in range(10) if magnitudes is not None else ():
        drawn, other = auto_strength(name, level, 20, 32)
        expected = float(magnitudes[level])
        assert as_torchvision_says(POLICY[name], drawn) == pytest.approx(expected, abs=1e-5)
        assert as_torchvision_says(POLICY[name], other) == pytest.approx(
            -expected if signed else expected, abs=1e-5
        )


def test_trivial_augment_does_what_each_image_drew() -> None:
    images, index = torch.randint(0, 256, (400, 3, 8, 8), dtype=torch.uint8), torch.arange(400) + 7
    result = augmentation("trivial-augment")(images, index, **ADDRESS)
    draws = [uniform(**ADDRESS, index=index, draw=144 + number) for number in range(3)]
    strengths, seen = trivial_strengths(), set()
    for row in range(400):
        which, level, sign = (float(draw[row]) for draw in draws)
        number = int(which * 14)
        strength = strengths[number][int(level * 31)][sign < 0.5]
        seen.add(number)
        alone = _WIDE[number][0](images[row : row + 1], torch.tensor([strength], dtype=torch.float64))
        assert result[row].equal(alone[0])
    assert seen == set(range(14))


def test_auto_augment_does_what_each_image_drew() -> None:
    images, index = torch.randint(0, 256, (300, 3, 8, 12), dtype=torch.uint8), torch.arange(300) + 7
    result = augmentation("auto-augment")(images, index, **ADDRESS)
    draws = [uniform(**ADDRESS, index=index, draw=152 + number) for number in range(5)]
    seen = set()
    for row in range(300):
        policy, *chances = (float(draw[row]) for draw in draws)
        image = images[row : row + 1]
        for place in (0, 1):
            name, probability, level = CIFAR10[int(policy * 25)][place]
            if chances[place] < probability:
                strength = auto_strength(name, level, 8, 12)[chances[2 + place] < 0.5]
                image = _OPERATIONS[name][0](image, torch.tensor([strength], dtype=torch.float64))
        seen.add(int(policy * 25))
        assert result[row].equal(image[0])
    assert seen == set(range(25))
