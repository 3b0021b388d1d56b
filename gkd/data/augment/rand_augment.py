"""RandAugment on a batch: every image draws its operations, each computed once for all images that drew it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gkd.data.addressed_random import uniform
from gkd.data.image_operations import image_operations

_FIRST_DRAW = 64  # the first draw number; each operation takes two


_LEVELS = 30  # the largest magnitude


def _affine(images: Tensor, *, angle: float = 0.0, translate: tuple[int, int] = (0, 0),
            shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:  # fmt: skip
    # Shears turn about the upper left corner, as torchvision's RandAugment does (after its paper's code).
    centre = [0.0, 0.0] if any(shear) else None
    return image_operations().affine(
        images, angle=angle, translate=list(translate), scale=1.0, shear=list(shear), center=centre
    )


def _degrees(slope: float) -> float:
    return math.degrees(math.atan(slope))


# name -> (whether the sign is drawn, a function of images and the signed strength in [-1, 1])
_OPERATIONS: dict[str, tuple[bool, Callable[[Tensor, float], Tensor]]] = {
    "identity": (False, lambda images, _: images),
    "shear-x": (True, lambda images, by: _affine(images, shear=(_degrees(0.3 * by), 0.0))),
    "shear-y": (True, lambda images, by: _affine(images, shear=(0.0, _degrees(0.3 * by)))),
    "translate-x": (
        True,
        lambda images, by: _affine(images, translate=(int(150 / 331 * images.shape[3] * by), 0)),
    ),
    "translate-y": (
        True,
        lambda images, by: _affine(images, translate=(0, int(150 / 331 * images.shape[2] * by))),
    ),
    "rotate": (True, lambda images, by: image_operations().rotate(images, 30.0 * by)),
    "brightness": (True, lambda images, by: image_operations().adjust_brightness(images, 1 + 0.9 * by)),
    "colour": (True, lambda images, by: image_operations().adjust_saturation(images, 1 + 0.9 * by)),
    "contrast": (True, lambda images, by: image_operations().adjust_contrast(images, 1 + 0.9 * by)),
    "sharpness": (True, lambda images, by: image_operations().adjust_sharpness(images, 1 + 0.9 * by)),
    "posterise": (False, lambda images, by: image_operations().posterize(images, 8 - round(4 * by))),
    "solarise": (False, lambda images, by: image_operations().solarize(images, 255.0 * (1 - by))),
    "auto-contrast": (False, lambda images, _: image_operations().autocontrast(images)),
    "equalise": (False, lambda images, _: image_operations().equalize(images)),
}


def rand_augment(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    stage: int,
    epoch: int,
    view: int = 0,
    ops: int = 2,
    magnitude: int = 9,
) -> Tensor:
    """RandAugment: some of 14 operations one after the other, drawn for each image, all of one strength.

    The operations, their strengths at ``magnitude`` of 30 and their defaults are those of torchvision's
    RandAugment (nearest neighbours, black outside the image). Each of the ``ops`` rounds reads its draws on the
    host, which waits for a GPU. Cubuk et al., CVPR Workshops 2020, arXiv 1909.13719.
    """
    names = list(_OPERATIONS)
    result = images.clone()
    for number in range(ops):
        draws = [
            uniform(seed, stage, epoch, index, view=view, draw=_FIRST_DRAW + 2 * number + i) for i in (0, 1)
        ]
        # One code for operation and sign: images with the same code are computed together.
        chosen = 2 * (draws[0] * len(names)).long() + (draws[1] < 0.5)
        for code in chosen.unique().tolist():
            signed, operation = _OPERATIONS[names[code // 2]]
            strength = magnitude / _LEVELS * (-1 if signed and code % 2 else 1)
            rows = torch.nonzero(chosen == code).flatten()
            result[rows] = operation(result[rows], strength)
    return result
