"""TrivialAugment and AutoAugment's policy for CIFAR-10 on a batch: every image draws its operations and strengths."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd.data.addressed_random import uniform
from gkd.data.augment import operations as of

# The first draw numbers: of TrivialAugment three, of AutoAugment five.
_TRIVIAL_DRAW, _AUTO_DRAW = 144, 152

# operation, unit, its largest strength in TrivialAugment's wide space (Müller & Hutter, ICCV 2021, the space "Wide"),
# whether the sign is drawn. A factor is 1 + strength; bits and thresholds fall from 8 and 255 as the strength grows.
_WIDE: tuple[tuple[of.Operation, str, float, bool], ...] = (
    (of.identity, "", 0.0, False),
    (of.shear_x, "", 0.99, True),
    (of.shear_y, "", 0.99, True),
    (of.translate_x, "", 32.0, True),
    (of.translate_y, "", 32.0, True),
    (of.rotate, "", 135.0, True),
    (of.brightness, "factor", 0.99, True),
    (of.saturation, "factor", 0.99, True),
    (of.contrast, "factor", 0.99, True),
    (of.sharpness, "factor", 0.99, True),
    (of.posterise, "bits", 6.0, False),
    (of.solarise, "threshold", 255.0, False),
    (of.auto_contrast, "", 0.0, False),
    (of.equalise, "", 0.0, False),
)
_BINS = 31


def trivial_augment(
    images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0
) -> Tensor:
    """TrivialAugment (wide): one of 14 operations, with one of 31 strengths, both drawn for each image.

    Operations and strengths are those of torchvision's TrivialAugmentWide: shears up to a slope of 0.99, translations
    up to 32 pixels, rotations up to 135 degrees, factors from 0.01 to 1.99, 8 to 2 bits, thresholds from 255 to 0.
    Müller & Hutter, ICCV 2021, arXiv 2103.10158.
    """
    which, level, sign = (
        uniform(seed, stage, epoch, index, view=view, draw=_TRIVIAL_DRAW + number) for number in range(3)
    )
    chosen = (which * len(_WIDE)).long()
    levels = (level * _BINS).long()
    table = torch.tensor(trivial_strengths(), dtype=torch.float64, device=images.device)
    negative = (sign < 0.5).long()
    return of.apply_each(tuple(row[0] for row in _WIDE), images, chosen, table[chosen, levels, negative])


def trivial_strengths() -> list[list[list[float]]]:
    """The strength of each operation at each of the 31 levels, as drawn and with the other sign."""
    table = []
    for _, unit, largest, signed in _WIDE:
        levels = [largest * level / (_BINS - 1) for level in range(_BINS)]
        table.append([[_in_unit(unit, each), _in_unit(unit, -each if signed else each)] for each in levels])
    return table


def _in_unit(unit: str, strength: float) -> float:
    if unit == "factor":
        return 1 + strength
    if unit == "bits":
        return 8 - round(strength)
    return 255 - strength if unit == "threshold" else strength


# the policy's word -> operation, unit, the largest of ten strengths, whether the sign is drawn (Cubuk et al., CVPR
# 2019, appendix; translations are shares of the side, 150 of 331 pixels).
_OPERATIONS: dict[str, tuple[of.Operation, str, float, bool]] = {
    "shear-y": (of.shear_y, "", 0.3, True),
    "translate-x": (of.translate_x, "width", 150 / 331, True),
    "translate-y": (of.translate_y, "height", 150 / 331, True),
    "rotate": (of.rotate, "", 30.0, True),
    "brightness": (of.brightness, "factor", 0.9, True),
    "colour": (of.saturation, "factor", 0.9, True),
    "contrast": (of.contrast, "factor", 0.9, True),
    "sharpness": (of.sharpness, "factor", 0.9, True),
    "posterise": (of.posterise, "bits", 4.0, False),
    "solarise": (of.solarise, "threshold", 255.0, False),
    "auto-contrast": (of.auto_contrast, "", 0.0, False),
    "equalise": (of.equalise, "", 0.0, False),
    "invert": (of.invert, "", 0.0, False),
}
_LEVELS = 9  # the largest magnitude

# The 25 sub-policies: (operation, probability, magnitude of 9), twice (Cubuk et al., CVPR 2019, appendix: the policy
# found on reduced CIFAR-10). Operations without a strength have magnitude 0 here.
CIFAR10 = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("auto-contrast", 0.5, 0), ("equalise", 0.9, 0)),
    (("shear-y", 0.2, 7), ("posterise", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalise", 0.6, 0), ("equalise", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalise", 0.3, 0), ("auto-contrast", 0.4, 0)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarise", 0.5, 2), ("invert", 0.0, 0)),
    (("equalise", 0.2, 0), ("auto-contrast", 0.6, 0)),
    (("equalise", 0.2, 0), ("equalise", 0.6, 0)),
    (("colour", 0.9, 9), ("equalise", 0.6, 0)),
    (("auto-contrast", 0.8, 0), ("solarise", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarise", 0.4, 5), ("auto-contrast", 0.9, 0)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("auto-contrast", 0.9, 0), ("solarise", 0.8, 3)),
    (("equalise", 0.8, 0), ("invert", 0.1, 0)),
    (("translate-y", 0.7, 9), ("auto-contrast", 0.9, 0)),
)


def auto_augment(
    images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0
) -> Tensor:
    """AutoAugment's policy for CIFAR-10: one of 25 pairs of operations, each done with its probability.

    Strengths are those of torchvision's AutoAugment, whose signs are drawn (nearest neighbours, black outside the
    image). Cubuk et al., CVPR 2019, arXiv 1805.09501; the paper uses it for CIFAR-100, too.
    """
    height, width = images.shape[2:]
    drawn = [uniform(seed, stage, epoch, index, view=view, draw=_AUTO_DRAW + number) for number in range(5)]
    policy = (drawn[0] * len(CIFAR10)).long()
    names = list(_OPERATIONS)
    functions = tuple(row[0] for row in _OPERATIONS.values())
    device = images.device
    for place in (0, 1):
        steps = [pair[place] for pair in CIFAR10]
        chosen = torch.tensor([names.index(name) for name, _, _ in steps], device=device)[policy]
        probability = torch.tensor([share for _, share, _ in steps], device=device)[policy]
        signs = [auto_strength(name, level, height, width) for name, _, level in steps]
        negative = (drawn[3 + place] < 0.5).long()
        strength = torch.tensor(signs, dtype=torch.float64, device=device)[policy, negative]
        chosen = torch.where(drawn[1 + place] < probability, chosen, -1)
        images = of.apply_each(functions, images, chosen, strength)
    return images


def auto_strength(name: str, level: int, height: int, width: int) -> tuple[float, float]:
    """The strength of an operation of the policy at a magnitude from 0 to 9, as drawn and with the other sign."""
    _, unit, largest, signed = _OPERATIONS[name]
    strength = largest * level / _LEVELS * {"width": width, "height": height}.get(unit, 1)
    return _in_unit(unit, strength), _in_unit(unit, -strength if signed else strength)
