"""Random resized crops: boxes as a pure function of an address, and boxes cut out of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gkd.data.addressed_random import uniform

_ATTEMPTS = 10


_FIRST_DRAW = 32  # the first of 2 · _ATTEMPTS + 2 draw numbers


def random_resized_crop(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    stage: int,
    epoch: int,
    view: int = 0,
    min_area: float = 0.08,
    max_ratio: float = 4 / 3,
) -> Tensor:
    """A random box of the image, resized to the image's own size (bilinear).

    The boxes are those of :func:`random_boxes`. A box is never larger than the image, so nothing is
    shrunk and no antialiasing is needed.
    """
    sizes = torch.tensor(images.shape[2:], device=images.device).expand(len(images), 2)
    boxes = random_boxes(
        sizes, index, seed=seed, stage=stage, epoch=epoch, view=view, min_area=min_area, max_ratio=max_ratio
    )
    return resize_boxes(images, boxes)


def random_boxes(
    sizes: Tensor,
    index: Tensor,
    *,
    seed: int,
    stage: int,
    epoch: int,
    view: int = 0,
    min_area: float = 0.08,
    max_ratio: float = 4 / 3,
) -> Tensor:
    """The boxes that random resized crops cut, by the rule of torchvision's RandomResizedCrop.

    The area is uniform in [min_area, 1] of the image's, the ratio of width to height log-uniform in
    [1 / max_ratio, max_ratio]; of ten draws the first that fits inside the image is taken, and where none
    does, the largest centred box whose ratio is in the range. Szegedy et al., Going deeper with convolutions, 2015.

    Args:
        sizes: int64 ``[B, 2]``, each image's height and width in pixels.
        index: int64 ``[B]`` on the same device, each sample's number.

    Returns:
        int64 ``[B, 4]``: top, left, height, width; each box lies inside its image.
    """

    def draw(number: int) -> Tensor:
        return uniform(seed, stage, epoch, index, view=view, draw=_FIRST_DRAW + number).double()

    height, width = sizes.double().unbind(1)
    area = torch.stack([draw(i) for i in range(_ATTEMPTS)]) * (1 - min_area) + min_area
    ratio = torch.exp(
        (2 * torch.stack([draw(_ATTEMPTS + i) for i in range(_ATTEMPTS)]) - 1) * math.log(max_ratio)
    )
    widths = torch.round((area * height * width * ratio).sqrt())
    heights = torch.round((area * height * width / ratio).sqrt())
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    # The largest centred box: the image's own ratio, brought into the range.
    centred_ratio = (width / height).clamp(1 / max_ratio, max_ratio)
    box_width = torch.minimum(width, torch.round(height * centred_ratio)).clamp(min=1)
    box_height = torch.minimum(height, torch.round(width / centred_ratio)).clamp(min=1)
    first = fits.double().argmax(0, keepdim=True)  # argmax gives the first of equals
    some = fits.any(0)
    box_width = torch.where(some, widths.gather(0, first)[0], box_width)
    box_height = torch.where(some, heights.gather(0, first)[0], box_height)
    top = torch.where(some, draw(2 * _ATTEMPTS) * (height - box_height + 1), (height - box_height) / 2)
    left = torch.where(some, draw(2 * _ATTEMPTS + 1) * (width - box_width + 1), (width - box_width) / 2)
    return torch.stack([top.floor(), left.floor(), box_height, box_width], 1).long()


def resize_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """One box of each image, resized to the size of the images.

    Args:
        images: uint8 ``[B, C, H, W]``.
        boxes: int64 ``[B, 4]``: top, left, height, width, inside the image.

    Returns:
        uint8 ``[B, C, H, W]``; pixels beyond the box play no part, as if it had been cut out first.
    """
    if not len(images):
        return images.clone()
    size = images.shape[2:]
    grid = []
    for axis in (0, 1):
        start, length = boxes[:, axis, None].float(), boxes[:, 2 + axis, None].float()
        place = (torch.arange(size[axis], device=images.device) + 0.5) * length / size[axis] - 0.5
        place = start + torch.minimum(place.clamp(min=0), length - 1)  # [B, H] or [B, W], in pixels
        grid.append((2 * place + 1) / size[axis] - 1)  # as grid_sample counts: -1 to 1 from edge to edge
    rows, columns = grid
    where = torch.stack(
        [columns[:, None, :].expand(-1, size[0], -1), rows[:, :, None].expand(-1, -1, size[1])], 3
    )
    resized = functional.grid_sample(
        images.float(), where, mode="bilinear", padding_mode="border", align_corners=False
    )
    return resized.round().clamp(0, 255).to(torch.uint8)
