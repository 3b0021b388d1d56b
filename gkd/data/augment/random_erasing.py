"""Random erasing on a batch: a box of an image filled with noise or with one level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gkd.data.addressed_random import PURPOSE_AUGMENT, hashed, key_of, uniform
from gkd.data.augment.link import RANDOM

_ATTEMPTS = 10
_FIRST_DRAW = 112  # the first of 2 · _ATTEMPTS + 3 draw numbers; the next one is the noise's


def random_erasing(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    stage: int,
    epoch: int,
    view: int = 0,
    p: float = 0.5,
    min_area: float = 0.02,
    max_area: float = 0.4,
    max_ratio: float = 10 / 3,
    fill: float | str = RANDOM,
) -> Tensor:
    """A box of the image filled with noise, or with a level from 0 to 255, with probability p.

    The box has a share of the image's area in [min_area, max_area] and a ratio of height to width between
    1 / max_ratio and max_ratio, uniform in its logarithm as torchvision draws it; of ten boxes the first that is
    smaller than the image is taken, and where none is, nothing. The defaults are the paper's: Zhong et al., Random
    Erasing Data Augmentation, AAAI 2020, arXiv 1708.04896.
    """
    address = (seed, stage, epoch)
    boxes = erased_boxes(
        images.shape[2:], index, address, view=view, min_area=min_area, max_area=max_area, max_ratio=max_ratio
    )
    chosen = uniform(*address, index, view=view, draw=_FIRST_DRAW) < p
    return fill_boxes(images, boxes * chosen[:, None], _noise(images, index, address, view, fill))


def erased_boxes(
    size: tuple[int, ...],
    index: Tensor,
    address: tuple[int, int, int],
    *,
    view: int,
    min_area: float,
    max_area: float,
    max_ratio: float,
) -> Tensor:
    """int64 ``[B, 4]``: top, left, height, width of each sample's box, inside the image; all 0 where none fits."""

    def draw(number: int) -> Tensor:
        return uniform(*address, index, view=view, draw=_FIRST_DRAW + 1 + number).double()

    height, width = size
    area = torch.stack([draw(i) for i in range(_ATTEMPTS)]) * (max_area - min_area) + min_area
    ratio = (2 * torch.stack([draw(_ATTEMPTS + i) for i in range(_ATTEMPTS)]) - 1) * math.log(max_ratio)
    heights = torch.round((area * height * width * ratio.exp()).sqrt())
    widths = torch.round((area * height * width / ratio.exp()).sqrt())
    fits = (heights < height) & (widths < width)
    first = fits.double().argmax(0, keepdim=True)  # argmax gives the first of equals
    box_height, box_width = (sizes.gather(0, first)[0] for sizes in (heights, widths))
    top = draw(2 * _ATTEMPTS) * (height - box_height + 1)
    left = draw(2 * _ATTEMPTS + 1) * (width - box_width + 1)
    boxes = torch.stack([top.floor(), left.floor(), box_height, box_width], 1).long()
    return boxes * fits.any(0)[:, None]


def fill_boxes(images: Tensor, boxes: Tensor, content: Tensor) -> Tensor:
    """The images with ``content``, uint8 of their shape or broadcast to it, in their boxes ``[B, 4]``."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    top, left, height, width = (part[:, None] for part in boxes.unbind(1))
    down = (rows >= top) & (rows < top + height)
    right = (columns >= left) & (columns < left + width)
    return torch.where((down[:, :, None] & right[:, None, :])[:, None], content, images)


def _noise(
    images: Tensor, index: Tensor, address: tuple[int, int, int], view: int, fill: float | str
) -> Tensor:
    """What is filled in: uint8 of the images' shape, uniform over all levels, or one level."""
    if fill != RANDOM:
        return torch.full((1, 1, 1, 1), int(fill), dtype=torch.uint8, device=images.device)
    count = images[0].numel() if len(images) else 0
    words = -(-count // 8)  # a hash has eight bytes, each of which is a level
    key = key_of(PURPOSE_AUGMENT, *address, view, _FIRST_DRAW + 2 * _ATTEMPTS + 3)
    places = index[:, None] * words + torch.arange(words, device=images.device)
    levels = hashed(key, places).view(torch.uint8)
    return levels[:, :count].reshape(images.shape)
