"""Colour jitter on a batch: brightness, contrast, saturation and hue of each image changed in an order of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd.data.addressed_random import uniform
from gkd.data.augment import operations as of

_FIRST_DRAW = 96  # the first of eight draw numbers: a strength and a place in the order for each operation


def colour_jitter(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    stage: int,
    epoch: int,
    view: int = 0,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
) -> Tensor:
    """Brightness, contrast and saturation by factors around 1, the hue turned, in a drawn order.

    A factor is uniform in [1 - x, 1 + x], the turn of the hue in [-x, x] of the circle; 0 leaves an operation out. The
    operations are those of torchvision's ColorJitter. The three of 0.4 are those of fb.resnet.torch, which few-shot
    papers took over (Chen et al., A Closer Look at Few-shot Classification, ICLR 2019, code).
    """
    ranges = {  # operation -> middle and half the width
        of.brightness: (1.0, brightness),
        of.contrast: (1.0, contrast),
        of.saturation: (1.0, saturation),
        of.hue: (0.0, hue),
    }
    draws = [
        uniform(seed, stage, epoch, index, view=view, draw=_FIRST_DRAW + number).double()
        for number in range(8)
    ]
    strengths = torch.stack(
        [
            middle + half * (2 * draw - 1)
            for (middle, half), draw in zip(ranges.values(), draws[:4], strict=True)
        ]
    )
    order = torch.stack(draws[4:]).argsort(dim=0, stable=True)  # [4, B]: which operation comes at each place
    used = torch.tensor([half > 0 for _, half in ranges.values()], device=images.device)
    for chosen in order.unbind(0):
        strength = strengths.gather(0, chosen.unsqueeze(0))[0]
        images = of.apply_each(tuple(ranges), images, torch.where(used[chosen], chosen, -1), strength)
    return images
